"""Word and character error rates of a set, counted over all its words, never averaged over utterances."""

from __future__ import annotations

from dataclasses import dataclass

from kaldialign import edit_distance

from ..text import normalize_for_scoring


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
    """Count word errors and character errors (spaces are characters) after normalisation of both sides.

    Normalisation: `tiny_audio.text.NORMALIZER_NAME`.
    """
    words, characters = ErrorCounts(), ErrorCounts()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said, written = normalize_for_scoring(reference), normalize_for_scoring(hypothesis)
        words.add(said.split(), written.split())
        characters.add(list(said), list(written))
    return words, characters
