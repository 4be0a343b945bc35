"""Transcripts with gross faults: empty, looping, or far too long. The text alone shows them."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.loop_guard import find_loop
from ..text import normalize_for_scoring, words_for_scoring

EMPTY, LOOP, RUNAWAY = "empty", "loop", "runaway"
RUNAWAY_FACTOR, RUNAWAY_WORDS = 2, 10  # more than twice as many words as the reference, and ten more


def symptoms(reference: str, hypothesis: str) -> list[str]:
    """Return the faults of a transcript.

    `empty`: it has no word, but the reference has; `loop`: it ends in a loop, by the rule of the loop guard, but in
    words, not tokens; `runaway`: it has more than twice as many words as the reference, and ten more.
    """
    reference_words, hypothesis_words = (
        words_for_scoring(normalize_for_scoring(text)) for text in (reference, hypothesis)
    )
    found = []
    if reference_words and not hypothesis_words:
        found.append(EMPTY)
    if loops(hypothesis_words):
        found.append(LOOP)
    if len(hypothesis_words) > RUNAWAY_FACTOR * len(reference_words) + RUNAWAY_WORDS:
        found.append(RUNAWAY)
    return found


def loops(words: Sequence[str]) -> bool:
    """Whether words end in a loop."""
    numbers: dict[str, int] = {}
    return find_loop([numbers.setdefault(word, len(numbers)) for word in words]) is not None
