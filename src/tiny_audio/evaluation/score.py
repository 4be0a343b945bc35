"""What a recogniser made of its evaluation sets: counts, and how far they could have come out by chance."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.sources import Source
from .evaluate import Evaluation
from .ranking import best_first
from .wer import ErrorCounts, bootstrap_interval, count_errors, word_errors

PIECES, NO_SPEECH, LIMIT, LOOP = "pieces", "no_speech", "limit", "loop"


class Transcript(NamedTuple):
    """What was said in a clip, and what was written down; None where the clip could not be read.

    Notes: `pieces`: longer than the model reads at once, and judged in pieces; `no_speech`: nothing is said in it;
    `limit`: cut off by the limit of tokens; `loop`: ended since it repeated itself; why it could not be read.
    """

    dataset: str
    name: str
    reference: str
    hypothesis: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """What became of the clips of a set besides their errors.

    Attributes:
        left_out: clips that are not judged, by reason.
        unread: clips that count with all their words deleted, by reason.
        in_pieces: clips that were judged in pieces.
        without_speech: clips in which nothing is said; with text on `invented_on` of them, of `invented_words`, which
            count as inserted.
        cut_off, looped: transcripts that the limit of tokens cut off; that were ended since they repeated themselves.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    in_pieces: int = 0
    without_speech: int = 0
    invented_on: int = 0
    invented_words: int = 0
    cut_off: int = 0
    looped: int = 0

    @classmethod
    def of(cls, rows: Sequence[Transcript], errors: np.ndarray, left_out: Counter[str]) -> Tally:
        """Count a set's transcripts, of so many errors each."""
        noted = Counter(note for row in rows if row.hypothesis is not None for note in row.notes)
        invented = [int(count) for row, count in zip(rows, errors, strict=True) if NO_SPEECH in row.notes and count]
        return cls(
            left_out=left_out,
            unread=Counter(note for row in rows if row.hypothesis is None for note in row.notes),
            in_pieces=noted[PIECES],
            without_speech=noted[NO_SPEECH],
            invented_on=len(invented),
            invented_words=sum(invented),
            cut_off=noted[LIMIT],
            looped=noted[LOOP],
        )

    @classmethod
    def sum(cls, tallies: Sequence[Tally]) -> Tally:
        """Add up those of several sets."""
        values: dict[str, Any] = {}
        for one in fields(cls):
            start = Counter[str]() if one.name in ("left_out", "unread") else 0
            values[one.name] = sum((getattr(tally, one.name) for tally in tallies), start)
        return cls(**values)


@dataclass(frozen=True)
class Score:
    """Figures of U clips.

    Attributes:
        words, characters: error counts.
        loss: mean cross-entropy of a target token.
        num_tokens: how many those are.
        errors: (U,) word errors of each clip, in the order of the set, the same for every recogniser.
        lengths: (U,) words of each reference.
        tally: what else became of them.
    """

    words: ErrorCounts
    characters: ErrorCounts
    loss: float
    num_tokens: int
    errors: np.ndarray
    lengths: np.ndarray
    tally: Tally = field(default_factory=Tally)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The WER's 95 % interval over sets of clips like this one."""
        return bootstrap_interval(self.errors, self.lengths)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by the names of `training.metric_for_best`."""
        return {"loss": self.loss, "wer": self.words.rate, "cer": self.characters.rate}


def match(source: Source, found: Evaluation) -> list[Transcript]:
    """Return the transcripts of an evaluation in the order of the set; what could not be read has a note why."""
    written: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    for (name, reference, hypothesis), cut_off in zip(found.transcripts, found.cut_off, strict=True):
        written[name, reference].append((hypothesis, cut_off))
    reasons = {skip.name: skip.reason for skip in found.skipped}
    rows = []
    for name, text in zip(source.names, source.texts, strict=True):
        if written[name, text]:
            hypothesis, cut_off = written[name, text].pop(0)
            rows.append(Transcript(source.name, name, text, hypothesis, (LIMIT,) * cut_off))
        else:
            rows.append(Transcript(source.name, name, text, None, (reasons[name],)))
    return rows


def score(rows: Sequence[Transcript], found: Evaluation, left_out: Counter[str] | None = None) -> Score:
    """Score the transcripts of one set.

    A clip that could not be read counts with all of its words deleted, in the interval too, and one in which nothing
    is said with all that was written.

    Args:
        rows: U of them, in the order of the set.
        found: whose loss it is.
        left_out: clips that are not among them, by reason.
    """
    said, written = [row.reference for row in rows], [row.hypothesis or "" for row in rows]
    words, characters = count_errors(said, written)
    errors, lengths = word_errors(said, written)
    tally = Tally.of(rows, errors, left_out or Counter())
    return Score(words, characters, found.loss, found.num_tokens, errors, lengths, tally)


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
        Tally.sum([part.tally for part in scores]),
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
