"""Figures of a recognizer on its evaluation sets: counts, and intervals that show the part of chance."""

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
from ..text import normalize_for_scoring, words_for_scoring
from .evaluate import Evaluation
from .ranking import best_first
from .scoring import OURS, Rule
from .symptoms import EMPTY, LOOP, RUNAWAY, symptoms
from .wer import ErrorCounts, bootstrap_interval, bootstrap_rates, count_errors, permutation_p_value, word_errors

PIECES, NO_SPEECH, LIMIT = "pieces", "no_speech", "limit"
MIN_SPEAKERS = 5  # with fewer, an interval over speakers says nothing


class Transcript(NamedTuple):
    """Reference and hypothesis of a clip; the hypothesis is None if the clip could not be read.

    Notes: `pieces`: longer than the model reads at once, and judged in pieces; `no_speech`: the reference is empty;
    `limit`: cut off by the limit of tokens; `empty`, `loop`, `runaway`: see `symptoms`; or why it could not be read.
    Seconds and speaker are None if they are not known.
    """

    dataset: str
    name: str
    reference: str
    hypothesis: str | None
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class Tally:
    """Counts of special clips of a set, beside the errors.

    Attributes:
        left_out: clips that are not judged, by reason.
        unread: clips that count with all their words deleted, by reason.
        in_pieces: clips that were judged in pieces.
        without_speech: clips with an empty reference; `invented_on` of them have a transcript, with `invented_words`
            in all, which count as inserted if the scoring rule says so.
        cut_off, looped: transcripts that the limit of tokens cut off; transcripts that end in a loop.
        empty, runaway: transcripts without a word of clips with speech; transcripts with far too many words.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    in_pieces: int = 0
    without_speech: int = 0
    invented_on: int = 0
    invented_words: int = 0
    cut_off: int = 0
    looped: int = 0
    empty: int = 0
    runaway: int = 0

    @classmethod
    def of(cls, rows: Sequence[Transcript], left_out: Counter[str]) -> Tally:
        """Count a set's transcripts."""
        noted = Counter(note for row in rows if row.hypothesis is not None for note in row.notes)
        silent = [row.hypothesis or "" for row in rows if NO_SPEECH in row.notes]
        invented = [len(words) for words in map(words_for_scoring, map(normalize_for_scoring, silent)) if words]
        return cls(
            left_out=left_out,
            unread=Counter(note for row in rows if row.hypothesis is None for note in row.notes),
            in_pieces=noted[PIECES],
            without_speech=noted[NO_SPEECH],
            invented_on=len(invented),
            invented_words=sum(invented),
            cut_off=noted[LIMIT],
            looped=noted[LOOP],
            empty=noted[EMPTY],
            runaway=noted[RUNAWAY],
        )

    @classmethod
    def sum(cls, tallies: Sequence[Tally]) -> Tally:
        """Add up the counts of several sets."""
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
        num_tokens: how many target tokens there are.
        errors: (U,) word errors of each clip, in the order of the set, which is the same for every recognizer.
        lengths: (U,) words of each reference.
        tally: counts of special clips.
        rule: the scoring rule of all of these.
        others: words and characters by further rules.
        groups: (U,) integers, the speakers, where enough are known: see `bootstrap_interval`.
        audio_seconds, decoding_seconds: audio that was transcribed, and how long that took; 0: not known.
    """

    words: ErrorCounts
    characters: ErrorCounts
    loss: float
    num_tokens: int
    errors: np.ndarray
    lengths: np.ndarray
    tally: Tally = field(default_factory=Tally)
    rule: Rule = OURS
    others: dict[str, tuple[ErrorCounts, ErrorCounts]] = field(default_factory=dict)
    groups: np.ndarray | None = None
    audio_seconds: float = 0.0
    decoding_seconds: float = 0.0

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the WER over sets of clips like this one."""
        return bootstrap_interval(self.errors, self.lengths, groups=self.groups)

    @property
    def rtfx(self) -> float | None:
        """Seconds of audio transcribed in one second; None if that was not measured."""
        return self.audio_seconds / self.decoding_seconds if self.decoding_seconds else None

    def metrics(self, rule: str | None = None) -> dict[str, float]:
        """Return the figures under the names of `training.metric_for_best`, by the first rule or one of the others."""
        words, characters = self.others.get(rule or "", (self.words, self.characters))
        return {"loss": self.loss, "wer": words.rate, "cer": characters.rate}


