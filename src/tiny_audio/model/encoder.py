"""The frozen speech encoder: waveforms to encoder frames, each clip as if it were alone.

Dimensions: B clips, S samples, M mel bins, L mel frames, N encoder frames of all clips together, D encoder width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention
from transformers import AutoConfig, GlmAsrEncoder, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..audio import LogMel
from ..errors import UserError
from ..lengths import ALIGNMENT_SAMPLES, HOP_LENGTH, num_encoder_frames, num_mel_frames
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
    resolve,
)

logger = logging.getLogger(__name__)


class SpeechEncoder(nn.Module, ABC):
    """A frozen encoder with its mel front end.

    Attributes:
        encoder_dim: width of an encoder frame.
        convention: how clips are padded before they are encoded; features of different conventions differ, so it
            is stored in every checkpoint.
        name, revision: where the weights came from; the revision is a commit on the Hub, None for a folder.
        fingerprint: of the weights, wherever they came from.
        kernel: of packed attention; None: padded inside the op.
    """

    convention: str
    encoder_dim: int
    kernel: Kernel | None = None

    def __init__(self, module: PreTrainedModel, num_mel_bins: int, name: str) -> None:
        super().__init__()
        self.module = module.eval().requires_grad_(False)
        self.log_mel = LogMel(num_mel_bins)
        self.name = name
        self.revision: str | None = None
        self.fingerprint = fingerprint(module)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stay in evaluation mode, whatever `mode`: the encoder is frozen."""
        return super().train(False)

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
            num_samples: (B,) int64 **on the CPU**: lengths of the clips, multiples of 1280.

        Returns:
            frames (N, D), the clips one after another, and each clip's number of frames.
        """
        lengths = [num_encoder_frames(num_mel_frames(n)) for n in num_samples.tolist()]
        waveforms, num_samples = self.window(waveforms, num_samples)
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = self.log_mel(waveforms, upload(num_samples, waveforms.device))
            return self.encode(mel.to(self.dtype), lengths), lengths

    def window(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the waveforms (B, S) and lengths (B,) that the spectrogram is taken of: the clips as they are."""
        return waveforms, num_samples

    @abstractmethod
    def encode(self, mel: Tensor, lengths: list[int]) -> Tensor:
        """Encode (B, M, L) mel frames, zero beyond each clip, into (N, D) packed encoder frames."""


class GlmAsrSpeechEncoder(SpeechEncoder):
    """The audio tower of GLM-ASR on real frames only: convolutions padded, transformer layers packed.

    The stock forward builds no attention mask, so that a padded clip's features depend on its neighbours; here each
    clip attends within itself and its positions start at 0.
    """

    convention = f"zero-padded to {ALIGNMENT_SAMPLES} samples, attention within the clip"

    def __init__(self, module: GlmAsrEncoder, name: str) -> None:
        super().__init__(module, module.config.num_mel_bins, name)
        self.encoder_dim = int(module.config.hidden_size)

    def encode(self, mel: Tensor, lengths: list[int]) -> Tensor:
        """See `SpeechEncoder.encode`."""
        module: Any = self.module
        padded = gelu(module.conv2(gelu(module.conv1(mel)))).transpose(1, 2)  # (B, L / 2, D)
        layout = PackedLayout.of(lengths, mel.device, self.kernel)
        # A clip shorter than the batch's longest still has frames of padding here; they are dropped, not masked.
        rows = torch.cat([torch.arange(n) + i * padded.shape[1] for i, n in enumerate(lengths)])
        hidden = padded.flatten(0, 1).index_select(0, upload(rows, mel.device))[None]
        positions = module.rotary_emb(hidden, position_ids=layout.position_ids)
        for layer in module.layers:
            hidden = layer(hidden, position_embeddings=positions, packed_layout=layout)
        return module.norm(hidden)[0]


