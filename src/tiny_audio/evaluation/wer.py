"""Word and character error rates of a set, counted over all its words, never averaged over utterances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from kaldialign import edit_distance

from ..text import characters_for_scoring, normalize_for_scoring, words_for_scoring


@dataclass
class ErrorCounts:
    """Errors of one unit (words or characters) over a set.

    Attributes:
        substitutions, insertions, deletions: counts, aligned with the costs of NIST sclite.
        length: units in the references.
    """

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    length: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per unit of reference; above 1 where more was inserted than said, 0 for an empty set."""
        return self.errors / max(self.length, 1)

    def add(self, reference: list[str], hypothesis: list[str]) -> None:
        """Align one hypothesis with its reference and count."""
        found = edit_distance(reference, hypothesis, sclite_mode=True)
        self.substitutions += int(found["sub"])
        self.insertions += int(found["ins"])
        self.deletions += int(found["del"])
        self.length += len(reference)

    def merge(self, others: list[ErrorCounts]) -> None:
        """Take over the counts of other processes."""
        for other in others:
            self.substitutions += other.substitutions
            self.insertions += other.insertions
            self.deletions += other.deletions
            self.length += other.length


def count_errors(references: list[str], hypotheses: list[str]) -> tuple[ErrorCounts, ErrorCounts]:
    """Count word errors and character errors after normalisation of both sides: `tiny_audio.text.NORMALIZER_NAME`.

    Spaces are characters, but in scripts that are written without: there each character counts as a word.
    """
    words, characters = ErrorCounts(), ErrorCounts()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said, written = normalize_for_scoring(reference), normalize_for_scoring(hypothesis)
        words.add(words_for_scoring(said), words_for_scoring(written))
        characters.add(characters_for_scoring(said), characters_for_scoring(written))
    return words, characters


def word_errors(references: list[str], hypotheses: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the word errors and the words of each of U utterances, two arrays (U,) of int64."""
    counts = [
        count_errors([reference], [written])[0] for reference, written in zip(references, hypotheses, strict=True)
    ]
    return np.array([c.errors for c in counts], dtype=np.int64), np.array([c.length for c in counts], dtype=np.int64)


def bootstrap_interval(
    errors: np.ndarray, lengths: np.ndarray, confidence: float = 0.95, replications: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of an error rate over other sets of utterances like this one.

    Utterances are drawn with replacement, as in Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation", ICASSP 2004. For the difference of two systems give the difference of their errors.

    Args:
        errors: (U,) of each utterance; or (S, U) of S systems, whose mean rate is meant.
        lengths: (U,) words of each.
        confidence: share of the replications inside the interval.
        replications: sets that are drawn.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    mean = np.atleast_2d(errors).mean(0)
    rates = np.empty(replications)
    for i in range(replications):
        drawn = rng.integers(len(lengths), size=len(lengths))
        rates[i] = mean[drawn].sum() / max(lengths[drawn].sum(), 1)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
