"""Ways to compute the same training step, with the same weights, clips and targets.

Dimensions: B clips, T encoder frames of the longest clip, L decoder positions of the longest clip, W decoder width.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import gelu, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..config import Config, LoggingConfig, TrainingConfig
from ..data.loader import Batch
from ..data.plan import SamplingPlan
from ..data.skips import SkipLog
from ..lengths import FRAME_SAMPLES, MAX_CLIP_SECONDS, SAMPLE_RATE, align_samples
from ..model.flops import Load
from ..model.packing import PACKED_ATTENTION
from ..model.speech_llm import Loss, SpeechLLM
from ..training.checkpoint import CheckpointFolder
from ..training.console import Console
from ..training.loop import Trainer
from ..training.optimizer import build_optimizer
from ..training.processes import Processes
from ..training.state import RunState
from ..training.tracking import Trackers

MASKED_ATTENTION = "masked"


class Variant(ABC):
    """A way to compute the step.

    Args:
        model: shared by all variants; each starts from the same projector weights.
        batch: clips on the CPU.
        accelerator: device and mixed precision.
    """

    title: str

    def __init__(self, model: SpeechLLM, batch: Batch, accelerator: Accelerator) -> None:
        self.model, self.batch, self.accelerator = model, batch, accelerator
        self.device = model.device
        self.aligned = [align_samples(n) // FRAME_SAMPLES for n in batch.num_samples.tolist()]
        self.longest = max(self.aligned)  # T
        self.kept = model.encoder.num_frames(batch.num_samples)
        self.counts = [model.projector.num_tokens(n) for n in self.kept]
        prompt = len(model.decoder.prompt.prefix_ids) + len(model.decoder.prompt.suffix_ids)
        targets = map(len, batch.target_ids)
        self.positions = [prompt + count + target for count, target in zip(self.counts, targets, strict=True)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Give the frozen models the attention of this variant; restore their own on leaving."""
        yield

    @abstractmethod
    def loss(self) -> float:
        """Return the batch's mean cross-entropy."""

    @abstractmethod
    def step(self) -> None:
        """Make a whole training step, from the clips to changed weights."""

    @property
    @abstractmethod
    def load(self) -> Load:
        """The lengths that the step computes over."""


class Ours(Variant):
    """`ta train`'s own step: `Trainer.train_step` on `SpeechLLM`, unchanged, always on the same batch."""

    title = "ours"

    def __init__(self, model: SpeechLLM, batch: Batch, accelerator: Accelerator) -> None:
        super().__init__(model, batch, accelerator)
        size = len(batch)
        silent = LoggingConfig(use_wandb=False)  # nothing is logged
        config = Config(experiment="benchmark", training=TrainingConfig(batch_size=size), logging=silent)
        training = config.training
        optimizer = build_optimizer(model, training, training.learning_rate, accelerator.mixed_precision)
        prepared, optimizer = accelerator.prepare(model, optimizer)
        nowhere = Path("benchmark")  # nothing is ever written there
        self.trainer = Trainer(
            config=config,
            accelerator=accelerator,
            model=prepared,
            optimizer=optimizer,
            batches=itertools.repeat(batch),
            plan=SamplingPlan([np.ones(size)], [1.0], size, seed=0),
            evaluate=None,
            folder=CheckpointFolder(nowhere),
            description={},
            skips=SkipLog(nowhere / "skipped.jsonl", [], 1.0, write=False),
            trackers=Trackers(config, nowhere, -1, None, is_main=False),
            console=Console(config.training.max_steps, 1.0, 0, quiet=True),
            state=RunState(),
            processes=Processes(accelerator),
        )

    def loss(self) -> float:
        """See `Variant.loss`."""
        with torch.no_grad(), self.accelerator.autocast():
            found: Loss = self.model(self.batch)
        return float(found.cross_entropy) / found.num_targets

    def step(self) -> None:
        """See `Variant.step`."""
        self.trainer.train_step(self.trainer.next_input())

    @property
    def load(self) -> Load:
        """See `Variant.load`."""
        return Load.of(self.model, self.batch)


class Windows(Ours):
    """The same step with `model.encoder_window=30s`: every clip is padded with silence to 30 s before the encoder."""

    title = "ours, 30s"

    @contextmanager
    def installed(self) -> Iterator[None]:
        """See `Variant.installed`."""
        encoder, before = self.model.encoder, self.model.encoder.encoder_window
        encoder.encoder_window = "30s"
        try:
            yield
        finally:
            encoder.encoder_window = before


