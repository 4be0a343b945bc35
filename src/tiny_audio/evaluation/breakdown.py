"""Error rates of parts of a set: by length of clips, and by speaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .score import Score, Transcript

BOUNDS = (0, 5, 10, 15, 20, 30)  # seconds


@dataclass(frozen=True)
class Part:
    """Some clips of a set.

    Attributes:
        name: `5 to 10 s`, or a speaker.
        clips, words, errors: counts.
    """

    name: str
    clips: int
    words: int
    errors: int

    @property
    def rate(self) -> float:
        """Word errors per reference word; the number of errors if there is no word."""
        return self.errors / max(self.words, 1)


def by_duration(rows: Sequence[Transcript], score: Score) -> list[Part]:
    """Return the parts of a set by length of clips, short ones first; parts without a clip are left out."""
    seconds = np.array([np.nan if row.seconds is None else row.seconds for row in rows], dtype=np.float64)
    parts = [_part(f"{low} to {high} s", (low <= seconds) & (seconds < high), score) for low, high in pairwise(BOUNDS)]
    parts.append(_part(f"{BOUNDS[-1]} s and longer", seconds >= BOUNDS[-1], score))
    return [part for part in parts if part.clips]


def by_speaker(rows: Sequence[Transcript], score: Score) -> list[Part]:
    """Return the parts of a set by speaker, the worst first; clips without a known speaker are left out."""
    chosen: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.speaker is not None:
            chosen.setdefault(row.speaker, []).append(number)
    parts = []
    for speaker, numbers in chosen.items():
        mask = np.zeros(len(rows), dtype=bool)
        mask[numbers] = True
        parts.append(_part(speaker, mask, score))
    return sorted(parts, key=lambda part: -part.rate)


def _part(name: str, chosen: np.ndarray, score: Score) -> Part:
    return Part(name, int(chosen.sum()), int(score.lengths[chosen].sum()), int(score.errors[chosen].sum()))
