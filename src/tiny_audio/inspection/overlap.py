"""Overlap of evaluation and training: above all shared recordings, which would make error rates too low.

The same file, or the same bytes under another name, is proof. A recording that was encoded again, or cut slightly
differently, is found by its transcript and length, and proven by its audio.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..audio import AudioError
from ..data.sources import Source
from ..lengths import SAMPLE_RATE
from .facts import MAX_NAMED, OverlapFacts, Pair

FILE_READERS = 8
HASHED_BYTES = 256 << 20  # limit for reading training recordings of equal size, which may be the same
LISTENED_PAIRS = 300  # limit of pairs with equal transcript and length: two clips are decoded for each
LONG_WORDS = 5  # two people are unlikely to say so long a transcript by chance
LENGTH_SECONDS = 0.1  # by which codecs change a length
# Correlation of loudness over time. At least 0.98 for LibriSpeech clips encoded again (opus, vorbis, mp3 at its
# lowest), at most 0.87 for different clips of equal length. Single words can be alike by chance (0.995): hence
# LONG_WORDS.
SAME_SOUND = 0.97
MIN_FRAMES = 50  # of 10 ms


class _Clip(NamedTuple):
    """A row of a source of a role."""

    role: str
    source: Source
    row: int

    @property
    def title(self) -> str:
        return f"{self.source.name}: {self.source.names[self.row]}"


def look_at_overlap(train: Sequence[Source], evaluation: Sequence[Source]) -> OverlapFacts:
    """Compare the training clips with those of the evaluation, and with each other."""
    clips = [
        _Clip(role, source, row)
        for role, sources in (("eval", evaluation), ("train", train))
        for source in sources
        for row in range(len(source))
    ]
    groups, complete = same_files(clips)
    leaked: dict[_Clip, Pair] = {}
    duplicates: list[Pair] = []
    for evidence, group in groups:
        held = [clip for clip in group if clip.role == "eval"]
        trained = [clip for clip in group if clip.role == "train"]
        if trained:
            leaked.update((clip, Pair(clip.title, trained[0].title, evidence)) for clip in held if clip not in leaked)
        duplicates += [Pair(trained[0].title, clip.title, evidence) for clip in trained[1:]]
    known, candidates = same_transcripts(train, evaluation)
    for held_clip, trained_clip in candidates:
        if held_clip not in leaked and same_sound(held_clip, trained_clip):
            leaked[held_clip] = Pair(held_clip.title, trained_clip.title, "the same sound and transcript")
    shared, of = shared_speakers(train, evaluation)
    return OverlapFacts(
        leaked=list(leaked.values())[:MAX_NAMED],
        num_leaked=len(leaked),
        duplicates=duplicates[:MAX_NAMED],
        num_duplicates=len(duplicates),
        all_compared=complete and len(candidates) < LISTENED_PAIRS,
        eval_clips=sum(map(len, evaluation)),
        known_transcripts=known,
        shared_speakers=shared,
        eval_speakers=of,
    )


def same_files(clips: Sequence[_Clip]) -> tuple[list[tuple[str, list[_Clip]]], bool]:
    """Return groups of clips of one file or with the same bytes, each with its evidence, and whether all were read.

    Only files of equal size are read, groups with an evaluation clip first. The size of recordings in tables is not
    known without reading them, so `same_transcripts` compares them.
    """
    by_path: dict[str, list[_Clip]] = defaultdict(list)
    for clip in clips:
        if not clip.source.in_files:
            continue
        try:
            recording = clip.source.recording(clip.row)
        except AudioError:
            continue
        if isinstance(recording, Path):
            by_path[os.path.abspath(recording)].append(clip)  # noqa: PTH100  (a million of them: Path is slow)
    groups = [("the same file", group) for group in by_path.values() if len(group) > 1]
    by_size: dict[int, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(FILE_READERS) as pool:
        for path, size in zip(by_path, pool.map(_size, by_path), strict=True):
            by_size[size].append(path)
    alike = [(size, paths) for size, paths in by_size.items() if size > 0 and len(paths) > 1]
    mixed = [any(by_path[path][0].role == "eval" for path in paths) for _, paths in alike]
    budget = HASHED_BYTES
    for with_eval, (size, paths) in sorted(zip(mixed, alike, strict=True), key=lambda one: (not one[0], one[1][0])):
        budget -= 0 if with_eval else size * len(paths)
        if budget < 0:
            return groups, False
        by_bytes: dict[bytes, list[str]] = defaultdict(list)
        for path in paths:
            by_bytes[_digest(path)].append(path)
        for same in by_bytes.values():
            if len(same) > 1:
                groups.append(("the same bytes", list(chain.from_iterable(by_path[path] for path in same))))
    return groups, True


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1


def _digest(path: str) -> bytes:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return path.encode()


def same_transcripts(
    train: Sequence[Source], evaluation: Sequence[Source]
) -> tuple[float | None, list[tuple[_Clip, _Clip]]]:
    """Return the share of long evaluation transcripts that are in training, and their pairs of about equal length.

    The share is None if no evaluation transcript is long.
    """
    held: dict[str, list[_Clip]] = defaultdict(list)
    for source in evaluation:
        for row, text in enumerate(source.texts):
            if text.count(" ") >= LONG_WORDS - 1:
                held[text].append(_Clip("eval", source, row))
    found: set[str] = set()
    pairs: list[tuple[_Clip, _Clip]] = []
    for source in train if held else ():
        for row, text in enumerate(source.texts):
            if text not in held:
                continue
            found.add(text)
            for clip in held[text]:
                difference = abs(float(source.durations[row]) - float(clip.source.durations[clip.row]))
                if difference <= LENGTH_SECONDS and len(pairs) < LISTENED_PAIRS:
                    pairs.append((clip, _Clip("train", source, row)))
    number = sum(map(len, held.values()))
    return (sum(len(held[text]) for text in found) / number if number else None), pairs


def same_sound(first: _Clip, second: _Clip) -> bool:
    """Whether two clips are one recording: their loudness over time correlates, after a shift by a codec's delay."""
    try:
        a, b = (loudness(clip.source.read(clip.row)) for clip in (first, second))
    except AudioError:
        return False
    best = 0.0
    for lag in range(-12, 13):  # of 10 ms
        x, y = a[max(lag, 0) :], b[max(-lag, 0) :]
        length = min(len(x), len(y))
        if length >= MIN_FRAMES:
            best = max(best, float(np.corrcoef(x[:length], y[:length])[0, 1]))
    return best >= SAME_SOUND


def loudness(waveform: np.ndarray) -> np.ndarray:
    """Return the level of each 10 ms of a waveform (S,), in dB."""
    size = SAMPLE_RATE // 100
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    return np.asarray(10 * np.log10(np.square(frames, dtype=np.float64).mean(1) + 1e-7))


def shared_speakers(train: Sequence[Source], evaluation: Sequence[Source]) -> tuple[list[str] | None, int | None]:
    """Return the speakers in both, and how many the evaluation has; None if a side does not name speakers."""
    sides = []
    for sources in (train, evaluation):
        named = [set(source.speakers) for source in sources if source.speakers is not None]
        sides.append(set().union(*named) - {""})
    trained, held = sides
    return (sorted(trained & held) if trained and held else None), (len(held) if held else None)
