import pytest

from tiny_audio.text import CLEANERS, NORMALIZER_NAME, clean_transcript, normalize_for_scoring


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
        ("... -- !", ""),
        ("", ""),
    ],
)
def test_labels_are_lower_case_words(text: str, cleaned: str) -> None:
    assert clean_transcript(text) == cleaned
    assert clean_transcript(cleaned) == cleaned


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
