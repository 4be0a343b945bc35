"""Scores of sets: clips that could not be read, several sets as one, intervals and differences."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tiny_audio.data.index import Skip
from tiny_audio.data.sources import Source
from tiny_audio.evaluation.breakdown import by_duration, by_speaker
from tiny_audio.evaluation.evaluate import Evaluation
from tiny_audio.evaluation.score import (
    Result,
    Score,
    Tally,
    Transcript,
    difference,
    macro_average,
    match,
    merge,
    note_symptoms,
    rank,
    score,
)
from tiny_audio.evaluation.scoring import OURS, WHISPER
from tiny_audio.evaluation.symptoms import EMPTY, LOOP, RUNAWAY, symptoms
from tiny_audio.evaluation.wer import ErrorCounts, bootstrap_interval, count_errors

TEXTS = ["one two", "three", "one two", "four five six"]


def source(name: str = "set") -> Source:
    names = ["a", "b", "a", "c"]  # a name that stands for two clips, as segments of one recording
    return Source(name, 1.0, np.ones(4), TEXTS, names, [], names, np.arange(4))  # type: ignore[arg-type]


def evaluation(hypotheses: dict[int, str], order: list[int]) -> Evaluation:
    """What `evaluate` returns for these clips in this order; the others could not be read."""
    found = source()
    result = Evaluation(loss=2.0, num_tokens=5)
    result.transcripts = [(found.names[i], TEXTS[i], hypotheses[i]) for i in order]
    result.cut_off = [i == 3 for i in order]
    result.seconds = [0.5 + i for i in order]
    unread = [i for i in range(4) if i not in order]
    result.skipped = [Skip("set", found.names[i], "missing", "is gone") for i in unread]
    said, wrote = (list(texts) for texts in zip(*[(TEXTS[i], hypotheses.get(i, "")) for i in range(4)], strict=True))
    result.words, result.characters = count_errors(said, wrote)
    return result


def made(errors: list[int], lengths: list[int], loss: float = 1.0, num_tokens: int = 1) -> Score:
    words, characters = count_errors(["x " * sum(lengths)], ["x " * (sum(lengths) - sum(errors))])
    return Score(words, characters, loss, num_tokens, np.array(errors), np.array(lengths))


def test_clips_come_in_the_order_of_the_set_and_unread_ones_are_all_wrong():
    heard = {0: "one two", 2: "one too", 3: "four five six seven"}
    found = evaluation(heard, [3, 0, 2])
    transcripts = match(source(), found)
    result = score(transcripts, found)
    assert [row.hypothesis for row in transcripts] == ["one two", None, "one too", "four five six seven"]
    assert [row.notes for row in transcripts] == [(), ("missing",), (), ("limit",)]
    assert [row.seconds for row in transcripts] == [0.5, 1.0, 2.5, 3.5], "as read, and only else as listed"
    assert (result.tally.unread, result.tally.cut_off) == ({"missing": 1}, 1)
    assert result.errors.tolist() == [0, 1, 1, 1]
    assert result.lengths.tolist() == [2, 1, 2, 3]
    assert (result.words.substitutions, result.words.insertions, result.words.deletions) == (1, 1, 1)
    assert result.interval == bootstrap_interval(np.array([0, 1, 1, 1]), np.array([2, 1, 2, 3]))


def test_what_is_invented_where_nothing_is_said_counts_as_inserted():
    rows = [
        Transcript("set", "a", "one two", "one two"),
        Transcript("set", "b", "", "thank you", ("no_speech",)),
        Transcript("set", "c", "", "", ("no_speech",)),
        Transcript("set", "d", "three", "three", ("pieces", "loop")),
    ]
    result = score(rows, Evaluation(loss=1.0, num_tokens=4), Counter(no_transcript=2))
    assert (result.words.insertions, result.words.length) == (2, 3)
    assert result.errors.tolist() == [0, 2, 0, 0]
    expected = Tally(Counter(no_transcript=2), Counter(), 1, 2, 1, 2, 0, 1)
    assert result.tally == expected
    assert Tally.sum([expected, expected]) == Tally(Counter(no_transcript=4), Counter(), 2, 4, 2, 4, 0, 2)


def test_sets_are_added_up_not_averaged():
    total = merge([made([1, 0], [1, 1], loss=1.0, num_tokens=1), made([0, 0], [4, 4], loss=3.0, num_tokens=3)])
    assert total.words.rate == 0.1
    assert total.loss == 2.5
    assert total.errors.tolist() == [1, 0, 0, 0]
    unread = merge([made([1], [1], loss=float("nan"), num_tokens=0), made([0], [1], loss=3.0, num_tokens=3)])
    assert unread.loss == 3.0


def test_the_difference_is_paired():
    """What is hard for both cancels: the interval is that of the one clip that they differ in."""
    hard = [8, 0, 0, 9, 0, 7, 0, 0, 9, 0]
    first, second = made(hard, [10] * 10), made([e + 1 for e in hard], [10] * 10)
    gap, low, high, p_value = difference(first, second)
    assert gap == pytest.approx(0.1)
    assert p_value == pytest.approx(2 / 2**10, rel=0.5), "all ten go one way, as in 2 of 1,024 exchanges"
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert first.interval[1] > second.interval[0], "which their own intervals cannot tell"


def test_two_that_differ_by_chance_are_not_told_apart():
    rng = np.random.default_rng(0)
    first, second = (made(rng.integers(0, 4, 60).tolist(), [10] * 60) for _ in range(2))
    gap = difference(first, second)
    assert gap.low < 0 < gap.high
    assert gap.p_value > 0.05
    assert difference(first, first).p_value == 1.0


def spoken(errors: list[int], speakers: list[str | None]) -> Score:
    texts = ["one two three four"] * len(errors)
    written = [" ".join(["x"] * count + ["one", "two", "three", "four"][count:]) for count in errors]
    rows = [
        Transcript("set", str(i), text, hypothesis, (), 2.0, speaker)
        for i, (text, hypothesis, speaker) in enumerate(zip(texts, written, speakers, strict=True))
    ]
    return score(rows)


def test_clips_of_one_speaker_are_drawn_together():
    """Ten clips each of five speakers, of whom two are hard to understand: there are five facts, not fifty."""
    errors = [count for count in (4, 4, 0, 0, 0) for _ in range(10)]
    speakers: list[str | None] = [name for name in "abcde" for _ in range(10)]
    known, unknown = spoken(errors, speakers), spoken(errors, [None, *speakers[1:]])
    assert (known.groups is None, unknown.groups is None) == (False, True)
    (low, high), (narrow_low, narrow_high) = known.interval, unknown.interval
    assert high - low > 2 * (narrow_high - narrow_low)
    assert spoken(errors, ["a", "b"] * 25).groups is None, "two speakers say nothing about others"
    both = merge([known, unknown])
    assert both.groups is not None
    assert len(set(both.groups.tolist())) == 5 + 50


def test_the_mean_of_sets_is_of_rates_not_of_counts():
    small, large = made([1], [2]), made([0] * 10, [10] * 10)
    rate, low, high = macro_average([small, large])
    assert (rate, low, high) == (0.25, 0.25, 0.25)
    assert merge([small, large]).words.rate == 1 / 102


def test_several_rules_count_the_same_clips():
    rows = [Transcript("set", "a", "It's twenty dollars", "it is $20"), Transcript("set", "b", "hmm", "thank you")]
    found = score(rows, rules=(WHISPER, OURS))
    assert (found.rule.name, found.words.errors, found.lengths.tolist()) == ("whisper", 0, [3, 0])
    assert found.others["ours"][0].errors == 5
    assert merge([found, found]).others["ours"][0].errors == 10


@pytest.mark.parametrize(
    ("said", "written", "expected"),
    [
        ("one two", "one too", []),
        ("one two", "", [EMPTY]),
        ("", "", []),
        ("no", "no no no no no", []),
        ("one two", "one two " * 9, [LOOP, RUNAWAY]),
        ("one two", " ".join(f"word{i}" for i in range(15)), [RUNAWAY]),
    ],
)
def test_symptoms(said, written, expected):
    assert symptoms(said, written) == expected
    (row,) = note_symptoms([Transcript("set", "a", said, written, ("limit",))])
    assert row.notes == ("limit", *expected)


def test_parts_by_length_and_by_speaker():
    rows = [
        Transcript("set", "a", "one two", "one two", (), 2.0, "anna"),
        Transcript("set", "b", "one two", "one", (), 4.9, "ben"),
        Transcript("set", "c", "one two", None, ("missing",), None, "anna"),
        Transcript("set", "d", "one two", "", (), 31.0),
    ]
    found = score(rows)
    assert [(part.name, part.clips, part.rate) for part in by_duration(rows, found)] == [
        ("0 to 5 s", 2, 0.25),
        ("30 s and longer", 1, 1.0),
    ]
    assert [(part.name, part.clips, part.rate) for part in by_speaker(rows, found)] == [
        ("anna", 2, 0.5),
        ("ben", 1, 0.5),
    ]


def test_ranking():
    def result(name: str, errors: int, loss: float) -> Result:
        return Result(Path(name), name, 1, {"set": made([errors], [10], loss)}, [])

    found = [result("a", 3, 1.0), result("b", 1, 2.0), result("c", 1, float("nan"))]
    assert [item.name for item in rank(found, "wer", False)] == ["b", "c", "a"]
    assert [item.name for item in rank(found, "wer", True)] == ["a", "b", "c"]
    assert [item.name for item in rank(found, "loss", False)] == ["a", "b"]


def test_what_is_best_goes_by_the_rule_of_the_run_whatever_is_printed_first():
    """Whisper's rule puts the second first; the run, and so its list of checkpoints, goes by ours."""

    def counted(name: str, whisper: int, ours: int) -> Result:
        counts = [ErrorCounts(errors, 0, 0, 10) for errors in (whisper, ours)]
        others = {"ours": (counts[1], counts[1])}
        nothing = np.zeros(0, dtype=np.int64)
        score = Score(counts[0], counts[0], 1.0, 1, nothing, nothing, rule=WHISPER, others=others)
        return Result(Path(name), name, None, {"dev": score}, [])

    first, second = counted("first.pt", 5, 1), counted("second.pt", 3, 2)
    assert rank([second, first], "wer", False, OURS.name) == [first, second]
    assert rank([first, second], "wer", False) == [second, first]
