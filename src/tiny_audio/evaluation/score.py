"""What a recogniser made of its evaluation sets: counts, and how far they could have come out by chance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.sources import Source
from .evaluate import Evaluation
from .ranking import best_first
from .wer import ErrorCounts, bootstrap_interval, count_errors, word_errors


class Transcript(NamedTuple):
    """What was said in a clip, and what was written down; None where the clip could not be read."""

    dataset: str
    name: str
    reference: str
    hypothesis: str | None


@dataclass(frozen=True)
class Score:
    """Figures of U clips.

    Attributes:
        words, characters: error counts.
        loss: mean cross-entropy of a target token.
        num_tokens: how many those are.
        errors: (U,) word errors of each clip, in the order of the set, the same for every recogniser.
        lengths: (U,) words of each reference.
    """

    words: ErrorCounts
    characters: ErrorCounts
    loss: float
    num_tokens: int
    errors: np.ndarray
    lengths: np.ndarray

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The WER's 95 % interval over sets of clips like this one."""
        return bootstrap_interval(self.errors, self.lengths)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by the names of `training.metric_for_best`."""
        return {"loss": self.loss, "wer": self.words.rate, "cer": self.characters.rate}


def score(source: Source, found: Evaluation) -> tuple[Score, list[Transcript]]:
    """Score one set, and return its transcripts in its own order.

    A clip that could not be read counts with all of its words deleted, in the interval too.
    """
    written = defaultdict(list)
    for name, reference, hypothesis in found.transcripts:
        written[name, reference].append(hypothesis)
    transcripts = [
        Transcript(source.name, name, text, written[name, text].pop(0) if written[name, text] else None)
        for name, text in zip(source.names, source.texts, strict=True)
    ]
    errors, lengths = word_errors([row.reference for row in transcripts], [row.hypothesis or "" for row in transcripts])
    assert int(errors.sum()) == found.words.errors, "the clips of the set are those that were evaluated"
    return Score(found.words, found.characters, found.loss, found.num_tokens, errors, lengths), transcripts


def merge(scores: Sequence[Score]) -> Score:
    """Score several sets as one: counts are added up, never rates averaged."""
    words, characters = ErrorCounts(), ErrorCounts()
    words.merge([part.words for part in scores])
    characters.merge([part.characters for part in scores])
    num_tokens = sum(part.num_tokens for part in scores)
    total = sum(part.loss * part.num_tokens for part in scores if part.num_tokens)
    return Score(
        words,
        characters,
        total / num_tokens if num_tokens else math.nan,
        num_tokens,
        np.concatenate([part.errors for part in scores]),
        np.concatenate([part.lengths for part in scores]),
    )


@dataclass(frozen=True)
class Result:
    """One checkpoint on all sets.

    Attributes:
        path: the checkpoint.
        name: what tables call it.
        step: of its run.
        sets: the sets' names and figures.
        transcripts: of all sets, one after another.
    """

    path: Path
    name: str
    step: int
    sets: dict[str, Score]
    transcripts: list[Transcript]

    @cached_property
    def total(self) -> Score:
        """All sets as one."""
        return merge(list(self.sets.values()))


def rank(results: Sequence[Result], metric: str, greater_is_better: bool) -> list[Result]:
    """Return the results, best first: see `best_first`."""
    return best_first(results, lambda result: result.total.metrics[metric], greater_is_better)


def difference(first: Score, second: Score) -> tuple[float, float, float]:
    """Return by how much the second's WER is above the first's, and the 95 % interval of that over the same clips.

    Paired: clips are drawn with both recognisers' errors in them, so that what is hard for both cancels.
    """
    low, high = bootstrap_interval(second.errors - first.errors, first.lengths)
    return second.words.rate - first.words.rate, low, high


def transcript_rows(transcripts: Sequence[Transcript]) -> list[dict[str, object]]:
    """Return a plain row for each clip, with its word errors."""
    rows: list[dict[str, object]] = []
    for item in transcripts:
        counts, _ = count_errors([item.reference], [item.hypothesis or ""])
        rows.append({**item._asdict(), "errors": counts.errors, "words": counts.length})
    return rows
