"""The frozen language model that writes the transcript: any `AutoModelForCausalLM` with a chat template.

Dimensions: N positions of all clips together, K target positions, V vocabulary, W decoder width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ..errors import UserError
from ..prompt import Prompt
from .kernels import Kernel
from .lora import set_lora_dropout
from .packing import PACKED_ATTENTION, PackedLayout, unused_mask
from .weights import fingerprint, hub_arguments, loading, quiet_transformers, require_finite, resolve

logger = logging.getLogger(__name__)

MAX_LOGITS = 1 << 24  # at once: 110 rows at a vocabulary of 150,000, 64 MB in fp32


class TargetLoss(torch.autograd.Function):
    """Cross-entropy of hidden states (K, W) under a frozen head, some rows at a time.

    The gradient of a row is worked out as soon as its logits are there, so that they can be forgotten: at a vocabulary
    of 150,000 logits and all that the backward pass keeps of them would be most of a step's memory.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
        """Return the loss, summed, in fp32."""
        total = torch.zeros((), device=hidden.device)
        gradients = []
        size = max(1, MAX_LOGITS // head.weight.shape[0])
        for rows, expected in zip(hidden.detach().split(size), targets[:, None].split(size), strict=True):
            logits = head(rows).float()
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += (normaliser - logits.gather(1, expected)).sum()
            if ctx.needs_input_grad[0]:  # softmax, less 1 at the target; written over the logits
                by_logit = logits.sub_(normaliser).exp_()
                by_logit.scatter_add_(1, expected, by_logit.new_full(expected.shape, -1.0))
                gradients.append((by_logit.to(head.weight.dtype) @ head.weight).to(rows.dtype))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Scale what was kept."""
        return torch.cat(ctx.saved_tensors) * gradient, None, None


class Decoder(nn.Module):
    """A causal language model and its prompt; frozen, but for adapters that are put on it.

    Attributes:
        decoder_dim: width of its embeddings.
        name, revision: where the weights came from; the revision is a commit on the Hub, None for a folder.
        fingerprint: of the weights, wherever they came from.
        kernel: of packed attention; None: padded inside the op.
    """

    kernel: Kernel | None = None

    def __init__(self, module: Any, prompt: Prompt, name: str) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.prompt = prompt
        self.name = name
        self.revision: str | None = getattr(module.config, "_commit_hash", None)
        self.fingerprint = fingerprint(module)
        self.decoder_dim = int(module.get_input_embeddings().weight.shape[1])
        self._bare_head = self._has_bare_head()
        self.end_ids = {prompt.eos_id, *_as_list(module.generation_config.eos_token_id)}
        # The model's own settings (sampling, repetition penalties) would be mixed into every call.
        module.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=sorted(self.end_ids), pad_token_id=prompt.pad_id
        )

    def train(self, mode: bool = True) -> Decoder:
        """Stay in evaluation mode, whatever `mode`, but for the dropout of adapters: the decoder is frozen."""
        super().train(False)
        set_lora_dropout(self.module, mode)
        return self

    @property
    def layers(self) -> list[nn.Module]:
        """Its transformer layers, all alike."""
        return [block for block in self.module.modules() if type(block).__name__ in self.module._no_split_modules]

    @property
    def embedding_rms(self) -> float:
        """Root mean square of the token embeddings: the scale that an audio token should have."""
        return float(self.module.get_input_embeddings().weight.detach().float().square().mean().sqrt())

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embed (N,) token ids into (N, W)."""
        return self.module.get_input_embeddings()(token_ids)

    def logits(self, embeddings: Tensor, lengths: list[int], positions: Tensor) -> Tensor:
        """Read packed clips, and write logits where they are wanted only.

        At a vocabulary of 150,000 the head of all positions would cost more memory than the rest of the step.

        Args:
            embeddings: (N, W), the clips one after another.
            lengths: positions of each clip, summing to N.
            positions: (K,) int64, where in the row logits are wanted.

        Returns:
            (K, V) logits.
        """
        logits: Tensor = self._read(self.module, embeddings, lengths, logits_to_keep=positions).logits[0]
        return logits

    def loss(self, embeddings: Tensor, lengths: list[int], positions: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of K targets, summed, in fp32.

        It is that of `logits`, but they are never there all at once: see `TargetLoss`.

        Args:
            embeddings, lengths, positions: see `logits`.
            targets: (K,) int64.
        """
        head = self.module.get_output_embeddings()
        # A gradient worked out ahead in fp16 would be lost to underflow before the loss scale comes to it.
        apart = self._bare_head and type(head) is nn.Linear and not head.weight.requires_grad
        if not apart or embeddings.dtype == torch.float16:
            return cross_entropy(self.logits(embeddings, lengths, positions).float(), targets, reduction="sum")
        hidden = self._read(self.module.base_model, embeddings, lengths).last_hidden_state[0]
        return TargetLoss.apply(hidden.index_select(0, positions), head, targets)

    def _read(self, module: Any, embeddings: Tensor, lengths: list[int], **options: Any) -> Any:
        layout = PackedLayout.of(lengths, embeddings.device, self.kernel)
        return module(
            inputs_embeds=embeddings[None],
            position_ids=layout.position_ids,
            attention_mask=unused_mask(embeddings.device),
            packed_layout=layout,
            use_cache=False,
            **options,
        )

    @torch.no_grad()
    def _has_bare_head(self) -> bool:
        """Whether logits are what the output embeddings make of hidden states, not scaled or capped afterwards."""
        row = torch.randn(4, self.decoder_dim, generator=torch.Generator().manual_seed(0))
        row = row.to(self.module.device, self.module.dtype)
        hidden = self._read(self.module.base_model, row, [4]).last_hidden_state[0]
        return torch.equal(self.module.get_output_embeddings()(hidden), self.logits(row, [4], torch.arange(4)))

    @torch.no_grad()
    def keeps_clips_apart(self) -> bool:
        """Whether packed clips are read as if they were alone.

        Not every model hands the layout on to its attention, and some mix neighbours by convolution or recurrence.
        Whatever changes in one clip, the logits of another, and those before it, must stay the same to the bit.
        """
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(16, self.decoder_dim, generator=generator).to(self.module.device, self.module.dtype)
        changed = torch.cat([row[:3], row[12:], row[7:12]])  # another end of the first clip
        untouched = torch.tensor([0, 1, 2, 7, 8, 9, 10, 11])
        return torch.equal(self.logits(row[:12], [7, 5], untouched), self.logits(changed, [7, 5], untouched))

    @torch.no_grad()
    def generate(self, clips: Sequence[Tensor], max_new_tokens: Sequence[int]) -> list[list[int]]:
        """Write greedily after each clip's embeddings.

        Args:
            clips: embeddings (N_i, W) of each clip.
            max_new_tokens: at most this many tokens for each clip. The limit is the clip's own, so that what is
                written after one clip does not depend on which others it is decoded with.

        Returns:
            The new tokens of each clip, up to and without the end of the turn.
        """
        reverse = pad_sequence([clip.flip(0) for clip in clips], batch_first=True)
        mask = pad_sequence([torch.ones(len(clip), dtype=torch.long) for clip in clips], batch_first=True)
        with torch.compiler.set_stance("force_eager"):  # a growing cache would be compiled anew at each token
            written = self.module.generate(
                inputs_embeds=reverse.flip(1),  # padded on the left
                attention_mask=mask.flip(1).to(reverse.device),
                max_new_tokens=max(max_new_tokens),
            ).tolist()
        return [_until(row[:limit], self.end_ids) for row, limit in zip(written, max_new_tokens, strict=True)]


def load_prompt(name: str, revision: str | None, instruction: str) -> Prompt:
    """Load a decoder's tokenizer alone, as the prompt around the audio.

    Args:
        name, revision, instruction: see `load_decoder`.

    Raises:
        UserError: it cannot be fetched or read, or has no chat template.
    """
    source = resolve("decoder", name)
    with loading("decoder", name), quiet_transformers(source):
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_arguments(source, revision))
    return Prompt(tokenizer, instruction)


def load_decoder(name: str, revision: str | None, instruction: str, dtype: torch.dtype) -> Decoder:
    """Load a frozen decoder with its tokenizer.

    Args:
        name: a Hub id, a folder or `pocket`.
        revision: commit, tag or branch on the Hub.
        instruction: what the prompt asks for.
        dtype: precision of the weights.

    Raises:
        UserError: it cannot be fetched or read, has no chat template, or cannot read packed clips.
    """
    source = resolve("decoder", name)
    with loading("decoder", name), quiet_transformers(source):
        where = hub_arguments(source, revision)
        config = AutoConfig.from_pretrained(source, **where)
        logger.info("Loading %s decoder (%s)...", config.model_type.capitalize(), name)
        prompt = load_prompt(name, revision, instruction)
        module = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, attn_implementation=PACKED_ATTENTION, **where
        )
    require_finite("decoder", name, module)
    decoder = Decoder(module, prompt, name)
    if not decoder.keeps_clips_apart():
        raise UserError(
            f"model.decoder={name}: a {config.model_type} model does not keep the clips of a batch apart, so it "
            "cannot be used; Qwen2, Qwen3, Llama, Mistral and Gemma 3 models do."
        )
    return decoder


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else ids


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[:i] for i, token in enumerate(ids) if token in ends), ids)
