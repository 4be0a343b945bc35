"""The frozen speech encoder: waveforms to encoder frames, each clip as if it were alone.

Dimensions: B clips, S samples, M mel bins, L mel frames, N encoder frames of all clips together, D encoder width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention
from transformers import AutoConfig, GlmAsrEncoder, PreTrainedModel
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..config import ModelConfig
from ..errors import UserError
from ..lengths import (
    ALIGNMENT_FRAMES,
    ALIGNMENT_SAMPLES,
    FRAME_SAMPLES,
    MAX_CLIP_SAMPLES,
    align_samples,
    num_clip_frames,
)
from ..mel import LogMel
from .device import upload
from .kernels import Kernel
from .packing import PACKED_ATTENTION, PackedLayout
from .weights import (
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

logger = logging.getLogger(__name__)

# model_type of an encoder's configuration -> its module and class in model/: a new encoder is a file and a line here.
ENCODERS = {
    "glmasr_encoder": "encoder.GlmAsrSpeechEncoder",
    "whisper": "encoder.WhisperSpeechEncoder",
    "voxtral_encoder": "encoder.VoxtralSpeechEncoder",
}

# By model.encoder_window, how clips are padded and their frames counted. Features of different conventions differ.
CONVENTIONS = {
    "clip": f"zero-padded to {ALIGNMENT_SAMPLES} samples, attention within the clip, frames that hold any of it",
    "30s": "silence to 30 s, attention over the whole window, frames that hold any of the clip",
}


class SpeechEncoder(nn.Module, ABC):
    """A frozen encoder with its mel front end.

    Args:
        module: of `module_class`, loaded.
        name: where it came from.
        encoder_window: one of `windows`.

    Attributes:
        title: its common name.
        module_class: of transformers, that holds the weights.
        prefix: pattern of the prefix of its weights' names in a larger checkpoint.
        attention: the implementation that it is loaded with.
        windows: allowed values of `model.encoder_window`.
        encoder_dim: width of an encoder frame.
        encoder_window: what is encoded at once: a `clip`, or the clip and silence up to `30s`.
        name, revision: where the weights came from; the revision is a commit on the Hub, None for a folder.
        fingerprint: of the weights, wherever they came from.
        kernel: of packed attention; None: attention is padded inside the op.
    """

    title: ClassVar[str]
    module_class: ClassVar[type[PreTrainedModel]]
    prefix: ClassVar[str] = r"^(model\.)?audio_tower\."
    attention: ClassVar[str] = "sdpa"
    windows: ClassVar[tuple[str, ...]] = ("30s",)
    encoder_dim: int
    kernel: Kernel | None = None

    def __init__(self, module: PreTrainedModel, name: str, encoder_window: str) -> None:
        super().__init__()
        config: Any = module.config
        self.encoder_dim = int(config.hidden_size)
        self.encoder_window = encoder_window
        self.module = module.eval().requires_grad_(False)
        self.log_mel = LogMel(config.num_mel_bins)
        self.name = name
        self.revision: str | None = None
        self.fingerprint = fingerprint(module)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stay in evaluation mode for any `mode`, since the encoder is frozen."""
        return super().train(False)

    @property
    def convention(self) -> str:
        """How clips are padded before they are encoded, and their frames counted; stored in every checkpoint."""
        return CONVENTIONS[self.encoder_window]

    @property
    def layers(self) -> list[nn.Module]:
        """Its transformer layers, all alike."""
        return [block for block in self.module.modules() if type(block).__name__ in self.module._no_split_modules]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights."""
        return self.module.dtype

    @torch.no_grad()
    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, list[int]]:
        """Encode a batch.

        Args:
            waveforms: (B, S) float32, zero beyond each clip.
            num_samples: (B,) int64 **on the CPU**: lengths of the clips.

        Returns:
            frames (N, D), the clips one after another, and each clip's number of frames.
        """
        lengths = [num_clip_frames(n) for n in num_samples.tolist()]
        waveforms, num_samples = self.window(waveforms, num_samples)
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = self.log_mel(waveforms, upload(num_samples, waveforms.device))
            return self.encode(mel.to(self.dtype), lengths), lengths

    def window(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the waveforms (B, S) and lengths (B,) that the spectrogram is taken of: whole alignment units, or
        windows.
        """
        if self.encoder_window == "30s":
            whole = torch.full_like(num_samples, MAX_CLIP_SAMPLES)
            return pad(waveforms, (0, MAX_CLIP_SAMPLES - waveforms.shape[1])), whole
        aligned = [align_samples(n) for n in num_samples.tolist()]
        return pad(waveforms, (0, max(max(aligned) - waveforms.shape[1], 0))), torch.tensor(aligned)

    @abstractmethod
    def encode(self, mel: Tensor, lengths: list[int]) -> Tensor:
        """Encode (B, M, L) mel frames, zero beyond each clip, into (N, D) packed encoder frames, `lengths` of each."""

    def convolve(self, mel: Tensor) -> Tensor:
        """Return the output (B, L / 2, D) of the convolutions before the transformer layers for (B, M, L) mel."""
        module: Any = self.module
        return gelu(module.conv2(gelu(module.conv1(mel)))).transpose(1, 2)

    def pack(self, mel: Tensor, lengths: list[int]) -> tuple[Tensor, PackedLayout, list[int]]:
        """Convolve bare clips, and put them into one row.

        Returns:
            (1, A, D) inputs of the first layer, their layout, and how many of them belong to each clip: `lengths`
            rounded up to whole alignment units.
        """
        padded = self.convolve(mel)
        aligned = [-(-n // ALIGNMENT_FRAMES) * ALIGNMENT_FRAMES for n in lengths]
        # The shorter clips of the batch still have frames of padding here; they are dropped, not masked.
        rows = torch.cat([torch.arange(n) + i * padded.shape[1] for i, n in enumerate(aligned)])
        hidden = padded.flatten(0, 1).index_select(0, upload(rows, mel.device))[None]
        return hidden, PackedLayout.of(aligned, mel.device, self.kernel), aligned


def unpack(row: Tensor, aligned: list[int], lengths: list[int]) -> Tensor:
    """Return the frames (N, D) of a row (1, A, D) that hold any of their clip: see `SpeechEncoder.pack`."""
    return torch.cat([clip[:n] for clip, n in zip(row[0].split(aligned), lengths, strict=True)])


class GlmAsrSpeechEncoder(SpeechEncoder):
    """The audio tower of GLM-ASR.

    Bare clips: the convolutions run on a padded batch, the transformer layers on real frames only, packed. The stock
    forward builds no attention mask, so a padded clip's features depend on its neighbors. Here each clip attends within
    itself, and its positions start at 0.

    Windows: the stock forward, as its makers' own processors and servers run it. The frames of the clip are kept; those
    of the silence after it are dropped.
    """

    title = "GLM-ASR"
    module_class = GlmAsrEncoder
    attention = PACKED_ATTENTION
    windows = ("clip", "30s")

    def encode(self, mel: Tensor, lengths: list[int]) -> Tensor:
        """See `SpeechEncoder.encode`."""
        module: Any = self.module
        if self.encoder_window == "30s":
            windows = module(mel).last_hidden_state  # (B, 1500, D)
            return torch.cat([window[:n] for window, n in zip(windows, lengths, strict=True)])
        hidden, layout, aligned = self.pack(mel, lengths)
        positions = module.rotary_emb(hidden, position_ids=layout.position_ids)
        for layer in module.layers:
            hidden = layer(hidden, position_embeddings=positions, packed_layout=layout)
        frames: Tensor = module.norm(unpack(hidden, aligned, lengths))
        return frames


class WhisperSpeechEncoder(SpeechEncoder):
    """Whisper's encoder (arXiv 2212.04356).

    Its makers pad every clip with silence to 30 s; the frames of the clip are kept, those of the silence after it are
    dropped. From a bare clip it makes almost the same frames, at a fraction of the cost.
    """

    title = "Whisper"
    module_class: ClassVar[type[PreTrainedModel]] = WhisperEncoder
    prefix = r"^(model\.)?encoder\."
    attention = PACKED_ATTENTION
    windows = ("clip", "30s")

    def __init__(self, module: PreTrainedModel, name: str, encoder_window: str) -> None:
        super().__init__(module, name, encoder_window)
        assert module.config.max_source_positions * FRAME_SAMPLES == MAX_CLIP_SAMPLES

    def encode(self, mel: Tensor, lengths: list[int]) -> Tensor:
        """See `SpeechEncoder.encode`."""
        module: Any = self.module
        places = module.embed_positions.weight  # (1500, D)
        if self.encoder_window == "30s":
            hidden = self.convolve(mel) + places
            *layers, last = module.layers
            for layer in layers:
                hidden = layer(hidden, None)
            clips = [self.finish(last, window, n) for window, n in zip(hidden, lengths, strict=True)]
            kept = torch.cat(clips)
        else:
            hidden, layout, aligned = self.pack(mel, lengths)
            hidden = hidden + places.index_select(0, layout.position_ids[0])
            for layer in module.layers:
                hidden = layer(hidden, None, packed_layout=layout)
            kept = unpack(hidden, aligned, lengths)
        frames: Tensor = module.layer_norm(kept)
        return frames

    def finish(self, layer: Any, window: Tensor, count: int) -> Tensor:
        """Return the first `count` frames (count, D) of the last layer's output for a window (1500, D).

        Nothing reads the last layer's frames of the silence, so they are not computed: they only serve as keys and
        values.
        """
        attention, clip = layer.self_attn, window[:count]
        seen = layer.self_attn_layer_norm(window)
        queries, keys, values = (
            states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(0, 1)[None]
            for states in (attention.q_proj(seen[:count]), attention.k_proj(seen), attention.v_proj(seen))
        )
        mixed = (
            scaled_dot_product_attention(queries, keys, values, scale=attention.scaling)[0].transpose(0, 1).flatten(1)
        )
        clip = clip + attention.out_proj(mixed)
        hidden: Tensor = clip + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(clip))))
        highest = torch.finfo(hidden.dtype).max - 1000  # the stock layer keeps fp16 from overflowing like this
        return hidden.clamp(-highest, highest) if hidden.dtype == torch.float16 else hidden


