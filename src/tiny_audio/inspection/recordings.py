"""Inspection of recordings: reads the headers of some, and decodes some with the code that training uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ..audio import AudioError, Header, is_cut_short, read_header
from ..config import DataConfig
from ..data.index import Skip
from ..data.loader import ClipDataset, open_loader
from ..data.plan import Draw
from ..data.sources import Source
from ..lengths import SAMPLE_RATE
from ..progress import Progress
from .facts import DecodedFacts, HeaderFacts, Histogram, Named, Spread

HEADER_READERS = 8
RMS_EDGES = np.linspace(-70, 0, 36)  # dBFS
FULL_SCALE = 0.99
CLIPPED_SHARE = 1e-3  # of samples at full scale, from which on a clip counts as clipped: 16 a second
QUIET_RMS = -50.0  # dBFS: an average level below which 16 bits hold little of the speech
BAND_FFT = 512
BAND_HZ = 500
END_FRAMES = 3  # in which a clip may break off into zeros: a click with all frequencies
BAND_FLOOR = -62.0  # dB below the loudest band: above 4 kHz, recordings at 8 kHz have -66 at most, and -84 usually
BATCH_CLIPS = 16


def sample_rows(source: Source, count: int | None, seed: int, read: bool = False) -> np.ndarray:
    """Return a seeded sample of rows, in their order; all where `count` is None; with `read`, only rows at hand."""
    rows = np.arange(len(source)) if count is None or not read else source.rows_at_hand(seed)
    if count is None or count >= len(rows):
        return rows
    return np.sort(np.random.default_rng([seed, 3]).permutation(rows)[:count])


def look_at_headers(source: Source, rows: np.ndarray) -> HeaderFacts:
    """Read the headers of some rows."""
    facts, kinds = HeaderFacts(len(rows)), Counter[str]()
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        headers = pool.map(lambda row: _header(source, row), rows.tolist())
        for row, header in zip(rows.tolist(), headers, strict=True):
            name, listed = source.names[row], float(source.durations[row])
            if isinstance(header, AudioError):
                facts.failed.setdefault(header.reason, Named()).add(name, str(header))
                continue
            kinds[describe(header)] += 1
            if header.sample_rate < SAMPLE_RATE:
                facts.low_rate.add(name, f"{header.sample_rate:,} Hz")
            note = f"{listed:.2f} s listed, {header.seconds:.2f} s in the file"
            if is_cut_short(header.seconds, listed):
                facts.shorter.add(name, note)
            elif is_cut_short(listed, header.seconds):
                facts.longer.add(name, note)
    facts.kinds = dict(kinds.most_common())
    return facts


def _header(source: Source, row: int) -> Header | AudioError:
    try:
        return read_header(source.recording(row))
    except AudioError as error:
        return error


def describe(header: Header) -> str:
    """Return a header's kind: `flac, 16 kHz, mono`."""
    channels = {1: "mono", 2: "stereo"}.get(header.channels, f"{header.channels} channels")
    return f"{header.format}, {header.sample_rate / 1000:g} kHz, {channels}"


class _Level(NamedTuple):
    """A decoded clip: its source and name, levels in dBFS, share of samples at full scale, bandwidth in kHz."""

    source: int
    name: str
    rms: float
    peak: float
    clipped: float
    bandwidth: float


class _Measured(Dataset[tuple[list[_Level], list[Skip]]]):
    """Reads clips as training does, and measures them in the worker process, so that waveforms do not leave it."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitems__(self, draws: Sequence[Draw]) -> tuple[list[_Level], list[Skip]]:
        batch = self.clips.__getitems__(draws)
        levels = [
            _Level(source, name, *measure(waveform[:length].numpy()))
            for source, name, waveform, length in zip(
                batch.sources, batch.names, batch.waveforms, batch.num_samples.tolist(), strict=True
            )
        ]
        return levels, batch.skipped


def measure(waveform: np.ndarray) -> tuple[float, float, float, float]:
    """Return RMS and peak (dBFS), share of samples at full scale, and bandwidth (kHz) of a waveform (S,)."""
    size = abs(waveform)
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    clipped = float((size >= FULL_SCALE).mean())
    return _decibels(rms), _decibels(float(size.max())), clipped, bandwidth(waveform)


def _decibels(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, 1e-6)))


def bandwidth(waveform: np.ndarray) -> float:
    """Return the frequency in kHz above which a waveform (S,) holds almost nothing; 8 for a full spectrum.

    Compares the power of bands of 500 Hz over the whole clip: the highest band not 62 dB below the loudest counts.
    """
    frames = np.pad(waveform, (0, -len(waveform) % BAND_FFT)).reshape(-1, BAND_FFT)
    if len(frames) > 2 * END_FRAMES:
        frames = frames[:-END_FRAMES]
    frames = frames * np.hanning(BAND_FFT)
    power = np.square(abs(np.fft.rfft(frames))).sum(0)[: BAND_FFT // 2]
    bands = power.reshape(-1, BAND_FFT * BAND_HZ // SAMPLE_RATE).sum(1)
    loud = np.flatnonzero(bands > bands.max() * 10 ** (BAND_FLOOR / 10))
    return float((loud[-1] + 1) * BAND_HZ / 1000)


def no_tokens(text: str) -> list[int]:
    """Replace a tokenizer where only recordings are inspected."""
    return []


def look_at_recordings(
    sources: Sequence[Source], rows: Sequence[np.ndarray], data: DataConfig, num_workers: int
) -> list[DecodedFacts]:
    """Decode some rows of each source.

    Args:
        sources: with different names or not.
        rows: (R_k,) of each.
        data: limits on length; `prefetch_factor`.
        num_workers: processes that decode.
    """
    batches = [
        [Draw(0, k, row) for row in own[i : i + BATCH_CLIPS].tolist()]
        for k, own in enumerate(rows)
        for i in range(0, len(own), BATCH_CLIPS)
    ]
    facts = [DecodedFacts(len(own)) for own in rows]
    levels: list[list[_Level]] = [[] for _ in sources]
    dataset = _Measured(ClipDataset(sources, no_tokens, data))
    loader = open_loader(dataset, batches, num_workers, data.prefetch_factor)
    with closing(Progress("Decoding", sum(map(len, batches)), "clips", False)) as progress:
        for batch, (measured, skips) in zip(batches, loader, strict=True):
            for level in measured:
                levels[level.source].append(level)
            for skip in skips:
                facts[batch[0].source].skipped.setdefault(skip.reason, Named()).add(skip.name, skip.detail)
            progress.advance(len(batch))
    for own, found in zip(facts, levels, strict=True):
        _summarize(own, found)
    return facts


def _summarize(facts: DecodedFacts, levels: Sequence[_Level]) -> None:
    if not levels:
        return
    rms = np.array([level.rms for level in levels])
    facts.rms, facts.rms_histogram = Spread.of(rms), Histogram.of(rms, RMS_EDGES)
    facts.peak = Spread.of([level.peak for level in levels])
    facts.bandwidth_khz = Spread.of([level.bandwidth for level in levels])
    for level in sorted(levels, key=lambda level: -level.clipped):
        if level.clipped >= CLIPPED_SHARE:
            facts.clipped.add(level.name, f"{level.clipped:.2%} of the samples")
    for level in sorted(levels, key=lambda level: level.rms):
        if level.rms < QUIET_RMS:
            facts.quiet.add(level.name, f"{level.rms:.0f} dBFS")
