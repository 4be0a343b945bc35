"""Recordings to waveforms, waveforms to log-mel spectrograms.

Dimensions: B clips, S samples, M mel bins, L mel frames.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn

from .lengths import HOP_LENGTH, N_FFT, SAMPLE_RATE, align_samples, num_mel_frames

MAX_HEADER_SECONDS = 1e6  # longer than any recording: libsndfile calls an unknown length 2^63 frames
STREAMED_WAV_BYTES = 0x7FF00000  # who writes wav to a pipe puts a placeholder above this for the length


class AudioError(Exception):
    """A recording that cannot be used; `reason` is one word of `REASONS`, the message says more."""

    REASONS = (
        "missing",
        "decode_error",
        "non_finite",
        "silent",
        "too_short",
        "too_long",
        "duration_mismatch",
    )

    UNREADABLE = ("missing", "decode_error")  # may be readable tomorrow: the disk was not mounted

    def __init__(self, reason: str, message: str) -> None:
        assert reason in self.REASONS
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Segment:
    """A part of a recording: `seconds` of the file from `start` seconds on; None: all that follows."""

    path: Path
    start: float
    seconds: float | None = None


def _openable(source: str | Path | bytes) -> str | io.BytesIO:
    """What soundfile opens for a path or for bytes; refuses what is not there or empty."""
    if isinstance(source, bytes):
        if not source:
            raise AudioError("decode_error", "the recording is empty (0 bytes)")
        return io.BytesIO(source)
    path = Path(source)
    if not path.is_file():
        raise AudioError("missing", f"there is no file {path}")
    if path.stat().st_size == 0:
        raise AudioError("decode_error", f"{path} is empty (0 bytes)")
    return str(path)


def load_audio(source: str | Path | bytes | Segment) -> np.ndarray:
    """Decode a recording of any rate and channel count (wav, flac, mp3, ogg/opus) from a path or its bytes.

    Of a segment, no more than its part of the file is read.

    Returns:
        float32 samples (S,), mono, 16 kHz.

    Raises:
        AudioError: missing, empty, not audio, cut short in its header, or with a NaN or infinite sample.
    """
    file = _openable(source.path if isinstance(source, Segment) else source)
    try:
        if isinstance(source, Segment):
            samples, rate = _read_segment(file, source)
        else:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError("decode_error", f"cannot be decoded: {error}") from None
    waveform = mix_down(samples)
    if not np.isfinite(waveform).all():
        raise AudioError("non_finite", "holds NaN or infinite samples")
    if rate != SAMPLE_RATE and len(waveform):
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _read_segment(file: str | io.BytesIO, segment: Segment) -> tuple[np.ndarray, int]:
    """Samples (S, channels) of a part of a file, empty where it lies past the end, and their rate."""
    with soundfile.SoundFile(file) as opened:
        rate = opened.samplerate
        opened.seek(min(round(segment.start * rate), opened.frames))
        frames = -1 if segment.seconds is None else round(segment.seconds * rate)
        return opened.read(frames, dtype="float32", always_2d=True), rate


@dataclass(frozen=True)
class Header:
    """What a recording says of itself: its format (`flac`, `mp3`, ...), Hz, channels, and seconds."""

    format: str
    sample_rate: int
    channels: int
    seconds: float


def read_header(source: str | Path | bytes | Segment) -> Header:
    """Read a recording's header; its seconds are those of `header_seconds`.

    Raises:
        AudioError: missing, empty, or not audio.
    """
    seconds = header_seconds(source)
    info = soundfile.info(_openable(source.path if isinstance(source, Segment) else source))
    compressed = info.subtype if info.format in ("OGG", "MPEG") else info.format
    names = {"MPEG_LAYER_III": "mp3", "WAVEX": "wav"}
    return Header(names.get(compressed, compressed.lower()), info.samplerate, info.channels, seconds)


def mix_down(samples: np.ndarray) -> np.ndarray:
    """Average channels, (S, C) to (S,); channel by channel, since numpy's mean over so short an axis takes as long as
    decoding does.
    """
    mixed = samples[:, 0]
    for channel in samples.T[1:]:
        mixed = mixed + channel
    return mixed / samples.shape[1] if samples.shape[1] > 1 else mixed


def header_seconds(source: str | Path | bytes | Segment) -> float:
    """Read how long a recording says it is, in seconds, decoding it only where its header does not say.

    Of a wav file that was cut short this is the announced length, which the decoder passes over in silence.

    Raises:
        AudioError: missing, empty, or not audio.
    """
    if isinstance(source, Segment):
        return source.seconds or max(header_seconds(source.path) - source.start, 0.0)
    file = _openable(source)
    try:
        info = soundfile.info(file, verbose=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError("decode_error", f"cannot be decoded: {error}") from None
    if info.frames > MAX_HEADER_SECONDS * info.samplerate:  # some containers cannot say: "unknown" is a huge number
        return len(load_audio(source)) / SAMPLE_RATE
    seconds = info.frames / info.samplerate
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE)
    if cut and int(cut[2]) > 0 and int(cut[1]) < STREAMED_WAV_BYTES:
        seconds *= int(cut[1]) / int(cut[2])
    return seconds


def is_cut_short(seconds: float, expected_seconds: float) -> bool:
    """Whether a clip misses more of its expected length than codecs explain: 10 % and half a second."""
    return seconds < expected_seconds - max(0.5, 0.1 * expected_seconds)


def is_silent(waveform: np.ndarray) -> bool:
    """Whether a waveform (S,) is digital silence throughout, dithered or not: below -100 dBFS; or empty."""
    return not (len(waveform) and np.abs(waveform).max() > 1e-5)


def check_clip(num_samples: int, silent: bool, min_seconds: float, max_seconds: float) -> None:
    """Refuse a decoded clip that is too short, too long, or silent throughout.

    Raises:
        AudioError: too_short, too_long or silent.
    """
    seconds = num_samples / SAMPLE_RATE
    if seconds < min_seconds:
        raise AudioError("too_short", f"{seconds:.3f} s is shorter than {min_seconds:g} s")
    if seconds > max_seconds + 0.01:  # resampling may add a sample or two
        raise AudioError("too_long", f"{seconds:.2f} s is longer than {max_seconds:g} s")
    if silent:
        raise AudioError("silent", "is silent throughout")


def pad_waveforms(waveforms: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Zero-pad each clip to whole alignment units, then all to the longest.

    Args:
        waveforms: B arrays of float32 samples (S_i,), each with at least one sample.

    Returns:
        waveforms (B, S) float32, and lengths (B,) int64: the clips' own aligned lengths, multiples of 1280.
    """
    lengths = [align_samples(len(w)) for w in waveforms]
    batch = torch.zeros(len(waveforms), max(lengths, default=0))
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return batch, torch.tensor(lengths, dtype=torch.int64)


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram (arXiv 2212.04356, section 2.2) of a padded batch, on the batch's device.

    Each clip's result is the one of that clip alone: its end is reflected where the clip ends, not where
    the batch does, and its dynamic range is clamped to its own maximum. Equal to
    `transformers.WhisperFeatureExtractor` without padding.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, num_mel_bins: int) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(1 + N_FFT // 2, num_mel_bins, 0.0, 8000.0, SAMPLE_RATE, "slaney", "slaney")
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Compute the spectrogram.

        Args:
            waveforms: (B, S) float32, zero beyond each clip's length.
            lengths: (B,) samples of each clip; more than 200, multiples of 160.

        Returns:
            (B, M, L) float32, zero beyond each clip's `lengths // 160` frames.
        """
        half = N_FFT // 2
        num_frames = num_mel_frames(waveforms.shape[1])
        # Sample i of the clip stands at half + i. A position past the end reads the sample mirrored about
        # the last.
        position = torch.arange(-half, waveforms.shape[1] + half, device=waveforms.device).abs()[None]
        last = lengths[:, None] - 1
        mirrored = torch.where(position > last, 2 * last - position, position)
        padded = waveforms.gather(1, mirrored.clamp_min(0)) * (mirrored >= 0)
        spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=self.window, center=False, return_complex=True)
        power = spectrum[..., :num_frames].abs().square()
        log_mel = (self.filters @ power).clamp_min(1e-10).log10()
        real = (torch.arange(num_frames, device=lengths.device) < (lengths // HOP_LENGTH)[:, None])[:, None]
        peak = log_mel.masked_fill(~real, -torch.inf).amax((1, 2), keepdim=True)
        return ((torch.maximum(log_mel, peak - 8.0) + 4.0) / 4.0) * real