def match(source: Source, found: Evaluation) -> list[Transcript]:
    """Return the transcripts of an evaluation in the order of the set; a note says why a clip could not be read."""
    hypotheses: dict[tuple[str, str], list[tuple[str, bool, float]]] = defaultdict(list)
    transcribed = zip(found.transcripts, found.cut_off, found.seconds, strict=True)
    for (name, reference, hypothesis), cut_off, seconds in transcribed:
        hypotheses[name, reference].append((hypothesis, cut_off, seconds))
    reasons = {skip.name: skip.reason for skip in found.skipped}
    rows = []
    for number, row in enumerate(blank_rows(source)):
        key = source.names[number], row.reference
        if hypotheses[key]:
            hypothesis, cut_off, seconds = hypotheses[key].pop(0)
            rows.append(row._replace(hypothesis=hypothesis, notes=(LIMIT,) * cut_off, seconds=round(seconds, 3)))
        else:
            rows.append(row._replace(notes=(reasons[row.name],)))
    return rows


def blank_rows(source: Source) -> list[Transcript]:
    """Return a row for each clip of a set, with what is known before it is transcribed."""
    seconds = [source.listed_seconds(number) for number in range(len(source))]
    return [
        Transcript(
            source.name,
            name,
            text,
            None,
            seconds=round(seconds[number], 3) if math.isfinite(seconds[number]) else None,
            speaker=None if source.speakers is None else source.speakers[number] or None,
        )
        for number, (name, text) in enumerate(zip(source.names, source.texts, strict=True))
    ]


def note_symptoms(rows: Sequence[Transcript]) -> list[Transcript]:
    """Return transcripts with notes of their faults: see `symptoms`."""
    return [
        row
        if row.hypothesis is None
        else row._replace(notes=tuple(dict.fromkeys([*row.notes, *symptoms(row.reference, row.hypothesis)])))
        for row in rows
    ]


def score(
    rows: Sequence[Transcript],
    found: Evaluation | None = None,
    left_out: Counter[str] | None = None,
    rules: Sequence[Rule] = (OURS,),
    audio_seconds: float = 0.0,
    decoding_seconds: float = 0.0,
) -> Score:
    """Score the transcripts of one set.

    A clip that could not be read counts with all of its words deleted, in the interval too. In a clip without speech,
    all words that were written count as inserted, if the rule says so.

    Args:
        rows: U transcripts, in the order of the set.
        found: the evaluation that gives the loss; None: there is no loss.
        left_out: clips that are not among the rows, by reason.
        rules: the scoring rules; the first is used for the interval and for comparisons.
        audio_seconds, decoding_seconds: see `Score`.
    """
    references, hypotheses = [row.reference for row in rows], [row.hypothesis or "" for row in rows]
    counts = {rule.name: count_errors(references, hypotheses, rule) for rule in rules}
    words, characters = counts.pop(rules[0].name)
    errors, lengths = word_errors(references, hypotheses, rules[0])
    return Score(
        words,
        characters,
        math.nan if found is None else found.loss,
        0 if found is None else found.num_tokens,
        errors,
        lengths,
        Tally.of(rows, left_out or Counter()),
        rules[0],
        counts,
        speaker_groups(rows),
        audio_seconds,
        decoding_seconds,
    )


def speaker_groups(rows: Sequence[Transcript]) -> np.ndarray | None:
    """Return a number for each clip's speaker (U,), if all speakers are known and there are enough."""
    numbers: dict[str, int] = {}
    for row in rows:
        if row.speaker is None:
            return None
        numbers.setdefault(row.speaker, len(numbers))
    if len(numbers) < MIN_SPEAKERS:
        return None
    return np.array([numbers[row.speaker] for row in rows if row.speaker is not None], dtype=np.int64)


