"""Clips without speech, whose transcript is empty: from them the decoder learns to write nothing.

A source of silence, synthetic noise and, if there are some, recordings of noise. It is drawn, cached, augmented,
resumed and counted like any other source. The content of a clip is a function of the seed and its row.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ..audio import AudioError
from ..config import DataConfig
from ..lengths import SAMPLE_RATE
from .files import file_versions
from .sounds import Sounds, open_sounds
from .sources import Source

NUM_CLIPS = 256
KINDS = ("silence", "dither", "white", "pink", "hum")  # in turn; recordings, if there are any, are every second clip
LEVEL_DB = (-70.0, -20.0)  # lowest and highest root mean square of synthetic clips, below full scale
GAIN_DB = (-20.0, 0.0)  # of recordings
USUAL_SECONDS = 10.0  # lengths reach at least this, also beside a corpus of single words
STREAM = 4  # the plan and the augmentation make their choices from the seed and 0 to 3
VERSION = 1  # of the code below: a change of the clips must change the keys of their cache


class NoSpeech:
    """The recordings of the source, made when they are read: see `Recordings`.

    Args:
        seed: of all choices.
        seconds: of each clip.
        noises: recordings to take pieces of; None: there are none.
    """

    def __init__(self, seed: int, seconds: Sequence[float], noises: Sounds | None) -> None:
        self.seed, self.seconds, self.noises = seed, list(seconds), noises

    def kind(self, row: int) -> str:
        """One of `KINDS`, or `recording`."""
        if self.noises is None:
            return KINDS[row % len(KINDS)]
        return "recording" if row % 2 else KINDS[row // 2 % len(KINDS)]

    def __getitem__(self, row: int) -> bytes:
        """Return a clip as a wav file of 32-bit floats.

        Raises:
            AudioError: its recording is no longer readable.
        """
        kind, rng = self.kind(row), np.random.default_rng([self.seed, STREAM, row])
        count = round(self.seconds[row] * SAMPLE_RATE)
        samples = synthesize(kind, count, rng) if kind in KINDS else self._piece(count, rng)
        file = io.BytesIO()
        soundfile.write(file, samples.astype(np.float32), SAMPLE_RATE, format="WAV", subtype="FLOAT")
        return file.getvalue()

    def _piece(self, count: int, rng: np.random.Generator) -> np.ndarray:
        assert self.noises is not None
        which, where = rng.random(2)
        piece = self.noises.piece(which, where, count)
        if piece is None:
            raise AudioError("missing", f"{self._path(which)} can no longer be read")
        return piece * 10 ** (rng.uniform(*GAIN_DB) / 20)

    def _path(self, which: float) -> str:
        assert self.noises is not None
        return self.noises.paths[int(which * len(self.noises))]

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        versions = [f"no speech {VERSION} {self.seed} {row} {self.kind(row)} {self.seconds[row]}" for row in rows]
        for i, row in enumerate(rows):
            if self.kind(row) == "recording":
                which = np.random.default_rng([self.seed, STREAM, row]).random()
                versions[i] += f" {file_versions([Path(self._path(which))])[0]}"
        return versions


def synthesize(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` samples (S,) of one of `KINDS`, at a level in `LEVEL_DB` if the kind has one.

    Silence is digital zero. Dither flips the last of 16 bits, as converters do. The power of pink noise falls with
    1/f. Hum is a mains frequency with its overtones, in faint noise.
    """
    if kind == "silence":
        return np.zeros(count)
    if kind == "dither":
        return rng.integers(-1, 2, count) / 2**15
    noise = rng.standard_normal(count)
    if kind == "pink":
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    elif kind == "hum":
        time, overtones = np.arange(count) / SAMPLE_RATE, np.arange(1, 9)
        strengths = rng.random(8) / overtones
        phases = 2 * np.pi * (rng.choice([50, 60]) * overtones * time[:, None] + rng.random(8))
        noise = np.sin(phases) @ strengths + 0.03 * noise
    level = np.sqrt(np.square(noise).mean())
    return (noise / level * 10 ** (rng.uniform(*LEVEL_DB) / 20)).clip(-1, 1)


def no_speech_source(sources: Sequence[Source], data: DataConfig, seed: int) -> Source:
    """Return the source that gets `data.no_speech_share` of the draws when it is added to `sources`.

    Half of its clips are as long as clips of the corpora, so that length does not identify them. The others have
    all lengths up to the longest clip of the corpora, or to `USUAL_SECONDS`.

    Raises:
        UserError: `data.noise_path` holds nothing that can be used.
    """
    noises = None if data.noise_path is None else open_sounds("data.noise_path", Path(data.noise_path))
    rng = np.random.default_rng([seed, STREAM])
    usual = np.concatenate([source.durations[source.rows_at_hand(seed)] for source in sources])
    longest = min(max(float(usual.max()), USUAL_SECONDS), data.max_audio_length)
    seconds = np.where(
        np.arange(NUM_CLIPS) // 2 % 2,  # not every second: those are the recordings
        rng.choice(usual, NUM_CLIPS),
        rng.uniform(data.min_audio_length, longest, NUM_CLIPS),
    )
    recordings = NoSpeech(seed, seconds.round(3).clip(data.min_audio_length, longest).tolist(), noises)
    name = "no_speech"
    while any(source.name == name for source in sources):
        name += "#2"
    tempered = sum(source.weight ** (1 / data.temperature) for source in sources)
    share = data.no_speech_share
    return Source(
        name=name,
        weight=(share / (1 - share) * tempered) ** data.temperature,
        durations=np.array(recordings.seconds, dtype=np.float32),
        texts=[""] * NUM_CLIPS,
        names=[f"{recordings.kind(row)} {row}" for row in range(NUM_CLIPS)],
        skipped=[],
        recordings=recordings,
        table_rows=np.arange(NUM_CLIPS),
        origin="silence and noise, made here"
        if noises is None
        else f"silence and noise, made here and {data.noise_path}",
        has_speech=False,
    )