class VoxtralSpeechEncoder(WhisperSpeechEncoder):
    """Whisper's layers under another name, in an exported model."""

    module_class = VoxtralEncoder
    prefix = SpeechEncoder.prefix


def read_mel_bins(name: str, revision: str | None) -> int:
    """Return how many mel bins an encoder reads, from its configuration alone.

    Raises:
        UserError: it cannot be fetched or read.
    """
    source = resolve("encoder", name)
    with loading("encoder", name), quiet_transformers(source):
        config = AutoConfig.from_pretrained(source, **hub_arguments(source, revision))
        return int(getattr(config, "audio_config", config).num_mel_bins)


def load_encoder(
    name: str, revision: str | None, dtype: torch.dtype, encoder_window: str = ModelConfig.encoder_window
) -> SpeechEncoder:
    """Load a frozen encoder, and nothing else of the checkpoint that contains it.

    Args:
        name: a Hub id, a folder or `pocket`: a GLM-ASR checkpoint, its audio tower alone, or a Whisper checkpoint.
        revision: commit, tag or branch on the Hub.
        dtype: precision of the weights.
        encoder_window: `clip` or `30s`.

    Raises:
        UserError: it cannot be fetched or read, lacks weights, is of another kind, or has no such window.
    """
    source = resolve("encoder", name)
    with loading("encoder", name):
        config = AutoConfig.from_pretrained(source, **hub_arguments(source, revision))
        tell_download("model.encoder", source, revision)
        tower = config if config.model_type in ENCODERS else getattr(config, "audio_config", config)
        kind = _encoder_class(tower.model_type)
        if kind is None:
            known = dict.fromkeys(cls.title for cls in map(_encoder_class, ENCODERS) if cls is not None)
            raise UserError(f"model.encoder={name} is a {config.model_type} model; known are {' and '.join(known)}.")
        if encoder_window not in kind.windows:
            raise UserError(
                f"model.encoder_window={encoder_window}: {kind.title} ({name}) only knows windows of 30 s; "
                "set model.encoder_window=30s."
            )
        logger.info("Loading %s encoder (%s)...", kind.title, name)
        module = _load_part(kind, source, revision, tower, dtype)
        encoder = kind(module, name, encoder_window)
        encoder.revision = getattr(config, "_commit_hash", None)
    require_finite("encoder", name, module)
    return encoder


def _encoder_class(model_type: str) -> type[SpeechEncoder] | None:
    """Return the class for the `model_type` of a configuration; None if it is not in `ENCODERS`."""
    if model_type not in ENCODERS:
        return None
    module, name = ENCODERS[model_type].split(".")
    found: type[SpeechEncoder] = getattr(import_module(f"{__package__}.{module}"), name)
    return found


def _load_part(
    kind: type[SpeechEncoder], source: str, revision: str | None, config: Any, dtype: torch.dtype
) -> PreTrainedModel:
    """Load the encoder's weights out of a checkpoint, whose other weights are never read.

    Without the renaming `from_pretrained` would only warn, and leave random weights. Here a missing weight is an error.
    """
    with quiet_transformers(source):
        require_plausible(config, kind.module_class, source, dtype)
        load: Any = kind.module_class.from_pretrained  # not typed with its report
        module: PreTrainedModel
        module, report = load(
            source,
            config=config,
            key_mapping={kind.prefix: ""},
            dtype=dtype,
            attn_implementation=kind.attention,
            output_loading_info=True,
            **hub_arguments(source, revision),
        )
    require_all_weights(report)
    return module
