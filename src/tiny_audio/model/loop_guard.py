"""Stop a decoder that repeats itself, separately for each clip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

MAX_PERIOD = 48  # tokens: a long sentence
WINDOW = 40  # tokens; they loop if few different pairs of neighbors repeat in them, in any order ...
MAX_DIFFERENT = 10  # ... of 39 pairs; in real speech most of them differ


def repeats_needed(period: int) -> int:
    """Return how many repetitions of `period` tokens in a row make a loop; people do say "no" five times."""
    return {1: 12, 2: 8, 3: 6}.get(period, 4)


def find_loop(tokens: Sequence[int]) -> int | None:
    """Find a loop at the end of a transcript: one sequence that repeats, or a few that alternate.

    Returns:
        How many tokens to keep: up to the end of the first repetition; None if there is no loop.
    """
    size = len(tokens)
    for period in range(1, MAX_PERIOD + 1):
        span = period * repeats_needed(period)
        if span <= size and all(tokens[i] == tokens[i - period] for i in range(size - 1, size - 1 - span + period, -1)):
            start = size - span
            while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
                start -= 1
            return start + period
    if size < WINDOW:
        return None
    pairs = list(pairwise(tokens))
    start = size - WINDOW
    repeated = set(pairs[start:])
    if len(repeated) > MAX_DIFFERENT:
        return None
    while start > 0 and pairs[start - 1] in repeated:
        start -= 1
    return start + 2


class LoopGuard(StoppingCriteria):
    """Ends a clip's transcript when it begins to loop, independently of its neighbors.

    Args:
        end_ids: tokens that end a transcript; tokens after one are padding.
        limits: upper limit of tokens for each clip. Tokens beyond it, beside clips with higher limits, are ignored.
        start: number of tokens before the transcript.

    Attributes:
        kept: number of each clip that looped -> how many of its tokens to keep.
    """

    def __init__(self, end_ids: set[int], limits: Sequence[int], start: int = 0) -> None:
        self.end_ids, self.limits, self.start = end_ids, limits, start
        self.kept: dict[int, int] = {}
        self._ended: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """See `StoppingCriteria`: which of B clips end here, given the (B, start + n) tokens so far."""
        for clip, tokens in enumerate(input_ids[:, self.start :].tolist()):
            if clip in self._ended:
                continue
            if tokens[-1] in self.end_ids or len(tokens) > self.limits[clip]:
                self._ended.add(clip)
            elif (kept := find_loop(tokens)) is not None:
                self.kept[clip] = kept
                self._ended.add(clip)
        ended = torch.zeros(len(input_ids), dtype=torch.bool)
        ended[list(self._ended)] = True
        return ended.to(input_ids.device)
