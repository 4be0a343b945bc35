"""Error rates against hand-counted alignments, and an independent implementation of the edit distance."""

from __future__ import annotations

import random

import pytest

from tiny_audio.evaluation.wer import ErrorCounts, count_errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "substitutions", "insertions", "deletions"),
    [
        ("one two three", "one two three", 0, 0, 0),
        ("one two three", "one too three", 1, 0, 0),
        ("one two three", "one three", 0, 0, 1),
        ("one two", "one and two", 0, 1, 0),
        ("one two three", "", 0, 0, 3),
        ("One, two!", "one two", 0, 0, 0),
        ("don't", "dont", 1, 0, 0),
    ],
)
def test_counts(reference, hypothesis, substitutions, insertions, deletions):
    words, _ = count_errors([reference], [hypothesis])
    assert (words.substitutions, words.insertions, words.deletions) == (substitutions, insertions, deletions)


def test_rates_are_of_the_whole_set_not_means_of_utterances():
    words, characters = count_errors(["a b c d e f g h i", "x"], ["a b c d e f g h i", "y"])
    assert words.rate == pytest.approx(1 / 10)
    assert characters.rate == pytest.approx(1 / 18)  # spaces are characters


def test_a_rate_can_exceed_one_and_an_empty_set_has_none():
    assert count_errors(["a"], ["b c d"])[0].rate == 3.0
    assert ErrorCounts().rate == 0.0


def slow_distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_errors_are_never_fewer_than_the_edit_distance():
    """sclite's costs (3, 3, 4) prefer some alignments over others; they cannot find fewer errors than there are."""
    rng = random.Random(0)
    equal = 0
    for _ in range(200):
        a, b = ([rng.choice("abc") for _ in range(rng.randint(1, 9))] for _ in range(2))
        words, _ = count_errors([" ".join(a)], [" ".join(b)])
        assert words.errors >= slow_distance(a, b)
        assert words.length == len(a)
        equal += words.errors == slow_distance(a, b)
    assert equal > 150
