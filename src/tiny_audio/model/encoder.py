"""The frozen speech encoder: waveforms to encoder frames, each clip as if it were alone.

Dimensions: B clips, S samples, M mel bins, L mel frames, N encoder frames of all clips together, D encoder width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import AutoConfig, GlmAsrEncoder, PreTrainedModel
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..config import ENCODER_WINDOWS, ModelConfig
from ..errors import UserError
from ..lengths import (
    ALIGNMENT_SAMPLES,
    FRAME_SAMPLES,
    FRAMES_AFTER,
    FRAMES_AFTER_KEPT,
    FRAMES_BEFORE,
    MAX_CLIP_FRAMES,
    Window,
    window_of,
)
from ..mel import LogMel, surround
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
    "padded": f"{FRAMES_BEFORE} frames of silence before the clip, {FRAMES_AFTER_KEPT} of {FRAMES_AFTER} after it kept",
    "30s": "silence to 30 s, attention over the whole window, frames that hold any of the clip",
}
LAYERS = "; layers "  # in a convention, before the numbers of the layers whose outputs are joined


class SpeechEncoder(nn.Module, ABC):
    """A frozen encoder with its mel front end.

    Args:
        module: of `module_class`, loaded.
        name: where it came from.
        encoder_window: one of `windows`.
        encoder_layers: the layers whose outputs are the frames, side by side, from 1 on; empty: the last one.

    Attributes:
        title: its common name.
        module_class: of transformers, that holds the weights.
        prefix: pattern of the prefix of its weights' names in a larger checkpoint.
        attention: the implementation that it is loaded with.
        windows: allowed values of `model.encoder_window`.
        layer_norm, last_norm: what the module calls the norm before a layer's attention, and the one after all layers;
            empty: it gives the output of its last layer alone.
        encoder_dim: D, width of an encoder frame: `width` for each of `encoder_layers`.
        width: of the module's hidden states.
        num_layers: of the module.
        encoder_window: what is encoded at once: a `clip`, `padded` by some silence, or with silence up to `30s`.
        name, revision: where the weights came from; the revision is a commit on the Hub, None for a folder.
        fingerprint: of the weights, wherever they came from.
        kernel: of packed attention; None: attention is padded inside the op.
    """

    title: ClassVar[str]
    module_class: ClassVar[type[PreTrainedModel]]
    prefix: ClassVar[str] = r"^(model\.)?audio_tower\."
    attention: ClassVar[str] = "sdpa"
    windows: ClassVar[tuple[str, ...]] = ("30s",)
    layer_norm: ClassVar[str] = ""
    last_norm: ClassVar[str] = ""
    encoder_dim: int
    kernel: Kernel | None = None

    def __init__(
        self, module: PreTrainedModel, name: str, encoder_window: str, encoder_layers: Sequence[int] = ()
    ) -> None:
        super().__init__()
        config: Any = module.config
        self.module = module.eval().requires_grad_(False)
        self.encoder_window = encoder_window
        self.num_layers = len(self.layers)
        self.encoder_layers = sorted(set(encoder_layers)) or [self.num_layers]
        self.width = int(config.hidden_size)
        self.encoder_dim = self.width * len(self.encoder_layers)
        self.log_mel = LogMel(config.num_mel_bins)
        self.name = name
        self.revision: str | None = None
        self.fingerprint = fingerprint(module)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stay in evaluation mode for any `mode`, since the encoder is frozen."""
        return super().train(False)

    @property
    def convention(self) -> str:
        """How clips are padded before they are encoded, their frames counted, and which layers' outputs they are;
        stored in every checkpoint.
        """
        chosen = self.encoder_layers if self.encoder_layers != [self.num_layers] else []
        return CONVENTIONS[self.encoder_window] + (LAYERS + " ".join(map(str, chosen)) if chosen else "")

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
        windows = self.windows_of(num_samples)
        waveforms, samples = self.window(waveforms, num_samples)
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = self.log_mel(waveforms, upload(samples, waveforms.device))
            return self.encode(mel.to(self.dtype), windows), [window.kept for window in windows]

    def window(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the waveforms (B, S) and lengths (B,) that the spectrogram is taken of."""
        windows = self.windows_of(num_samples)
        samples = [window.whole * FRAME_SAMPLES for window in windows]
        before = [window.before * FRAME_SAMPLES for window in windows]
        return surround(waveforms, before, max(samples)), torch.tensor(samples)

    def windows_of(self, num_samples: Tensor) -> list[Window]:
        """Return what is encoded of clips of (B,) samples, and how many frames of it are kept."""
        return [window_of(n, self.encoder_window) for n in num_samples.tolist()]

    def num_frames(self, num_samples: Tensor) -> list[int]:
        """Return how many frames `forward` makes of clips of (B,) samples."""
        return [window.kept for window in self.windows_of(num_samples)]

    @abstractmethod
    def encode(self, mel: Tensor, windows: list[Window]) -> Tensor:
        """Encode (B, M, L) mel frames, zero beyond each window, into (N, D) packed encoder frames: of each window those
        that are kept.
        """

    def read_layers(self, hidden: Any, read: Callable[[Any, Any], Any]) -> list[Any]:
        """Run the layers, each by `read(layer, hidden)`, up to the last of `encoder_layers`; return their outputs."""
        kept = []
        module: Any = self.module
        for number, layer in enumerate(module.layers[: self.encoder_layers[-1]], start=1):
            hidden = read(layer, hidden)
            if number in self.encoder_layers:
                kept.append(hidden)
        return kept

    def join(self, outputs: list[Tensor]) -> Tensor:
        """Return frames (N, D) of the outputs (N, width) of `encoder_layers`: each normalized by what reads it in the
        encoder, which is the first norm of the next layer, or the one at the end.
        """
        module: Any = self.module
        norms = [getattr(layer, self.layer_norm) for layer in module.layers[1:]] + [getattr(module, self.last_norm)]
        parts = [norms[number - 1](output) for number, output in zip(self.encoder_layers, outputs, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def convolve(self, mel: Tensor) -> Tensor:
        """Return the output (B, L / 2, D) of the convolutions before the transformer layers for (B, M, L) mel."""
        module: Any = self.module
        return gelu(module.conv2(gelu(module.conv1(mel)))).transpose(1, 2)

    def pack(self, mel: Tensor, windows: list[Window]) -> tuple[Tensor, PackedLayout, list[int]]:
        """Convolve windows of different lengths, and put them into one row.

        Returns:
            (1, A, D) inputs of the first layer, their layout, and how many of them belong to each window.
        """
        padded = self.convolve(mel)
        whole = [window.whole for window in windows]
        # The shorter windows of the batch still have frames of padding here; they are dropped, not masked.
        rows = torch.cat([torch.arange(n) + i * padded.shape[1] for i, n in enumerate(whole)])
        hidden = padded.flatten(0, 1).index_select(0, upload(rows, mel.device))[None]
        return hidden, PackedLayout.of(whole, mel.device, self.kernel), whole


def cut(frames: Iterable[Tensor], windows: list[Window]) -> Tensor:
    """Return the frames (N, width) of windows that are kept, the first ones of each."""
    return torch.cat([frame[: window.kept] for frame, window in zip(frames, windows, strict=True)])


class GlmAsrSpeechEncoder(SpeechEncoder):
    """The audio tower of GLM-ASR.

    Clips, bare or `padded`: the convolutions run on a padded batch, the transformer layers on real frames only, packed.
    The stock forward builds no attention mask, so a padded clip's features depend on its neighbors. Here each clip
    attends within itself, and its positions start at 0.

    Windows of 30 s: the stock forward, as its makers' own processors and servers run it. The frames of the clip are
    kept; those of the silence after it are dropped.
    """

    title = "GLM-ASR"
    module_class = GlmAsrEncoder
    attention = PACKED_ATTENTION
    windows = ENCODER_WINDOWS
    layer_norm, last_norm = "input_layernorm", "norm"

    def encode(self, mel: Tensor, windows: list[Window]) -> Tensor:
        """See `SpeechEncoder.encode`."""
        module: Any = self.module
        if self.encoder_window == "30s":
            hidden = self.convolve(mel)  # (B, 1500, width)
            positions = module.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1], device=mel.device)[None])
            outputs = self.read_layers(hidden, lambda layer, x: layer(x, position_embeddings=positions))
            kept = [cut(x, windows) for x in outputs]
        else:
            hidden, layout, whole = self.pack(mel, windows)
            positions = module.rotary_emb(hidden, position_ids=layout.position_ids)
            outputs = self.read_layers(
                hidden, lambda layer, x: layer(x, position_embeddings=positions, packed_layout=layout)
            )
            kept = [cut(x[0].split(whole), windows) for x in outputs]
        return self.join(kept)


class WhisperSpeechEncoder(SpeechEncoder):
    """Whisper's encoder (arXiv 2212.04356).

    Its makers pad every clip with silence to 30 s; the frames of the clip are kept, those of the silence after it are
    dropped. A second of silence costs a fraction of that; from bare clips it makes frames that differ at their ends.
    """

    title = "Whisper"
    module_class: ClassVar[type[PreTrainedModel]] = WhisperEncoder
    prefix = r"^(model\.)?encoder\."
    attention = PACKED_ATTENTION
    windows = ENCODER_WINDOWS
    layer_norm, last_norm = "self_attn_layer_norm", "layer_norm"

    def encode(self, mel: Tensor, windows: list[Window]) -> Tensor:
        """See `SpeechEncoder.encode`."""
        module: Any = self.module
        places = module.embed_positions.weight  # (1500, width)
        assert len(places) == MAX_CLIP_FRAMES
        if self.encoder_window == "30s":
            last = module.layers[self.encoder_layers[-1] - 1]

            def read(layer: Any, x: Tensor) -> Any:
                if layer is not last:
                    return layer(x, None)
                return [self.finish(last, frames, window.kept) for frames, window in zip(x, windows, strict=True)]

            outputs = self.read_layers(self.convolve(mel) + places, read)
            kept = [cut(x, windows) for x in outputs]
        else:
            hidden, layout, whole = self.pack(mel, windows)
            hidden = hidden + places.index_select(0, layout.position_ids[0])
            outputs = self.read_layers(hidden, lambda layer, x: layer(x, None, packed_layout=layout))
            kept = [cut(x[0].split(whole), windows) for x in outputs]
        return self.join(kept)

    def finish(self, layer: Any, window: Tensor, count: int) -> Tensor:
        """Return `count` frames (count, width) of a window (1500, width) after the last layer that runs.

        Nothing reads its frames of the silence, so they are not computed: they only serve as keys and values.
        """
        attention, clip = layer.self_attn, window[:count]
        seen = layer.self_attn_layer_norm(window)
        queries, keys, values = (
            states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(0, 1)[None]
            for states in (attention.q_proj(seen[:count]), attention.k_proj(seen), attention.v_proj(seen))
        )
        mixed = scaled_dot_product_attention(queries, keys, values, scale=attention.scaling)[0]
        clip = clip + attention.out_proj(mixed.transpose(0, 1).flatten(1))
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
    name: str,
    revision: str | None,
    dtype: torch.dtype,
    encoder_window: str = ModelConfig.encoder_window,
    encoder_layers: Sequence[int] = (),
) -> SpeechEncoder:
    """Load a frozen encoder, and nothing else of the checkpoint that contains it.

    Args:
        name: a Hub id, a folder or `pocket`: a GLM-ASR checkpoint, its audio tower alone, or a Whisper checkpoint.
        revision: commit, tag or branch on the Hub.
        dtype: precision of the weights.
        encoder_window: `clip`, `padded` or `30s`.
        encoder_layers: see `SpeechEncoder`.

    Raises:
        UserError: it cannot be fetched or read, lacks weights, is of another kind, or has no such window or layer.
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
        if encoder_layers and not kind.layer_norm:
            raise UserError(f"model.encoder_layers: {kind.title} ({name}) gives its last output alone; leave them out.")
        logger.info("Loading %s encoder (%s)...", kind.title, name)
        module = _load_part(kind, source, revision, tower, dtype)
        encoder = kind(module, name, encoder_window, encoder_layers)
        if (count := encoder.num_layers) < encoder.encoder_layers[-1]:
            raise UserError(f"model.encoder_layers={encoder.encoder_layers}: {kind.title} ({name}) has {count} layers.")
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
