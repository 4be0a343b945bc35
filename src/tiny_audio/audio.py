"""Recordings to waveforms.

Dimensions: B clips, S samples.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from .decoders import Allowance, AudioError
from .decoding import open_recording
from .lengths import SAMPLE_RATE, align_samples
from .spooled import Samples, SpooledSamples, are_finite

logger = logging.getLogger(__name__)

LENGTH_SLACK = 0.01  # seconds: resampling may add a sample or two
CANCELLED = 0.05  # share of the power of a mix of unrelated channels: below it, the channels cancel each other out
INTEGER_PEAK = 32.0  # of floats, whose full scale is 1: above it, they are integers that were written as floats
UNREAD_BYTES, UNREAD_SHARE = 16_384, 0.3  # of a file, for tags and tables
STEP = 2.0**-15  # the step of 16 bits
SPOOLED_SECONDS = 600.0  # 38 MB: samples of a longer recording go to a temporary file, if its reader can use one


@dataclass(frozen=True)
class Segment:
    """A part of a recording: `seconds` of the file from `start` seconds on; None: to its end."""

    path: Path
    start: float
    seconds: float | None = None


_told: set[str] = set()


def tell_once(kind: str, message: str) -> None:
    """Warn only of the first recording of a kind in this process; a corpus may have a million of them."""
    if kind not in _told:
        _told.add(kind)
        logger.warning("%s. Further ones of this kind are not reported.", message)


def load_audio(
    source: str | Path | bytes | Segment,
    *,
    channel: int | None = None,
    max_seconds: float = math.inf,
    tell: Callable[[str, str], None] = tell_once,
) -> np.ndarray:
    """Decode a recording of any format, rate and channel count from a path or its bytes, to the end of its file.

    For a segment, only its part of the file is read.

    Args:
        source: the recording.
        channel: the channel to read, 0 being the first; None: a mix of all, or the loudest where they cancel each
            other out.
        max_seconds: decoding stops there.
        tell: called with kind and message for a warning about a usable recording.

    Returns:
        float32 samples (S,), mono, 16 kHz.

    Raises:
        AudioError: missing, empty, not audio, damaged, longer than `max_seconds`, or with a NaN or infinite sample.
    """
    waveform = _load(source, channel, max_seconds, tell)
    assert isinstance(waveform, np.ndarray)
    return waveform


def load_long_audio(
    source: str | Path | bytes, *, channel: int | None = None, tell: Callable[[str, str], None] = tell_once
) -> Samples:
    """Decode a recording that may be hours long: see `load_audio`.

    Returns:
        As `load_audio`; of a recording that is longer than `SPOOLED_SECONDS`, samples in a temporary file.

    Raises:
        AudioError: as `load_audio`, or there is no room for the file.
    """
    return _load(source, channel, math.inf, tell, spool_seconds=SPOOLED_SECONDS)


def _load(
    source: str | Path | bytes | Segment,
    channel: int | None,
    max_seconds: float,
    tell: Callable[[str, str], None],
    spool_seconds: float = math.inf,
) -> Samples:
    sound = _decode(_Sound(channel, spool_seconds), source, max_seconds)
    if channel is None and sound.is_cancelled:
        loudest = sound.loudest
        sound = _decode(_Sound(loudest, spool_seconds), source, max_seconds)
        sound.notes["cancelled"] = f"its channels cancel each other out; channel {loudest} is taken"
    waveform = sound.waveform()
    if not are_finite(waveform):
        raise AudioError("non_finite", "holds NaN or infinite samples")
    if sound.full_scale != 1:
        sound.notes["scale"] = (
            f"its samples reach {sound.peak:,.0f}, and 1 is full scale: divided by {sound.full_scale:,}"
        )
    for name, note in sound.notes.items():
        tell(name, f"{_name(source)}: {note}")
    return waveform


def change_speed(waveform: np.ndarray, percent: int) -> np.ndarray:
    """Play (S,) samples at `percent` of their speed, with a change of pitch: (S * 100 / percent,) samples.

    Speed perturbation: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015.
    """
    return waveform if percent == 100 else soxr.resample(waveform, percent, 100, quality="HQ")


def _name(source: str | Path | bytes | Segment) -> str:
    if isinstance(source, bytes):
        return "a recording in a table"
    return str(source.path if isinstance(source, Segment) else source)


def _decode(sound: _Sound, source: str | Path | bytes | Segment, max_seconds: float) -> _Sound:
    try:
        for samples, rate, is_float in read_blocks(source, sound.notes):
            sound.add(samples, rate, is_float)
            if sound.seconds > max_seconds + LENGTH_SLACK:
                raise AudioError("too_long", f"is longer than {max_seconds:g} s")
        sound.finish()
    except MemoryError:
        raise AudioError("decode_error", f"takes more memory than there is, after {sound.seconds:,.0f} s") from None
    return sound


def read_blocks(source: str | Path | bytes | Segment, notes: dict[str, str]) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Decode a recording block by block, to the end of its file.

    Args:
        source: the recording.
        notes: receives warnings about it at the end, by kind.

    Yields:
        Samples (S, C) float32 as the file has them, their rate in Hz, and whether the file holds floats.

    Raises:
        AudioError: missing or decode_error.
    """
    part = source if isinstance(source, Segment) else None
    file = part.path if part else source if isinstance(source, bytes) else Path(str(source))
    start, left = (part.start, math.inf if part.seconds is None else part.seconds) if part else (0.0, math.inf)
    decoded, announced, lost, unread = 0.0, 0.0, 0.0, 0
    with open_recording(file, whole=part is None) as recordings:
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        allowance = Allowance(size)
        for decoder in recordings:
            if len(recordings) > 1 and start > 0 and (length := decoder.seconds()) <= start:
                start -= length
                continue
            announced += decoder.announced() or 0.0
            for samples, rate in decoder.blocks(start):
                decoded = allowance.add(samples, rate)
                if left < math.inf:
                    samples = samples[: round(left * rate)]
                    left -= len(samples) / rate
                yield samples, rate, decoder.is_float
                if left * rate < 0.5:
                    return
            start, lost, unread = 0.0, lost + decoder.lost, unread + decoder.unread
            if decoder.tracks > 1:
                notes["tracks"] = f"holds {decoder.tracks} tracks of sound, of which one is read"
    if is_cut_short(decoded, decoded + lost):
        raise AudioError("decode_error", f"is damaged: {lost:.2f} of {decoded + lost:.2f} s cannot be decoded")
    if lost > 0:
        notes["damaged"] = f"{lost:.2f} s are damaged and left out"
    if part is None and unread > max(UNREAD_BYTES, UNREAD_SHARE * size):
        notes["unread"] = (
            f"{unread:,} of its {size:,} bytes belong to no sound that its header announces, and are not read"
        )
    if part is None and is_cut_short(decoded, announced):
        notes["cut"] = f"holds {decoded:.2f} s of the {announced:.2f} s that its header announces"