class Padded(Variant):
    """The stock decoder on a batch padded to its longest clip, `labels=` and logits of all positions, stock AdamW.

    The spectrogram is computed before, and its time does not count, which favors these variants.
    """

    attention: str

    def __init__(self, model: SpeechLLM, batch: Batch, accelerator: Accelerator) -> None:
        super().__init__(model, batch, accelerator)
        prompt = model.decoder.prompt
        prefix, suffix = torch.tensor(prompt.prefix_ids), torch.tensor(prompt.suffix_ids)
        rows = [
            torch.cat([prefix, prefix.new_zeros(count), suffix, target])
            for count, target in zip(self.counts, batch.target_ids, strict=True)
        ]
        labels = [torch.full_like(row, -100) for row in rows]
        for label, target in zip(labels, batch.target_ids, strict=True):
            label[-len(target) :] = target
        audio = [torch.arange(c) + i * max(self.positions) + len(prefix) for i, c in enumerate(self.counts)]
        self.token_ids = pad_sequence(rows, batch_first=True).to(self.device)  # (B, L)
        self.labels = pad_sequence(labels, batch_first=True, padding_value=-100).to(self.device)
        self.mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self.device)
        self.audio_positions = torch.cat(audio).to(self.device)
        self.mel = self.spectrogram().to(self.model.encoder.dtype)
        self.weights = list(model.projector.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=5e-4, weight_decay=0.01)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """See `Variant.installed`. Layers compiled for our step are not used."""
        encoder, decoder = self.model.encoder.module, self.model.decoder.module
        encoder.set_attn_implementation(self.attention)
        decoder.set_attn_implementation("sdpa")
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            encoder.set_attn_implementation(PACKED_ATTENTION)
            decoder.set_attn_implementation(PACKED_ATTENTION)

    @abstractmethod
    def spectrogram(self) -> Tensor:
        """Return the mel frames (B, M, ...) that the encoder reads."""

    @abstractmethod
    def audio_tokens(self) -> tuple[Tensor, Tensor]:
        """Return the tokens (T, W) of the clips, one after another, and the projector's auxiliary loss."""

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy, and the loss that is added to it."""
        with self.accelerator.autocast():
            tokens, auxiliary = self.audio_tokens()
            embeddings = self.model.decoder.embed(self.token_ids)
            flat = embeddings.flatten(0, 1).index_copy(0, self.audio_positions, tokens.to(embeddings.dtype))
            output = self.model.decoder.module(
                inputs_embeds=flat.view_as(embeddings), attention_mask=self.mask, labels=self.labels, use_cache=False
            )
            return output.loss, auxiliary

    def loss(self) -> float:
        """See `Variant.loss`."""
        with torch.no_grad():
            return float(self.forward()[0])

    def step(self) -> None:
        """See `Variant.step`."""
        loss, auxiliary = self.forward()
        (loss + auxiliary).backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def padded_load(self, frames: int, projector_lengths: list[int]) -> Load:
        """Return the load where each clip is `frames` encoder frames long."""
        size, longest = len(self.batch), max(self.positions)
        return Load(
            mel_positions=0,
            conv_positions=size * 2 * frames,
            encoder_positions=size * frames,
            encoder_pairs=size * frames**2,
            projector_lengths=projector_lengths,
            decoder_positions=size * longest,
            decoder_pairs=size * longest**2,
            logit_positions=size * longest,
        )


class Usual(Padded):
    """The stock encoder on clips padded with silence to 30 s, without a mask: as in most other code.

    Its loss differs: every clip also attends to the silence after it.
    """

    title = "usual"
    attention = "sdpa"
    frames = int(MAX_CLIP_SECONDS * 50)  # of a window

    def spectrogram(self) -> Tensor:
        """See `Padded.spectrogram`."""
        samples = int(MAX_CLIP_SECONDS * SAMPLE_RATE)
        waveforms = pad(self.batch.waveforms, (0, samples - self.batch.waveforms.shape[1])).to(self.device)
        return self.model.encoder.log_mel(waveforms, torch.full((len(waveforms),), samples, device=self.device))

    def audio_tokens(self) -> tuple[Tensor, Tensor]:
        """See `Padded.audio_tokens`."""
        with torch.no_grad():
            frames = self.model.encoder.module(self.mel).last_hidden_state
        projected = self.model.projector(frames.flatten(0, 1).float(), [self.frames] * len(frames))
        windows = projected.tokens.view(len(frames), -1, projected.tokens.shape[1])
        return torch.cat([clip[:n] for clip, n in zip(windows, self.counts, strict=True)]), projected.auxiliary

    @property
    def load(self) -> Load:
        """See `Variant.load`."""
        return self.padded_load(self.frames, [self.frames] * len(self.batch))


class Plain(Padded):
    """Correct, but not optimized: clips padded to the longest, padding masked in the encoder's attention.

    Our step must have the same loss and gradients.
    """

    title = "plain"
    attention = MASKED_ATTENTION

    def __init__(self, model: SpeechLLM, batch: Batch, accelerator: Accelerator) -> None:
        super().__init__(model, batch, accelerator)
        places = torch.arange(self.longest)
        aligned, kept = (places < torch.tensor(n)[:, None] for n in (self.aligned, self.kept))  # (B, T)
        self.key_mask = aligned[:, None, None].to(self.device)
        self.rows = kept.flatten().nonzero()[:, 0].to(self.device)

    def spectrogram(self) -> Tensor:
        """See `Padded.spectrogram`."""
        samples = torch.tensor(self.aligned) * FRAME_SAMPLES
        return self.model.encoder.log_mel(self.batch.waveforms.to(self.device), samples.to(self.device))

    def audio_tokens(self) -> tuple[Tensor, Tensor]:
        """See `Padded.audio_tokens`."""
        module: Any = self.model.encoder.module
        with torch.no_grad():
            hidden = gelu(module.conv2(gelu(module.conv1(self.mel)))).transpose(1, 2)  # (B, T, D)
            places = module.rotary_emb(hidden, position_ids=torch.arange(self.longest, device=self.device)[None])
            for layer in module.layers:
                hidden = layer(hidden, position_embeddings=places, key_mask=self.key_mask)
            frames = module.norm(hidden).flatten(0, 1).index_select(0, self.rows)
        projected = self.model.projector(frames.float(), self.kept)
        return projected.tokens, projected.auxiliary

    @property
    def load(self) -> Load:
        """See `Variant.load`."""
        return self.padded_load(self.longest, self.kept)


def masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    key_mask: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stock attention with its mask (B, 1, 1, T) under another name: some layers set `attention_mask` themselves."""
    return sdpa_attention_forward(module, query, key, value, key_mask, **kwargs)


AttentionInterface.register(MASKED_ATTENTION, masked_attention)
AttentionMaskInterface.register(MASKED_ATTENTION, sdpa_mask)
