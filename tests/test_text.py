"""Transcripts: what cleaning keeps and takes out, by example and as properties over all of Unicode."""

import random
import unicodedata
from collections.abc import Iterator
from itertools import chain

import pytest

from tiny_audio.evaluation.wer import count_errors
from tiny_audio.text import (
    CLEANERS,
    NORMALIZER_NAME,
    clean_transcript,
    is_unspaced,
    normalize_for_scoring,
    take_out_tags,
)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("HE SAID  IT\twas\nfine", "he said it was fine"),
        ("Hello, World! (Really?)", "hello world really"),
        ("Don\u2019t \u201cstop\u201d\u2014it's o'clock", "don't stop it's o'clock"),
        ("rock 'n' roll, 'tis the dogs' day", "rock n roll tis the dogs day"),
        ("well-known a_b", "well known a b"),
        ("1,000 at 10:30, 3.5% of 2,000,000.", "1000 at 10 30 3.5 of 2000000"),
        ("1,2,3", "1 2 3"),
        ("U.S.", "u s"),
        ("\ufb01ne \uff26ull\u00ad stop\ufeff", "fine full stop"),
        ("cafe\u0301 Stra\u00dfe \u00c9T\u00c9", "caf\u00e9 stra\u00dfe \u00e9t\u00e9"),
        ("한국어 문장입니다.", "한국어 문장입니다"),
        ("हिन्दी में।", "हिन्दी में"),
        ("ไม่เป็นไร", "ไม่เป็นไร"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),  # Persian: a joiner
        ("1\u00bd cups, 3\u00bd-year-old", "1 1/2 cups 3 1/2 year old"),
        (".5 or $.50, wait...what ...5.", ".5 or .50 wait what 5"),
        ("1,5 und 1.000,5 statt 1,000.5", "1,5 und 1.000,5 statt 1000.5"),
        ("12,34,567 on 24/7, a/b", "1234567 on 24/7 a b"),
        ("10\u00b2 m\u00b2 of CO\u2082 \u2460\u2461", "10 2 m2 of co2 1 2"),
        ("Tom &amp; Jerry don&#39;t, Coca-Cola\u2122", "tom jerry don't coca cola"),
        ("good \u263a\ufe0f day \U0001f468\u200d\U0001f469 1\ufe0f\u20e3", "good day 1"),
        ("\u0130stanbul, col\u00b7legi \u02bboku don`t", "istanbul col\u00b7legi oku don't"),
        ("\u0e19\u0e49\u0e33 \u314b\u314b", "\u0e19\u0e49\u0e33 \u314b\u314b"),  # Thai AM and Korean letters stay whole
        ("\u0645\u0640\u0640\u0631\u062d\u0628\u0627", "\u0645\u0631\u062d\u0628\u0627"),
        ("... -- !", ""),
        ("", ""),
    ],
)
def test_labels_are_lower_case_words(text: str, cleaned: str) -> None:
    assert clean_transcript(text) == cleaned
    assert clean_transcript(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("[SPEAKER_01]: Hello.", "hello"),
        ("SPEAKER 2: hello", "hello"),
        ("<|0.00|> Hello<|2.40|><|im_end|>", "hello"),
        ("<asr_text>Hello</asr_text> <unk> you</s>", "hello you"),
        ("<v Ann Lee>Hello</v> <font color='red'>you</font> {\\an8}", "hello you"),
        ("00:00:01.000 --> 00:00:03.500 hello (0:12)", "hello"),
        ("\uff3bnoise\uff3d \u3010\u97f3\u697d\u3011 hello [laughter [loud]] you", "hello you"),
        ("&lt;i&gt;hello&lt;/i&gt;", "hello"),
        ("x < y and z > w", "x y and z w"),
        ("hello (really) {you}", "hello really you"),
    ],
)
@pytest.mark.parametrize("keep_punctuation", [False, True])
def test_tags_are_taken_out_and_what_was_said_stays(text: str, cleaned: str, keep_punctuation: bool) -> None:
    found = clean_transcript(text, "lower", keep_punctuation)
    assert clean_transcript(found) == cleaned
    assert take_out_tags(found)[1] == []


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Texts of what goes wrong and of characters of all of Unicode."""
    rng = random.Random(seed)
    awkward = [
        *"aZ19 05.,'`/\u00b7<>[]{}|&;:#^-_\n\u200d\u200c\ufe0f\u0301\u0307\u0327\u00bd\u00b2\u2082\u2460\u0130\u0149"
    ]
    awkward += [
        *"\u064a\u0651\ud55c\u1100\u1161\u3131\u4eca\u0e01\u0e33\u0e4d\u0e32\u034f\ufb01\uff0c\u03a3\u2122\u212a\U0001f4a9",
        "&amp;",
        "<b>",
    ]
    for _ in range(count):
        drawn = (
            rng.choice(awkward)
            if rng.random() < 0.7
            else chr(rng.choice((rng.randrange(0x3000), rng.randrange(0x20000))))
            for _ in range(rng.randint(1, 9))
        )
        yield "".join(drawn)


def is_invisible(word: str) -> bool:
    return all(unicodedata.category(c)[0] in "MZC" or c in "\u115f\u1160\u3164\uffa0\u2800\U0001d159" for c in word)


@pytest.mark.parametrize("case", ["lower", "keep"])
@pytest.mark.parametrize("keep_punctuation", [False, True])
def test_cleaning_twice_changes_nothing_and_leaves_no_invisible_word(case: str, keep_punctuation: bool) -> None:
    alone = (f"{around[0]}{chr(code)}{around[1]}" for code in range(0x3100) for around in ("  ", "a1"))
    for text in chain(alone, random_texts(4000, seed=0)):
        cleaned = clean_transcript(text, case, keep_punctuation)
        assert clean_transcript(cleaned, case, keep_punctuation) == cleaned, ascii(text)
        for word in cleaned.split():
            assert not is_invisible(word), ascii(text)
            assert keep_punctuation or any(unicodedata.category(c)[0] in "LN" for c in word), ascii(text)


def test_what_reads_alike_is_scored_alike() -> None:
    """However it is composed, joined, spaced or dressed."""
    for text in random_texts(6000, seed=1):
        normal = normalize_for_scoring(text)
        for form in ("NFC", "NFD"):
            assert normalize_for_scoring(unicodedata.normalize(form, text)) == normal, ascii(text)
    pairs = [
        ("don\u2019t", "don't"),
        ("to\u00adday to\u200bmorrow", "today tomorrow"),
        ("fine \u2764\ufe0f", "fine"),
        ("1\u00bd", "1 1/2"),
        ("1\u20442 \uff11,000", "1/2 1000"),
        ("\u0130zmir", "izmir"),
        ("\u4eca\u5929 \u5929\u6c14", "\u4eca\u5929\u5929\u6c14"),
        ("\u0e19\u0e4d\u0e32", "\u0e19\u0e33"),
        ("na\u200dive", "naive"),
    ]
    for one, other in pairs:
        words, characters = count_errors([one], [other])
        assert (words.errors, characters.errors) == (0, 0), ascii(one)


def test_a_language_without_spaces_is_known() -> None:
    assert is_unspaced(["\u4eca\u5929\u5929\u6c14\u5f88\u597d ok"])
    assert is_unspaced(["\u0e44\u0e21\u0e48\u0e40\u0e1b\u0e47\u0e19\u0e44\u0e23"])
    assert not is_unspaced(["\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "one two"])
    assert not is_unspaced([])


def test_case_and_punctuation_can_be_kept() -> None:
    text = "Don\u2019t  stop: 1,000 dogs'!"
    assert clean_transcript(text, "keep", True) == "Don't stop: 1,000 dogs'!"
    assert clean_transcript(text, "keep", False) == "Don't stop 1000 dogs"
    assert clean_transcript(text, "lower", True) == "don't stop: 1,000 dogs'!"


def test_scoring_uses_the_rules_of_the_labels() -> None:
    assert normalize_for_scoring("Yes, it's 1,000.") == clean_transcript("yes it's 1000")
    assert "lower case" in NORMALIZER_NAME


@pytest.mark.parametrize(
    ("corpus", "text", "cleaned"),
    [
        ("gigaspeech", "AS THEY'RE LEAVING <COMMA> CAN KASH <QUESTIONMARK>", "as they're leaving, can kash?"),
        ("gigaspeech", "STOP <EXCLAMATIONPOINT> NOW <PERIOD>", "stop! now."),
        ("gigaspeech", "<MUSIC>", ""),
        ("gigaspeech", "<SIL>", ""),
        ("tedlium", "ignore_time_segment_in_scoring", ""),
        ("tedlium", "i didn 't [applause] say it 's good", "i didn't say it's good"),
        ("tedlium", "he said 'no and left", "he said 'no and left"),
        ("tedlium", "one <unk> three", "one three"),
        ("tedlium", "<unk> two three", ""),
        ("tedlium", "[ laughter ] <unk> two", ""),
        ("tedlium", "one two <unk>", ""),
        ("common_voice", '"All of it in quotes."', "All of it in quotes."),
        ("common_voice", '"One" and "two"', '"One" and "two"'),
        ("librispeech", "CHAPTER ONE", "chapter one"),
    ],
)
def test_quirks_of_the_corpora(corpus: str, text: str, cleaned: str) -> None:
    assert CLEANERS[corpus](text) == cleaned
