"""What a check has to say."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Lines of a check.

    Attributes:
        errors: sentences; the run cannot come to its end.
        warnings: sentences.
        notes: clauses, for the line that says that all is well.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.errors + other.errors, self.warnings + other.warnings, self.notes + other.notes)
