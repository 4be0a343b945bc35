"""The findings of a check."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """The messages of a check.

    Attributes:
        errors: sentences; the run cannot finish.
        warnings: sentences.
        notes: clauses, for the line that says that everything is fine.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.errors + other.errors, self.warnings + other.warnings, self.notes + other.notes)
