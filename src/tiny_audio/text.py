"""Transcripts: cleaning of labels, quirks of the known corpora, and normalisation for scoring.

Labels and scores go through the same rules, so that a model is never marked down for a convention that it was
taught. Nothing here rewrites words: numbers, spellings and fillers stay as they were written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

#: Stands beside the figures of a run (training_state.json), since an error rate means nothing without it.
NORMALIZER_NAME = "NFKC, lower case, no punctuation but apostrophes inside words, no rewriting of words or numbers"

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u2032\u00b4\uff07", "'"))
_JOINERS = "\u200c\u200d"  # part of how Persian and Indic words are written, not mere formatting
# Both begin with what they look for, which the regex engine finds 7 times as fast as a look-behind.
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))")
_LOOSE_MARKS = re.compile(r"'(?:(?!\w)|(?<!\w'))|\.(?:(?!\d)|(?<!\d\.))")


class _CharacterTable(dict[int, str]):
    """A `str.translate` table that decides each character once, when it is first met."""

    def __init__(self, keep_punctuation: bool) -> None:
        self.keep_punctuation = keep_punctuation

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        letter = category[0] in "LMN"  # marks too: Hindi and Thai vowels are no letters to Unicode
        if letter or char in _JOINERS or char in "'." or (self.keep_punctuation and category[0] in "PS"):
            kept = char
        elif category == "Cf":  # soft hyphens, byte order marks, directional marks
            kept = ""
        else:
            kept = " "
        self[code] = kept
        return kept


_TABLES = {keep: _CharacterTable(keep) for keep in (False, True)}


def clean_transcript(text: str, case: str = "lower", keep_punctuation: bool = False) -> str:
    """Bring a transcript into the one form that the model is taught to write.

    Unicode is normalised (NFKC), typographic apostrophes become plain ones, and white space becomes single
    spaces. Letters, marks and digits of any language stay. Without punctuation, an apostrophe stays inside
    a word (`don't`), a point inside a number (`3.5`), and `1,000` becomes `1000`; everything else that is
    no letter or digit becomes a space.

    Args:
        text: the transcript as the corpus has it.
        case: `lower`, or `keep` to leave capitals alone.
        keep_punctuation: leave punctuation and symbols where they are.

    Returns:
        The cleaned transcript; empty where nothing is left to say.
    """
    assert case in ("lower", "keep")
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    if case == "lower":
        text = text.lower()
    if not keep_punctuation and "," in text:
        text = _THOUSANDS.sub("", text)
    text = text.translate(_TABLES[keep_punctuation])
    if not keep_punctuation and ("'" in text or "." in text):
        text = _LOOSE_MARKS.sub(" ", text)
    return " ".join(text.split())


def normalize_for_scoring(text: str) -> str:
    """Normalise a reference or a hypothesis before its errors are counted: see `NORMALIZER_NAME`."""
    return clean_transcript(text, case="lower", keep_punctuation=False)


_GIGASPEECH_PUNCTUATION = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_GIGASPEECH_TAG = re.compile(r"\s*<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>", re.IGNORECASE)
_GIGASPEECH_GARBAGE = re.compile(r"<(SIL|MUSIC|NOISE|OTHER)>", re.IGNORECASE)


def _clean_gigaspeech(text: str) -> str:
    """Upper case with punctuation as tags; rows without speech hold a tag that says so."""
    if _GIGASPEECH_GARBAGE.search(text):
        return ""
    return _GIGASPEECH_TAG.sub(lambda tag: _GIGASPEECH_PUNCTUATION[tag[1].upper()], text).lower()


_TEDLIUM_COMMENT = re.compile(r"\[[^\]]*\]")
_TEDLIUM_CLITIC = re.compile(r"(?<=\w) '(?=(?:s|t|re|ve|ll|d|m|clock)\b)")


def _clean_tedlium(text: str) -> str:
    """Lower case, clitics set apart, comments in brackets, `<unk>` for words that were not transcribed.

    An `<unk>` at an edge stands for speech that is in the recording but not in the transcript: such a row
    would teach the model to drop the first or the last word. Inside, it is a word among many, and only it
    is removed.
    """
    if text.strip() == "ignore_time_segment_in_scoring":
        return ""
    words = _TEDLIUM_COMMENT.sub(" ", text).split()
    if not words or "<unk>" in (words[0], words[-1]):
        return ""
    return _TEDLIUM_CLITIC.sub("'", " ".join(word for word in words if word != "<unk>"))


def _clean_common_voice(text: str) -> str:
    """Some sentences stand in quotation marks as a whole, for no reason in the sentence."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1] else text


#: What each corpus needs before `clean_transcript`; an empty result drops the row. LibriSpeech and
#: GigaSpeech carry no case at all: lower case is the honest reading of their capitals, also under
#: `data.text_case=keep`.
CLEANERS: dict[str, Callable[[str], str]] = {
    "librispeech": str.lower,
    "gigaspeech": _clean_gigaspeech,
    "tedlium": _clean_tedlium,
    "common_voice": _clean_common_voice,
}