class WhisperSpeechEncoder(SpeechEncoder):
    """Whisper's encoder (arXiv 2212.04356), which only knows 30 s windows: every clip is padded with silence to one.

    The frames of the clip itself are kept, those of the silence after it are dropped.
    """

    convention = "silence to 30 s, attention over the whole window"

    def __init__(self, module: WhisperEncoder, name: str) -> None:
        super().__init__(module, module.config.num_mel_bins, name)
        self.encoder_dim = int(module.config.d_model)
        self.window_samples = module.config.max_source_positions * 2 * HOP_LENGTH

    def window(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """See `SpeechEncoder.window`."""
        silence = self.window_samples - waveforms.shape[1]
        return pad(waveforms, (0, silence)), torch.full_like(num_samples, self.window_samples)

    def encode(self, mel: Tensor, lengths: list[int]) -> Tensor:
        """See `SpeechEncoder.encode`."""
        module: Any = self.module
        embedded = gelu(module.conv2(gelu(module.conv1(mel)))).transpose(1, 2)
        hidden = embedded + module.embed_positions.weight  # (B, 1500, D)
        *layers, last = module.layers
        for layer in layers:
            hidden = layer(hidden, None)
        clips = [self.finish(last, clip, n) for clip, n in zip(hidden, lengths, strict=True)]
        frames: Tensor = module.layer_norm(torch.cat(clips))
        return frames

    def finish(self, layer: Any, window: Tensor, count: int) -> Tensor:
        """Return the first `count` frames (count, D) of what the last layer makes of a window (1500, D).

        The frames of the silence are only looked at here, no longer computed: a layer's other work is done for the
        clip alone.
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


def read_mel_bins(name: str, revision: str | None) -> int:
    """Return how many mel bins an encoder reads, from its configuration alone.

    Raises:
        UserError: it cannot be fetched or read.
    """
    source = resolve("encoder", name)
    with loading("encoder", name), quiet_transformers(source):
        config = AutoConfig.from_pretrained(source, **hub_arguments(source, revision))
        return int(getattr(config, "audio_config", config).num_mel_bins)


def load_encoder(name: str, revision: str | None, dtype: torch.dtype) -> SpeechEncoder:
    """Load a frozen encoder, and nothing else of the checkpoint it lies in.

    Args:
        name: a Hub id, a folder or `pocket`: a GLM-ASR checkpoint, its audio tower alone, or a Whisper checkpoint.
        revision: commit, tag or branch on the Hub.
        dtype: precision of the weights.

    Raises:
        UserError: it cannot be fetched or read, lacks weights, or is of another kind.
    """
    source = resolve("encoder", name)
    with loading("encoder", name):
        config = AutoConfig.from_pretrained(source, **hub_arguments(source, revision))
        if config.model_type in ("glmasr", "glmasr_encoder"):
            logger.info("Loading GLM-ASR encoder (%s)...", name)
            tower = config.audio_config if config.model_type == "glmasr" else config
            prefix = r"^(model\.)?audio_tower\."
            module = _load_part(GlmAsrEncoder, source, revision, tower, prefix, dtype, PACKED_ATTENTION)
            encoder: SpeechEncoder = GlmAsrSpeechEncoder(module, name)
        elif config.model_type == "whisper":
            logger.info("Loading Whisper encoder (%s)...", name)
            module = _load_part(WhisperEncoder, source, revision, config, r"^(model\.)?encoder\.", dtype, "sdpa")
            encoder = WhisperSpeechEncoder(module, name)
        else:
            raise UserError(
                f"model.encoder={name} is a {config.model_type} model; "
                "known are GLM-ASR (glmasr, glmasr_encoder) and Whisper."
            )
        encoder.revision = getattr(config, "_commit_hash", None)
    require_finite("encoder", name, module)
    return encoder


def _load_part(
    kind: Any, source: str, revision: str | None, config: Any, prefix: str, dtype: torch.dtype, attention: str
) -> Any:
    """Load the weights under `prefix` into `kind(config)`; the checkpoint's other weights are never read.

    Without the renaming `from_pretrained` would only warn and leave random weights: whatever is missing is an error.
    """
    with quiet_transformers(source):
        module, report = kind.from_pretrained(
            source,
            config=config,
            key_mapping={prefix: ""},
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            **hub_arguments(source, revision),
        )
    require_all_weights(report)
    return module
