"""Word and character error rates of a set: errors over all its words, never a mean over utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from kaldialign import edit_distance

from .scoring import OURS, Rule

MAX_DRAWN = 1 << 16  # utterances that are drawn at once: they stay in the processor's cache


@dataclass
class ErrorCounts:
    """Errors of one unit (words or characters) over a set.

    Attributes:
        substitutions, insertions, deletions: counts.
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
        """Errors per unit of reference; above 1 if there are more errors than units, 0 for an empty set."""
        return self.errors / max(self.length, 1)

    def add(self, reference: list[str], hypothesis: list[str], sclite: bool = True) -> None:
        """Align one hypothesis with its reference and count, with the costs of NIST sclite or with plain ones."""
        found = edit_distance(reference, hypothesis, sclite_mode=sclite)
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


def count_errors(
    references: Sequence[str], hypotheses: Sequence[str], rule: Rule = OURS
) -> tuple[ErrorCounts, ErrorCounts]:
    """Count word errors and character errors after normalization of both sides by a rule.

    Spaces are characters, except by our own rule in scripts without spaces, where each character counts as a word.
    """
    words, characters = ErrorCounts(), ErrorCounts()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        reference_parts, hypothesis_parts = rule.split(reference), rule.split(hypothesis)
        if reference_parts[0] or rule.counts_empty:
            words.add(reference_parts[0], hypothesis_parts[0], rule.sclite)
            characters.add(reference_parts[1], hypothesis_parts[1], rule.sclite)
    return words, characters


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], rule: Rule = OURS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the word errors and the words of each of U utterances, two arrays (U,) of int64."""
    counts = [
        count_errors([reference], [hypothesis], rule)[0]
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return np.array([c.errors for c in counts], dtype=np.int64), np.array([c.length for c in counts], dtype=np.int64)


def bootstrap_interval(
    errors: np.ndarray,
    lengths: np.ndarray,
    confidence: float = 0.95,
    replications: int = 10_000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the interval of an error rate over other sets of utterances like this one.

    Utterances, or groups of them, are drawn with replacement, as in Bisani and Ney, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation", ICASSP 2004. For the difference of two systems pass the difference of
    their errors.

    Args:
        errors: (U,) of each utterance; or (S, U) of S systems, for the interval of their mean rate.
        lengths: (U,) words of each.
        confidence: share of the replications inside the interval.
        replications: sets that are drawn.
        seed: of the draws.
        groups: (U,) integers: utterances of one group, such as a speaker, are drawn together, since they are not
            independent. None: each utterance is drawn alone.
    """
    rates = bootstrap_rates(np.atleast_2d(errors).mean(0), lengths, groups, replications, seed)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_rates(
    errors: np.ndarray, lengths: np.ndarray, groups: np.ndarray | None, replications: int, seed: int
) -> np.ndarray:
    """Return the rates (R,) of R sets that are drawn: see `bootstrap_interval`."""
    if groups is not None:
        errors, lengths = sum_groups(errors, groups), sum_groups(lengths, groups)
    rng = np.random.default_rng(seed)
    rates = np.empty(replications)
    for some in _blocks(replications, len(lengths)):
        drawn = rng.integers(len(lengths), size=(some.stop - some.start, len(lengths)))
        rates[some] = errors[drawn].sum(1) / np.maximum(lengths[drawn].sum(1), 1)
    return rates


def _blocks(replications: int, length: int) -> Iterator[slice]:
    """Divide replications of so many draws each into blocks that need little memory."""
    size = max(1, MAX_DRAWN // max(length, 1))
    return (slice(start, min(start + size, replications)) for start in range(0, replications, size))


def sum_groups(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Add up (U,) values by group: (G,) float."""
    _, inverse = np.unique(groups, return_inverse=True)
    return np.bincount(inverse, weights=values)


def permutation_p_value(
    difference: np.ndarray, groups: np.ndarray | None = None, replications: int = 10_000, seed: int = 0
) -> float:
    """Return how often two equally good systems would differ by as many errors as these two.

    The errors of a pair are exchanged at random, utterance by utterance or group by group: the approximate
    randomization test of Noreen, "Computer-intensive methods for testing hypotheses", 1989, two-sided.

    Args:
        difference: (U,) errors of one system minus those of the other, on the same utterances.
        groups: (U,) as in `bootstrap_interval`.
        replications: of the exchange; the p-value is at least about one divided by this.
        seed: of the draws.
    """
    if groups is not None:
        difference = sum_groups(difference, groups)
    difference = difference[difference != 0].astype(np.float64)
    if not len(difference):
        return 1.0
    rng = np.random.default_rng(seed)
    seen = abs(difference.sum())
    extreme = 0
    for some in _blocks(replications, len(difference)):
        signs = rng.integers(2, size=(some.stop - some.start, len(difference))) * 2 - 1
        extreme += int(np.count_nonzero(abs((difference * signs).sum(1)) >= seen))
    return (1 + extreme) / (1 + replications)