def merge(scores: Sequence[Score]) -> Score:
    """Score several sets as one: add up counts, never average rates."""
    num_tokens = sum(part.num_tokens for part in scores)
    total = sum(part.loss * part.num_tokens for part in scores if part.num_tokens)
    return Score(
        _sum([part.words for part in scores]),
        _sum([part.characters for part in scores]),
        total / num_tokens if num_tokens else math.nan,
        num_tokens,
        np.concatenate([part.errors for part in scores]),
        np.concatenate([part.lengths for part in scores]),
        Tally.sum([part.tally for part in scores]),
        scores[0].rule,
        {
            name: (_sum([part.others[name][0] for part in scores]), _sum([part.others[name][1] for part in scores]))
            for name in scores[0].others
        },
        _merge_groups(scores),
        sum(part.audio_seconds for part in scores),
        sum(part.decoding_seconds for part in scores),
    )


def _sum(counts: list[ErrorCounts]) -> ErrorCounts:
    total = ErrorCounts()
    total.merge(counts)
    return total


def _merge_groups(scores: Sequence[Score]) -> np.ndarray | None:
    """Number the speakers of several sets as different ones; in a set without speakers, each clip gets a number."""
    if all(part.groups is None for part in scores):
        return None
    groups, start = [], 0
    for part in scores:
        own = np.arange(len(part.lengths)) if part.groups is None else part.groups
        groups.append(own + start)
        start += int(own.max(initial=-1)) + 1
    return np.concatenate(groups)


@dataclass(frozen=True)
class Result:
    """One checkpoint on all sets.

    Attributes:
        path: the checkpoint.
        name: its name in tables.
        step: of its run; None: it is not a checkpoint.
        sets: the names and figures of the sets.
        transcripts: of all sets, one after another.
        weights: fingerprint of the trained weights, which identifies its figures later; None: it is not a checkpoint.
    """

    path: Path
    name: str
    step: int | None
    sets: dict[str, Score]
    transcripts: list[Transcript]
    weights: str | None = None

    @cached_property
    def total(self) -> Score:
        """The score of all sets as one."""
        return merge(list(self.sets.values()))


def rank(results: Sequence[Result], metric: str, greater_is_better: bool, rule: str | None = None) -> list[Result]:
    """Return the results, best first: see `best_first`, and for the rule `Score.metrics`."""
    return best_first(results, lambda result: result.total.metrics(rule)[metric], greater_is_better)


class Difference(NamedTuple):
    """How much higher one recognizer's WER is than another's on the same clips; `p_value`: `permutation_p_value`."""

    points: float
    low: float
    high: float
    p_value: float


def difference(first: Score, second: Score) -> Difference:
    """Return how much higher the second's WER is than the first's, with its 95 % interval and p-value.

    Paired: each clip, or speaker, is drawn with the errors of both recognizers, so that clips hard for both cancel out.
    """
    errors = second.errors - first.errors
    low, high = bootstrap_interval(errors, first.lengths, groups=first.groups)
    p_value = permutation_p_value(errors, first.groups)
    return Difference(second.words.rate - first.words.rate, low, high, p_value)


def macro_average(scores: Sequence[Score]) -> tuple[float, float, float]:
    """Return the mean WER over the sets, by which the Open ASR leaderboard ranks, and its 95 % interval."""
    seeds = range(len(scores))
    drawn = [
        bootstrap_rates(part.errors, part.lengths, part.groups, 10_000, seed)
        for part, seed in zip(scores, seeds, strict=True)
    ]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return float(np.mean([part.words.rate for part in scores])), float(low), float(high)


def transcript_rows(result: Result) -> list[dict[str, object]]:
    """Return a plain row for each clip, with its word errors by the first rule."""
    total = result.total
    counts = zip(result.transcripts, total.errors.tolist(), total.lengths.tolist(), strict=True)
    return [{**row._asdict(), "errors": errors, "words": words} for row, errors, words in counts]
