"""Convert a recording from Python code to the samples that a model reads."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import soxr
import torch

from ..audio import AudioError, load_long_audio, mix_down
from ..decoding import split_channel
from ..lengths import SAMPLE_RATE
from ..spooled import Samples, are_finite

# A file, its bytes, a file object, samples, or samples with their rate as `datasets` has them.
Recording: TypeAlias = "str | Path | bytes | IO[bytes] | np.ndarray | torch.Tensor | dict[str, Any]"

MIN_SECONDS = 0.02  # half an alignment unit holds no speech
MAX_CHANNELS = 32  # of an array; the other dimension is time
FULL_SCALE = {"int16": 2.0**15, "int32": 2.0**31}
RATES = (1_000, 768_000)  # Hz


def to_waveform(audio: Recording, sampling_rate: int | None = None) -> Samples:
    """Return the samples (S,) of a recording: float32, mono, 16 kHz; see `load_long_audio`.

    Args:
        audio: a file of any format, its bytes or a file object; an array or tensor, (S,), (channels, S) or
            (S, channels), of floats whose full scale is 1, int16, int32 or uint8; or a dict with `array` and
            `sampling_rate`, or with `path` or `bytes`. Channels are mixed, and any rate is resampled.
        sampling_rate: of an array or tensor, in Hz; None: 16,000.

    Raises:
        AudioError: a file cannot be decoded.
        TypeError, ValueError: it is not a recording.
    """
    if isinstance(audio, dict):
        return _of_dict(audio, sampling_rate)
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().to("cpu", torch.float32 if audio.is_floating_point() else None).numpy()
    if isinstance(audio, np.ndarray):
        return _of_array(audio, SAMPLE_RATE if sampling_rate is None else sampling_rate)
    if sampling_rate is not None:
        raise ValueError("sampling_rate is for arrays and tensors: a file says its own.")
    if hasattr(audio, "read"):
        audio = audio.read()
        if not isinstance(audio, bytes):
            raise TypeError("a recording's file has to be opened in binary mode: open(path, 'rb').")
    if isinstance(audio, bytes | bytearray | memoryview):
        return load_long_audio(bytes(audio))
    if isinstance(audio, str | Path):
        file, channel = split_channel(str(audio))
        return load_long_audio(file, channel=channel)
    raise TypeError(
        f"a recording is a path, bytes, a file object, an array, a tensor or a dict, not {type(audio).__name__}."
    )


def _of_dict(audio: dict[str, Any], sampling_rate: int | None) -> Samples:
    if audio.get("array") is not None:
        rate = audio.get("sampling_rate", sampling_rate)
        if rate is None:
            raise ValueError("a dict with an array needs its sampling_rate.")
        return to_waveform(np.asarray(audio["array"]), rate)
    found = audio.get("bytes") or audio.get("path")
    if found is None:
        raise ValueError(
            f"a dict needs array and sampling_rate, or bytes or path; it has {', '.join(map(str, audio))}."
        )
    return to_waveform(found)


def _of_array(samples: np.ndarray, rate: int) -> np.ndarray:
    if not isinstance(rate, int | float | np.number) or not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"sampling_rate must be between {RATES[0]:,} and {RATES[1]:,} Hz, got {rate}.")
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples must be (S,), (channels, S) or (S, channels), got {samples.shape}.")
    kind = samples.dtype.name
    waveform: np.ndarray
    if samples.dtype.kind == "f":
        waveform = samples.astype(np.float32)
    elif kind == "uint8":
        waveform = (samples.astype(np.float32) - 128) / 128
    elif kind in FULL_SCALE:
        waveform = (samples / FULL_SCALE[kind]).astype(np.float32)
    else:
        raise ValueError(f"samples must be floats, int16, int32 or uint8, got {kind}: its full scale is not known.")
    if waveform.ndim == 2:
        channels_last = waveform if waveform.shape[1] < waveform.shape[0] else waveform.T
        if not 1 <= channels_last.shape[1] <= MAX_CHANNELS:
            raise ValueError(f"samples of shape {samples.shape} are no recording of at most {MAX_CHANNELS} channels.")
        waveform = mix_down(channels_last)
    if rate != SAMPLE_RATE:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(waveform)


def check_recording(waveform: Samples) -> None:
    """Refuse samples that cannot be transcribed; silence is allowed, and has an empty transcript.

    Raises:
        AudioError: non_finite or too_short.
        ValueError: not a one-dimensional array of floats.
    """
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        what = f"{waveform.ndim} dimensions of {waveform.dtype}"
        raise ValueError(f"samples must be floats (S,), mono, 16 kHz, got {what}")
    if not are_finite(waveform):
        raise AudioError("non_finite", "holds NaN or infinite samples")
    if len(waveform) < MIN_SECONDS * SAMPLE_RATE:
        raise AudioError("too_short", f"{len(waveform) / SAMPLE_RATE:.3f} s is shorter than {MIN_SECONDS:g} s")
