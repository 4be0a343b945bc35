"""Alignment of two transcripts word by word, for people to read."""

from __future__ import annotations

from kaldialign import align

from ..evaluation.scoring import Rule

NOTHING = "\0"
Step = list[str]


def align_words(reference: str, hypothesis: str, rule: Rule) -> list[Step]:
    """Align a transcript with its reference, after normalization by a rule.

    Returns:
        Steps in order: `["=", words]` for right words, with spaces between; `["s", said, written]` for a
        substitution, `["d", said]` for a deletion, `["i", written]` for an insertion.
    """
    reference_words, hypothesis_words = rule.split(reference)[0], rule.split(hypothesis)[0]
    steps: list[Step] = []
    for left, right in align(reference_words, hypothesis_words, NOTHING, sclite_mode=rule.sclite):
        if left == right and steps and steps[-1][0] == "=":
            steps[-1][1] += f" {left}"
        elif left == right:
            steps.append(["=", left])
        elif left == NOTHING:
            steps.append(["i", right])
        elif right == NOTHING:
            steps.append(["d", left])
        else:
            steps.append(["s", left, right])
    return steps