class _Sound:
    """Collects samples of any rate and channel count into one waveform, and facts about the whole of it.

    Args:
        channel: see `load_audio`.
        spool_seconds: the samples of a longer recording go to a temporary file.
    """

    def __init__(self, channel: int | None, spool_seconds: float) -> None:
        self.channel, self.spool_seconds = channel, spool_seconds
        self.notes: dict[str, str] = {}
        self.peak = 0.0  # of floats
        self._are_whole = True  # the floats are whole numbers
        self._bytes = bytearray()  # a long waveform is never copied
        self._spooled: SpooledSamples | None = None
        self._num_samples = 0
        self._rate = SAMPLE_RATE
        self._resampler: soxr.ResampleStream | None = None
        self._power, self._expected = 0.0, 0.0  # of the mix; its expected value for unrelated channels
        self._powers: Counter[int] = Counter()

    @property
    def seconds(self) -> float:
        return self._num_samples / SAMPLE_RATE

    def add(self, samples: np.ndarray, rate: int, is_float: bool) -> None:
        channels = samples.shape[1]
        if self.channel is not None and self.channel >= channels:
            raise AudioError(
                "decode_error", f"has no channel {self.channel}: it has {channels}, of which 0 is the first"
            )
        if is_float:
            self.peak = max(self.peak, float(np.abs(samples).max(initial=0)))
            self._are_whole = self._are_whole and bool((samples == np.rint(samples)).all())
        mixed = mix_down(samples) if self.channel is None else samples[:, self.channel]
        if self.channel is None and channels > 1:
            self._weigh(samples[::7], mixed[::7])
        if rate != self._rate:
            self.finish()
            self._rate = rate
            self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        self._append(mixed, last=False)

    def _weigh(self, samples: np.ndarray, mixed: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # reported as non_finite
            powers = np.square(samples).sum(axis=0, dtype=np.float64)
            self._power += float(np.square(mixed).sum(dtype=np.float64))
        self._expected += float(powers.sum()) / samples.shape[1] ** 2
        self._powers.update(dict(enumerate(powers.tolist())))

    def _append(self, mixed: np.ndarray, last: bool) -> None:
        if self._resampler is not None:
            mixed = self._resampler.resample_chunk(np.ascontiguousarray(mixed), last=last)
        self._num_samples += len(mixed)
        self._keep(np.ascontiguousarray(mixed))

    def _keep(self, mixed: np.ndarray) -> None:
        try:
            if self._spooled is not None:
                self._spooled.append(mixed)
                return
            self._bytes += mixed.data
            if self.seconds > self.spool_seconds:
                self._spooled = SpooledSamples()
                self._spooled.append(np.frombuffer(self._bytes, dtype=np.float32))
                self._bytes = bytearray()
        except OSError as error:
            raise AudioError(
                "decode_error", f"needs room for its samples ({error.strerror}); TMPDIR names another folder for them"
            ) from None

    def finish(self) -> None:
        """Take the last samples out of the resampler."""
        if self._resampler is not None:
            self._append(np.zeros(0, dtype=np.float32), last=True)
        self._resampler, self._rate = None, SAMPLE_RATE

    def waveform(self) -> Samples:
        if self._spooled is not None:
            self._spooled.scale = 1 / self.full_scale
            return self._spooled
        waveform = np.frombuffer(self._bytes, dtype=np.float32)
        if self.full_scale != 1:
            with np.errstate(invalid="ignore"):  # reported as non_finite
                waveform *= np.float32(1 / self.full_scale)
        return waveform

    @property
    def is_cancelled(self) -> bool:
        return self._power < CANCELLED * self._expected

    @property
    def loudest(self) -> int:
        return max(self._powers, key=lambda channel: self._powers[channel])

    @property
    def full_scale(self) -> int:
        """1, or the full scale of integers that were written as floats."""
        if self.peak > INTEGER_PEAK or (self._are_whole and self.peak >= 2):
            return next((1 << bits for bits in (15, 23) if self.peak <= 1 << bits), 1 << 31)
        return 1


@dataclass(frozen=True)
class Header:
    """The header of a recording: its format (`flac`, `mp3`, ...), Hz, channels, and seconds."""

    format: str
    sample_rate: int
    channels: int
    seconds: float


def read_header(source: str | Path | bytes | Segment) -> Header:
    """Read a recording's header; its seconds are those of `header_seconds`.

    Raises:
        AudioError: missing, empty, or not audio.
    """
    file = source.path if isinstance(source, Segment) else source
    with open_recording(file if isinstance(file, bytes) else Path(file)) as recordings:
        seconds, first = sum(decoder.seconds() for decoder in recordings), recordings[0]
    if isinstance(source, Segment):
        seconds = source.seconds or max(seconds - source.start, 0.0)
    return Header(first.format, first.sample_rate, first.channels, seconds)


def header_seconds(source: str | Path | bytes | Segment) -> float:
    """Read the length in seconds from the header; if it is missing or not reliable, search for the end of the file.

    For a recording that was cut short, this is the announced length.

    Raises:
        AudioError: missing, empty, or not audio.
    """
    if isinstance(source, Segment) and source.seconds:
        return source.seconds
    return read_header(source).seconds


def mix_down(samples: np.ndarray) -> np.ndarray:
    """Average channels, (S, C) to (S,); channel by channel, since numpy's mean over so short an axis takes as long as
    decoding.
    """
    mixed = samples[:, 0]
    for channel in samples.T[1:]:
        mixed = mixed + channel
    return mixed / samples.shape[1] if samples.shape[1] > 1 else mixed


def is_cut_short(seconds: float, expected_seconds: float) -> bool:
    """Whether a clip is shorter than expected by more than codecs explain: 10 % and half a second."""
    return seconds < expected_seconds - max(0.5, 0.1 * expected_seconds)


def is_silent(waveform: np.ndarray) -> bool:
    """Whether a waveform (S,) is empty or digital silence throughout, dithered or not.

    Dither of 16 bits has a level (root mean square) of about one step, and no sample of it is far above.
    """
    if not len(waveform):
        return True
    peak = max(float(waveform.max()), -float(waveform.min()))  # without a copy: it may be hours
    return peak < STEP / 4 or (peak < 8 * STEP and float(waveform @ waveform) < (1.5 * STEP) ** 2 * len(waveform))


def check_clip(num_samples: int, silent: bool, min_seconds: float, max_seconds: float) -> None:
    """Refuse a decoded clip that is too short, too long, or silent throughout.

    Raises:
        AudioError: too_short, too_long or silent.
    """
    seconds = num_samples / SAMPLE_RATE
    if seconds < min_seconds:
        raise AudioError("too_short", f"{seconds:.3f} s is shorter than {min_seconds:g} s")
    if seconds > max_seconds + LENGTH_SLACK:
        raise AudioError("too_long", f"{seconds:.2f} s is longer than {max_seconds:g} s")
    if silent:
        raise AudioError("silent", "is silent throughout")


def pad_waveforms(waveforms: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Zero-pad clips to the longest, and that one to whole alignment units.

    Args:
        waveforms: B arrays of float32 samples (S_i,), each with at least one sample.

    Returns:
        waveforms (B, S) float32, S a multiple of 1280, and the clips' own lengths (B,) int64.
    """
    lengths = [len(w) for w in waveforms]
    batch = torch.zeros(len(waveforms), align_samples(max(lengths, default=0)))
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return batch, torch.tensor(lengths, dtype=torch.int64)
