"""The frozen language model that writes the transcript: any `AutoModelForCausalLM` with a chat template.

Dimensions: N positions of all clips together, K target positions, V vocabulary, W decoder width.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteriaList

from ..config import ModelConfig, SearchConfig
from ..errors import UserError
from ..prompt import Prompt
from .graphed import GraphedRows
from .joint import Lexicon, search_rows
from .kernels import Kernel
from .loop_guard import LoopGuard
from .lora import set_lora_dropout, without_dropout
from .packing import PackedLayout
from .prefixes import PrefixScores
from .reading import Reading, find_reading, pad_left, write_after
from .weights import (
    RECORD_FILE,
    fingerprint,
    hub_arguments,
    loading,
    quiet_transformers,
    require_all_weights,
    require_finite,
    require_plausible,
    resolve,
    tell_download,
)
from .writing import Rows, distinct, write_rows

logger = logging.getLogger(__name__)

MAX_LOGITS = 1 << 24  # at once: 110 rows at a vocabulary of 150,000, 64 MB in fp32


class TargetLoss(torch.autograd.Function):
    """Cross-entropy of hidden states (K, W) under a frozen head, some rows at a time.

    The gradient of a row is computed as soon as its logits are, so that they can be freed. At a vocabulary of 150,000
    the logits, and what the backward pass keeps of them, would take most of a step's memory.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
        """Return the loss, summed, in fp32."""
        total = torch.zeros((), device=hidden.device)
        gradients = []
        size = max(1, MAX_LOGITS // head.weight.shape[0])
        for rows, expected in zip(hidden.detach().split(size), targets[:, None].split(size), strict=True):
            logits = head(rows).float()
            normalizer = logits.logsumexp(-1, keepdim=True)
            total += (normalizer - logits.gather(1, expected)).sum()
            if ctx.needs_input_grad[0]:  # softmax, less 1 at the target; written over the logits
                by_logit = logits.sub_(normalizer).exp_()
                by_logit.scatter_add_(1, expected, by_logit.new_full(expected.shape, -1.0))
                gradients.append((by_logit.to(head.weight.dtype) @ head.weight).to(rows.dtype))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient that `forward` kept."""
        return torch.cat(ctx.saved_tensors) * gradient, None, None


class Decoder(nn.Module):
    """A causal language model and its prompt, frozen except for adapters that are put on it.

    Attributes:
        decoder_dim: width of its embeddings.
        name, revision: where the weights came from; the revision is a commit on the Hub, None for a folder.
        fingerprint: of the weights, wherever they came from.
        kernel: of packed attention; None: attention is padded inside the op.
        cuda_graph: whether steps of decoding are one CUDA graph, if the model allows it: see `use_cuda_graph`.
    """

    kernel: Kernel | None = None
    cuda_graph = False

    def __init__(self, module: Any, prompt: Prompt, name: str) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.prompt = prompt
        self.name = name
        self.revision: str | None = getattr(module.config, "_commit_hash", None)
        self.fingerprint = fingerprint(module)
        self.decoder_dim = int(module.get_input_embeddings().weight.shape[1])
        self._own_ends = _as_list(module.generation_config.eos_token_id)
        # The model's own settings (sampling, repetition penalties) would be mixed into every call.
        module.generation_config = GenerationConfig(do_sample=False)
        self._reading: Reading | None = None
        self._tried_on: torch.device | None = None

    @property
    def reading(self) -> Reading:
        """How the model reads and writes several clips at once.

        It is tried out on first use, on the model's device at that time: operations differ between devices, and a large
        model would take a minute on the CPU.

        Raises:
            UserError: the model cannot be used.
        """
        device, prompt = self.module.device, self.prompt
        if self._reading is None or self._tried_on != device:
            text = torch.tensor(prompt.prefix_ids + prompt.suffix_ids, device=device)
            kind = self.module.config.model_type
            try:
                # A model may warn at its first step of what it lacks.
                with quiet_transformers(self.name), without_dropout(self.module):
                    self._reading = find_reading(self.module, self.embed(text), self.cuda_graph)
            except UserError as error:
                raise UserError(
                    f"model.decoder={self.name}: a {kind} model of this kind cannot be used; {error}"
                ) from error
            self._tried_on = device
            if not (self._reading.packed and self._reading.pads_left):
                logger.info("Decoder: a %s model of this kind reads clips %s.", kind, self._reading)
        return self._reading

    def use_cuda_graph(self, wanted: bool) -> None:
        """Decode with a CUDA graph (`GraphedRows`) or without, from now on.

        The model is tried first; if it writes something else with a graph, or cannot be recorded, none is used, and a
        line is logged.

        Raises:
            UserError: the model is not on a CUDA device.
        """
        if wanted == self.cuda_graph:
            return
        if wanted and self.module.device.type != "cuda":
            raise UserError(f"cuda_graph=true needs a CUDA device, and the models run on {self.module.device}.")
        self.cuda_graph, self._reading = wanted, None
        if wanted and not self.reading.graphed:
            logger.warning("%s cannot be decoded with a CUDA graph; it is decoded without.", self.name)

    @property
    def end_ids(self) -> set[int]:
        """Tokens that end a transcript: the end of the turn, as trained, and the end tokens of the model itself."""
        return {self.prompt.end_id, *self._own_ends}

    def train(self, mode: bool = True) -> Decoder:
        """Stay in evaluation mode, as the decoder is frozen; only the dropout of adapters follows `mode`."""
        super().train(False)
        set_lora_dropout(self.module, mode)
        return self

    @property
    def layers(self) -> list[nn.Module]:
        """Its transformer layers, all alike."""
        kinds = self.module._no_split_modules or ()
        return [block for block in self.module.modules() if type(block).__name__ in kinds]

    @property
    @torch.no_grad()
    def embedding_rms(self) -> float:
        """Root mean square of `embed` over all tokens: the scale that an audio token should have."""
        tokens = torch.arange(self.module.get_input_embeddings().weight.shape[0], device=self.module.device)
        squares = [self.embed(some).float().square().mean(-1) for some in tokens.split(1 << 14)]
        return float(torch.cat(squares).mean().sqrt())

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embed (N,) token ids into (N, W), as the model reads them: some models scale their table (Gemma)."""
        return self.module.get_input_embeddings()(token_ids)

    def logits(self, embeddings: Tensor, lengths: list[int], positions: Tensor) -> Tensor:
        """Read clips, and compute logits only at some positions.

        At a vocabulary of 150,000 the logits of all positions would take more memory than the rest of the step.

        Args:
            embeddings: (N, W), the clips one after another.
            lengths: positions of each clip, summing to N.
            positions: (K,) int64, the positions in the row to compute logits of.

        Returns:
            (K, V) logits.
        """
        layout = PackedLayout.of(lengths, embeddings.device, self.kernel)
        rows = positions if self.reading.packed else layout.to_packed.index_select(0, positions)
        with reading_only(self.module.get_output_embeddings(), rows):
            logits: Tensor = self.module(**layout.arguments(embeddings, self.reading.packed)).logits[0]
        return logits

    def loss(self, embeddings: Tensor, lengths: list[int], positions: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of K targets, summed, in fp32.

        It equals that of `logits`, but never holds all logits at once: see `TargetLoss`.

        Args:
            embeddings, lengths, positions: see `logits`.
            targets: (K,) int64.
        """
        head = self.module.get_output_embeddings()
        # In fp16, a gradient that is computed ahead would underflow before the loss scale is applied.
        apart = self.reading.bare_head and type(head) is nn.Linear and not head.weight.requires_grad
        if not apart or embeddings.dtype == torch.float16:
            return cross_entropy(self.logits(embeddings, lengths, positions).float(), targets, reduction="sum")
        return TargetLoss.apply(self._hidden(embeddings, lengths, positions), head, targets)

    def _hidden(self, embeddings: Tensor, lengths: list[int], positions: Tensor) -> Tensor:
        """Return the last hidden states (K, W) at some positions."""
        layout = PackedLayout.of(lengths, embeddings.device, self.kernel)
        read = self.module.base_model(**layout.arguments(embeddings, self.reading.packed)).last_hidden_state
        rows = positions if self.reading.packed else layout.to_packed.index_select(0, positions)
        return read.flatten(0, 1).index_select(0, rows)

    @torch.no_grad()
    def generate(
        self, clips: Sequence[Tensor], max_new_tokens: Sequence[int], kept: dict[int, int] | None = None
    ) -> list[list[int]]:
        """Write greedily after each clip's embeddings.

        Args:
            clips: embeddings (N_i, W) of each clip.
            max_new_tokens: upper limit of tokens for each clip. Each clip has its own limit, so that its transcript
                does not depend on the clips that it is decoded with.
            kept: if given, transcripts that loop are ended, and `kept[number of the clip]` is set to how many of its
                tokens to keep: see `LoopGuard`.

        Returns:
            The new tokens of each clip, without the end of the turn.
        """
        groups = [list(range(len(clips)))]
        if not self.reading.pads_left:
            groups = [[i for i, clip in enumerate(clips) if len(clip) == n] for n in sorted({len(c) for c in clips})]
        written: dict[int, list[int]] = {}
        write = self._write_leaving if self.reading.rows_leave else self._write_to_the_last
        for group in groups:
            found: dict[int, int] | None = None if kept is None else {}
            with torch.compiler.set_stance("force_eager"):  # a growing cache would be compiled again at each token
                rows = write([clips[i] for i in group], [max_new_tokens[i] for i in group], found)
            if kept is not None:
                kept |= {group[row]: count for row, count in (found or {}).items()}
            written |= zip(group, rows, strict=True)
        return [_until(written[i][:limit], self.end_ids) for i, limit in enumerate(max_new_tokens)]

    def search(
        self,
        clips: Sequence[Tensor],
        scores: PrefixScores,
        lexicon: Lexicon,
        search: SearchConfig,
        limits: Sequence[int],
    ) -> tuple[list[list[int]], list[bool], list[float]]:
        """Write after each clip's embeddings (N_i, W) what this model and CTC together rate best: see `search_rows`.

        What is the same for several clips, such as a prompt without audio, is read once.

        Raises:
            UserError: the model does not write after several rows as it does after each alone.
        """
        if not self.reading.rows_leave:
            raise UserError(f"{self.name} cannot follow several texts at once; set beams=1.")
        read, places = distinct(clips)
        row_of: list[int] | None = places  # until the first step, several clips may share a row
        with torch.compiler.set_stance("force_eager"):
            rows = self._rows(read, search.beams * len(clips), max(limits))

            def log_probs() -> Tensor:
                found = rows.logits.float().log_softmax(1).cpu()
                return found if row_of is None else found[row_of]

            def step(tokens: Tensor, origins: list[int]) -> None:
                nonlocal row_of
                rows.step(tokens.to(clips[0].device), origins if row_of is None else [row_of[n] for n in origins])
                row_of = None

            return search_rows(log_probs, step, scores, lexicon, search, limits)

    def _write_leaving(
        self, clips: Sequence[Tensor], limits: Sequence[int], kept: dict[int, int] | None
    ) -> list[list[int]]:
        """Write after clips; a clip leaves the batch when its transcript has ended."""
        return write_rows(self._rows(clips, len(clips), max(limits)), limits, self.end_ids, kept)

    def _rows(self, clips: Sequence[Tensor], num_rows: int, num_steps: int) -> Rows:
        padded, lengths = pad_left(clips), [len(clip) for clip in clips]
        if self.cuda_graph and self.reading.graphed:
            return GraphedRows(self.module, *padded, lengths, num_rows, num_steps)
        return Rows(self.module, *padded, lengths)

    def _write_to_the_last(
        self, clips: Sequence[Tensor], limits: Sequence[int], kept: dict[int, int] | None
    ) -> list[list[int]]:
        """Let `transformers` write after clips, until the last transcript has ended."""
        embeddings, mask = pad_left(clips)
        guard = LoopGuard(self.end_ids, limits, start=mask.shape[1])
        ends: dict[str, Any] = {"eos_token_id": sorted(self.end_ids), "pad_token_id": self.prompt.pad_id}
        if kept is not None:
            ends["stopping_criteria"] = StoppingCriteriaList([guard])
        rows = write_after(self.module, embeddings, mask, max_new_tokens=max(limits), **ends)
        if kept is not None:
            kept |= guard.kept
        written: list[list[int]] = rows[:, mask.shape[1] :].tolist()
        return written


@contextmanager
def reading_only(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """Pass only some rows (K,) of the hidden states (B, L, W) to a model's head, as (1, K, W).

    What the model does directly before and after its head applies to these rows, too.
    """

    def select(layer: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        return arguments[0].flatten(0, 1).index_select(0, rows)[None]

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def load_prompt(name: str, revision: str | None, instruction: str, context: str = ModelConfig.context_prompt) -> Prompt:
    """Load only a decoder's tokenizer, and make the prompt around the audio.

    Args:
        name, revision, instruction, context: see `load_decoder`.

    Raises:
        UserError: it cannot be fetched or read, or has no chat template.
    """
    source = resolve("decoder", name)
    with loading("decoder", name), quiet_transformers(source):
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_arguments(source, revision))
        if (record := Path(source) / RECORD_FILE).is_file():  # an exported model; its template has one fixed prompt
            return Prompt.of(tokenizer, instruction, json.loads(record.read_text("utf-8"))["models"]["prompt_ids"])
    return Prompt(tokenizer, instruction, context)


def load_decoder(
    name: str,
    revision: str | None,
    instruction: str,
    dtype: torch.dtype,
    context: str = ModelConfig.context_prompt,
) -> Decoder:
    """Load a frozen decoder with its tokenizer.

    Args:
        name: a Hub id, a folder or `pocket`.
        revision: commit, tag or branch on the Hub.
        instruction: the prompt's instruction.
        dtype: precision of the weights.
        context: the line that a context is put into.

    Raises:
        UserError: it cannot be fetched or read, or has no chat template.
    """
    source = resolve("decoder", name)
    with loading("decoder", name), quiet_transformers(source):
        where = hub_arguments(source, revision)
        config = AutoConfig.from_pretrained(source, **where)
        tell_download("model.decoder", source, revision)
        logger.info("Loading %s decoder (%s)...", config.model_type.capitalize(), name)
        prompt = load_prompt(name, revision, instruction, context)
        own = config.get_text_config()  # only the text part of a model that also reads images (Gemma 3, Qwen3.5)
        require_plausible(own, AutoModelForCausalLM, source, dtype)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=own,
            key_mapping={r"^(model\.)?language_model\.(model\.)?": "model.", r"^model\.lm_head\.": "lm_head."},
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            **where,
        )
        module, report = loaded
        require_all_weights(report)
        module.config._commit_hash = getattr(config, "_commit_hash", None)
    require_finite("decoder", name, module)
    return Decoder(module, prompt, name)


def _as_list(ids: Any) -> list[int]:
    """Return the tokens that a model's configuration names: none, one or several."""
    return [one for one in (ids if isinstance(ids, list) else [ids]) if type(one) is int]


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[:i] for i, token in enumerate(ids) if token in ends), ids)
