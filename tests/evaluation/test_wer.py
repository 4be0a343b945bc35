"""Error rates against hand-counted alignments, and an independent implementation of the edit distance."""

from __future__ import annotations

import random

import kaldialign
import numpy as np
import pytest

from tiny_audio.evaluation import wer
from tiny_audio.evaluation.wer import (
    ErrorCounts,
    bootstrap_interval,
    bootstrap_rates,
    count_errors,
    permutation_p_value,
    word_errors,
)


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
        ("\u4eca\u5929 ok", "\u4eca\u65e5 ok", 1, 0, 0),
        ("\u0e19\u0e49\u0e33\u0e44\u0e1b", "\u0e19\u0e49\u0e33", 0, 0, 2),
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


def random_set() -> tuple[list[str], list[str]]:
    rng = random.Random(1)
    said = [" ".join(rng.choices("abcdefgh", k=rng.randint(2, 12))) for _ in range(80)]
    return said, [" ".join(word if rng.random() > 0.2 else "x" for word in line.split()) for line in said]


def test_bootstrap_agrees_with_an_independent_implementation():
    said, written = random_set()
    errors, words = word_errors(said, written)
    assert errors.sum() == count_errors(said, written)[0].errors
    theirs = kaldialign.bootstrap_wer_ci([line.split() for line in said], [line.split() for line in written])
    expected = (theirs["ci95min"], theirs["ci95max"])
    assert bootstrap_interval(errors, words) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("drawn_at_once", [1, 50, 1 << 16])
def test_sets_are_drawn_in_blocks_as_they_are_one_by_one(monkeypatch, drawn_at_once):
    monkeypatch.setattr(wer, "MAX_DRAWN", drawn_at_once)
    errors, words = np.array([0, 3, 1, 0, 2]), np.array([4, 5, 0, 2, 3])
    rng = np.random.default_rng(7)
    sets = [rng.integers(5, size=5) for _ in range(200)]
    one_by_one = [errors[drawn].sum() / max(words[drawn].sum(), 1) for drawn in sets]
    assert bootstrap_rates(errors, words, None, 200, seed=7).tolist() == one_by_one
    difference, rng = np.array([1, -2, 3, 1]), np.random.default_rng(7)
    extreme = [abs((difference * (rng.integers(2, size=4) * 2 - 1)).sum()) >= 3 for _ in range(200)]
    assert permutation_p_value(difference, replications=200, seed=7) == (1 + sum(extreme)) / 201


def test_bootstrap_of_several_systems_and_of_their_difference():
    errors, words = word_errors(*random_set())
    assert bootstrap_interval(np.stack([errors, errors]), words) == bootstrap_interval(errors, words)
    assert bootstrap_interval(errors - errors, words) == (0.0, 0.0)
    low, high = bootstrap_interval(errors - np.minimum(errors, 1), words)
    assert 0 < low < high
    narrow, wide = (bootstrap_interval(errors, words, confidence) for confidence in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
