"""Rules of scoring: those that compare agree with the real jiwer to the last digit."""

from __future__ import annotations

import random

import jiwer
import pytest

from tiny_audio.errors import UserError
from tiny_audio.evaluation.scoring import (
    LEVENSHTEIN,
    OURS,
    RULES,
    WHISPER,
    default_rules,
    is_english,
    parse_rules,
    whisper_normalizer,
)
from tiny_audio.evaluation.wer import count_errors
from tiny_audio.text import normalize_for_scoring

WORDS = [
    "the",
    "of",
    "colour",
    "twenty",
    "five",
    "hundred",
    "can't",
    "it's",
    "mr",
    "hmm",
    "1,000",
    "$2.50",
    "U.S.",
    "ok?",
]


def pairs(count: int = 300) -> tuple[list[str], list[str]]:
    """References and hypotheses from nearly right to hopeless."""
    rng = random.Random(0)
    said = [["no", *rng.choices(WORDS, k=rng.randint(2, 14))] for _ in range(count)]
    written = []
    for number, words in enumerate(said):
        wrong = number / count
        kept = [rng.choice(WORDS) if rng.random() < wrong else word for word in words if rng.random() > wrong / 3]
        written.append([*kept, *rng.choices(WORDS, k=rng.randint(0, 3 if wrong > 0.5 else 0))])
    return [" ".join(words) for words in said], [" ".join(words) for words in written]


@pytest.mark.parametrize(("rule", "normalize"), [(WHISPER, whisper_normalizer()), (LEVENSHTEIN, normalize_for_scoring)])
def test_plain_levenshtein_is_what_jiwer_counts(rule, normalize):
    said, written = pairs()
    theirs = [normalize(text) for text in said], [normalize(text) for text in written]
    words, characters = count_errors(said, written, rule)
    assert words.rate == jiwer.wer(*theirs)
    assert characters.rate == jiwer.cer(*theirs)
    assert words.errors > 0.3 * words.length


def test_sclite_s_costs_find_more_errors_in_bad_transcripts_than_jiwer_and_as_many_in_good_ones():
    said, written = pairs()
    theirs = [normalize_for_scoring(text) for text in said], [normalize_for_scoring(text) for text in written]
    words, characters = count_errors(said, written, OURS)
    assert words.rate > jiwer.wer(*theirs)
    assert characters.rate > jiwer.cer(*theirs)
    good = [texts[:30] for texts in theirs]
    assert count_errors(*good, OURS)[0].rate == jiwer.wer(*good)


def test_whisper_s_normaliser_is_that_of_the_tokenizer_not_the_one_that_rewrites_more():
    normalize = whisper_normalizer()
    assert (
        normalize("Mr. Colour can't, uh, pay $20 million for THE CAUSE")
        == "mister color can not pay $20000000 for the cause"
    )
    assert normalize("twenty-five hundred [noise] (laughs)") == "2500"
    assert normalize("hmm uh") == ""


def test_a_number_that_never_ends_is_scored_too():
    words, _ = count_errors(["the number nine"], ["1" * 5000], WHISPER)
    assert (words.errors, words.length) == (3, 3)


def test_clips_of_which_the_normaliser_leaves_nothing_do_not_count_as_on_the_leaderboard():
    said, written = ["Mm-hmm.", "yes"], ["and so on", "yes"]
    assert count_errors(said, written, WHISPER)[0].rate == 0.0
    assert count_errors(["", "yes"], written, OURS)[0].insertions == 3


def test_rules_are_named_and_a_wrong_name_is_told():
    assert parse_rules("whisper") == (WHISPER,)
    assert parse_rules("ours, levenshtein") == (OURS, LEVENSHTEIN)
    for wrong in ("jiwer", "whisper,", ""):
        with pytest.raises(UserError, match="there are whisper, levenshtein, ours"):
            parse_rules(wrong)
    with pytest.raises(UserError, match="names ours twice"):
        parse_rules("ours,ours")
    assert list(RULES) == [rule.name for rule in RULES.values()]


def test_the_first_figure_is_whisper_s_for_english_only():
    english = ["he said the caf\u00e9 was closed", *["it was a fine day in the town"] * 20]
    assert default_rules(english) == default_rules(english, ["en", None]) == (WHISPER, OURS)
    assert default_rules(english, ["id"]) == (LEVENSHTEIN, OURS)
    for other in (
        ["er h\u00f6rte sch\u00f6ne M\u00e4rchen"],
        ["\u4eca\u5929\u5929\u6c14\u5f88\u597d"],
        ["\u0939\u093f\u0928\u094d\u0926\u0940"],
    ):
        assert default_rules(other) == (LEVENSHTEIN, OURS)
    assert is_english([])
