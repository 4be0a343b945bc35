"""Transcripts: cleaning of labels, quirks of the known corpora, and normalization for scoring.

Labels and scores use the same rules, so that a convention of the labels never counts as an error. Nothing here
rewrites words: numbers, spellings and fillers stay as they were written.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache

#: Stored with the figures of a run (training_state.json), since an error rate means nothing without it.
NORMALIZER_NAME = (
    "NFKC, lower case, no tags, no punctuation but inside words and numbers, no rewriting of words or numbers; "
    "scripts without spaces character by character"
)

_APOSTROPHES = "\u2019\u2018\u201b\u02bb\u02bc\u02b9\u2032\u00b4\u1ffd\uff07\ua78b\ua78c\u055a\u05f3"
_JOINERS = "\u200c\u200d"
# Scripts whose letters join or stack, where joiners are visible: Arabic to Sinhala, Burmese, Khmer, Mongolian, others.
_JOINING = "\u0600-\u0dff\u1000-\u109f\u1780-\u18af\ua800-\uabff\U00010a00-\U00011fff\U0001e900-\U0001e95f"
_LOOSE_JOINERS = re.compile(f"(?<=[{_JOINING}])([{_JOINERS}])[{_JOINERS}]*(?=[{_JOINING}])|[{_JOINERS}]+")
# Unicode's Default_Ignorable_Code_Point, interlinear annotation, and the stretch of Arabic and N'Ko letters.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u0640\u07fa\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00016fe4\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_BLANK = "\u2800\U0001d159"  # symbols that are drawn blank
# NFKC would split characters that are never written in parts (the vowel AM of Thai and Lao, single Korean letters), or
# join a trade mark to its word.
_KEPT_FORMS = re.compile("[\u0e33\u0eb3\u3131-\u318e\u2120\u2122]")
_DOTTED_I = re.compile("i\u0307+")
_EXPONENT = re.compile("(?<=\\d)(?=[\u00b2\u00b3\u00b9\u2070\u2074-\u207b])")
# Written without spaces between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_UNSPACED_GAP = re.compile(f"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")

_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|amp|lt|gt|quot|apos|nbsp);", re.IGNORECASE)
_CLOCK = r"(?:\d{1,2}:)?\d{1,2}:\d{2}"
#: Marks of recognizers, subtitles, chat templates and transcribers, which are not speech.
TAG = re.compile(
    r"<{1,2}\|[^<>|]{0,40}\|>{1,2}"  # <|0.00|>, <|im_end|>
    r"|<{1,2}/?[^\W\d][^<>\s]{0,40}(?:\s[^<>]{0,60}=[^<>]{0,60})?\s?/?>{1,2}"  # <asr_text>, </s>, <font color=red>
    rf"|<v(?:\.\w+)?\s[^<>]{{1,60}}>|<{_CLOCK}[.,]\d+>"  # WebVTT: <v Ann>, <00:01.500>
    r"|\[[^\[\]]{1,60}\]:?|\u3010[^\u3010\u3011]{1,60}\u3011|\{\\[^{}]{1,60}\}"  # [noise], [SPEAKER_01]:, {\an8}
    rf"|\({_CLOCK}(?:[.,]\d+)?\)|{_CLOCK}[.,]\d{{3}}\s*-->\s*{_CLOCK}[.,]\d{{3}}"
    r"|\bspeaker[ _-]?\d+:",
    re.IGNORECASE,
)
_MAY_TAG = re.compile(r"[]>})\u3011:]")

_NUMBER = re.compile(r"\d+(?:[.,]\d+)+")
_GROUPED = re.compile(r"[^\W0]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[^\W0]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"\d+,\d+|\d{1,3}(?:\.\d{3})+,\d+")
# `_LOOSE` finds the characters of `_INSIDE` that are not inside a word or a number. Each pattern begins with the
# character itself, which the regex engine finds 7 times as fast as a look-behind. All other characters are letters,
# marks, digits and spaces at this point.
_INSIDE = "'.,/\u00b7"
_LOOSE = re.compile(
    rf"'(?:(?![^\s{_INSIDE}])|(?<![^\s{_INSIDE}]'))"
    r"|\.(?:(?!\d)|(?<=[^\s\d]\.))|,(?:(?!\d)|(?<!\d,))|/(?:(?!\d)|(?<!\d/))|\u00b7(?:(?![lL])|(?<![lL]\u00b7))"
)


class _FormTable(dict[int, str]):
    """A `str.translate` table to one form of each character, computed when the character first occurs.

    The translated text, normalized by NFC, is NFKC with a few exceptions. The table uses NFKC of single characters.
    """

    def __missing__(self, code: int) -> str:
        char = chr(code)
        form = char if _KEPT_FORMS.match(char) else unicodedata.normalize("NFKC", char)
        if char in _APOSTROPHES:
            form = "'"
        elif (_INVISIBLE.match(char) and char not in _JOINERS) or unicodedata.category(char) == "Me":
            form = ""  # enclosing marks too: keycaps around digits
        elif char in "\u2044\u2215":  # slashes of fractions
            form = "/"
        elif form != char:
            number = unicodedata.category(char) in ("No", "So") and any(c.isdecimal() for c in form)
            form = "".join(self[ord(c)] for c in form)
            if number and "<su" not in unicodedata.decomposition(char):  # 1 1/2, not 11/2; but CO2, m2
                form = f" {form} "
        self[code] = form
        return form


class _CharacterTable(dict[int, str]):
    """A `str.translate` table of the characters to keep, computed when a character first occurs."""

    def __init__(self, keep_punctuation: bool) -> None:
        self.keep_punctuation = keep_punctuation

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        letter = category[0] in "LMN"  # marks too: in Unicode, Hindi and Thai vowels are not letters
        symbol = category[0] in "PS" and char not in _BLANK
        if letter or char in _JOINERS or (symbol and (self.keep_punctuation or char in _INSIDE)):
            kept = char
        else:
            kept = "'" if char == "`" else " "
        self[code] = kept
        return kept


_FORMS = _FormTable()
_TABLES = {keep: _CharacterTable(keep) for keep in (False, True)}


@cache
def _marks() -> str:
    """The combining marks, as the content of a regular expression's character class."""
    codes = {code for code in range(0x20000) if unicodedata.category(chr(code))[0] == "M"}
    starts = sorted(code for code in codes if code - 1 not in codes)
    ends = sorted(code for code in codes if code + 1 not in codes)
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


@cache
def _orphans(keep_punctuation: bool) -> re.Pattern[str]:
    """Marks and joiners without a character before them, such as an emoji leaves, and joiners that join nothing."""
    around = r"\s" if keep_punctuation else rf"\s{_INSIDE}"
    return re.compile(f"(?<![^{around}])[{_marks()}{_JOINERS}]+|[{_JOINERS}]+(?![^{around}])")


def _in_one_form(text: str) -> str:
    """Write each character in one form, NFKC with a few exceptions, without invisible characters."""
    if text.isascii():
        return text
    text = _EXPONENT.sub("^", text).translate(_FORMS)
    text = unicodedata.normalize("NFC", _LOOSE_JOINERS.sub(r"\1", text))
    return text.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")  # AM, typed in two parts


def take_out_tags(text: str) -> tuple[str, list[str]]:
    """Return a transcript in one form without its tags, and the tags.

    It removes text in angle, square and similar brackets (`<|0.00|>`, `</s>`, `[noise]`), speaker labels
    (`[SPEAKER_01]:`), times of subtitles and codes of style. `&amp;` and other entities become their characters.
    Text in parentheses or braces may have been said, and stays.
    """
    text, tags = _in_one_form(text), []
    while "&" in text and (plain := _ENTITY.sub(lambda match: html.unescape(match[0]), text)) != text:
        text = _in_one_form(plain)
    if _MAY_TAG.search(text):
        while found := TAG.findall(text):
            tags += found
            text = TAG.sub(" ", text)
    return text, tags


def clean_transcript(text: str, case: str = "lower", keep_punctuation: bool = False) -> str:
    """Bring a transcript into the one form that the model learns to write.

    Tags are removed (see `take_out_tags`). Unicode is normalized (NFKC), typographic apostrophes become plain ones,
    invisible characters are removed, and white space becomes single spaces. Letters, marks and digits of any language
    stay. Without punctuation, an apostrophe inside a word stays (`don't`). A point, a decimal comma or a slash inside a
    number stays, and so does a point before one (`3.5`, `1,5`, `1 1/2`, `.5`); `1,000` becomes `1000`. All other
    characters that are not letters or digits become spaces.

    Args:
        text: the transcript as the corpus has it.
        case: `lower`, or `keep` to leave capitals alone.
        keep_punctuation: leave punctuation and symbols where they are.

    Returns:
        The cleaned transcript; empty if nothing is left.
    """
    assert case in ("lower", "keep")
    text, _ = take_out_tags(text)
    if case == "lower":
        text = text.lower()
        if not text.isascii():  # the small letter of a Turkish capital has its dot already
            text = unicodedata.normalize("NFC", _DOTTED_I.sub("i", text))
    text = text.translate(_TABLES[keep_punctuation])
    if not text.isascii():
        text = _orphans(keep_punctuation).sub("", text)
    if not keep_punctuation:
        if "," in text:
            text = _NUMBER.sub(_without_grouping, text)
        if any(mark in text for mark in _INSIDE):
            text = _LOOSE.sub(" ", text)
    return " ".join(text.split())


def clean_context(text: str, case: str = "lower") -> str:
    """Bring a context into the form of transcripts, so that its words look as the model is to write them.

    Args:
        text: as it was written.
        case: see `clean_transcript`; punctuation stays.
    """
    return clean_transcript(text, case, keep_punctuation=True)


def _without_grouping(number: re.Match[str]) -> str:
    """Join `1,000` and `12,34,567.8`; keep a decimal comma; any other number with commas is a list of numbers."""
    written = number[0]
    if _GROUPED.fullmatch(written):
        return written.replace(",", "")
    return written if _DECIMAL_COMMA.fullmatch(written) else written.replace(",", " ")


def normalize_for_scoring(text: str) -> str:
    """Normalize a reference or a hypothesis before its errors are counted: see `NORMALIZER_NAME`."""
    return clean_transcript(text, case="lower", keep_punctuation=False)


def words_for_scoring(normalized: str) -> list[str]:
    """Split a normalized transcript into words; in scripts without spaces, each character with its marks is a word."""
    if not normalized.isascii() and _UNSPACED_CHARACTER.search(normalized):
        normalized = _cluster().sub(r" \g<0> ", normalized)
    return normalized.split()


def characters_for_scoring(normalized: str) -> list[str]:
    """Split a normalized transcript into characters, including spaces except in scripts without them."""
    return list(normalized if normalized.isascii() else _UNSPACED_GAP.sub("", normalized))


@cache
def _cluster() -> re.Pattern[str]:
    return re.compile(f"[{_UNSPACED}][{_marks()}]*")


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most characters of transcripts belong to scripts without spaces, so that CER is used, not WER."""
    unspaced, characters = 0, 0
    for text in texts:
        characters += len(text) - text.count(" ")
        unspaced += 0 if text.isascii() else len(_UNSPACED_CHARACTER.findall(text))
    return unspaced > characters / 2


_GIGASPEECH_PUNCTUATION = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_GIGASPEECH_TAG = re.compile(r"\s*<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>", re.IGNORECASE)
_GIGASPEECH_GARBAGE = re.compile(r"<(SIL|MUSIC|NOISE|OTHER)>", re.IGNORECASE)


def _clean_gigaspeech(text: str) -> str:
    """Upper case with punctuation as tags; rows without speech hold a special tag."""
    if _GIGASPEECH_GARBAGE.search(text):
        return ""
    return _GIGASPEECH_TAG.sub(lambda tag: _GIGASPEECH_PUNCTUATION[tag[1].upper()], text).lower()


_TEDLIUM_COMMENT = re.compile(r"\[[^\]]*\]")
_TEDLIUM_CLITIC = re.compile(r"(?<=\w) '(?=(?:s|t|re|ve|ll|d|m|clock)\b)")


def _clean_tedlium(text: str) -> str:
    """Lower case, separated clitics, comments in brackets, `<unk>` for words that were not transcribed.

    An `<unk>` at an edge means speech that is in the recording but not in the transcript: such a row
    would teach the model to drop the first or the last word. Elsewhere it is one word among many, and only it
    is removed.
    """
    if text.strip() == "ignore_time_segment_in_scoring":
        return ""
    words = _TEDLIUM_COMMENT.sub(" ", text).split()
    if not words or "<unk>" in (words[0], words[-1]):
        return ""
    return _TEDLIUM_CLITIC.sub("'", " ".join(word for word in words if word != "<unk>"))


def _clean_common_voice(text: str) -> str:
    """Some whole sentences are in quotation marks, without a reason."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1] else text


#: Cleaning of each corpus before `clean_transcript`; an empty result drops the row. The capitals of LibriSpeech and
#: GigaSpeech carry no information about case, so they become lower case, even with `data.text_case=keep`.
CLEANERS: dict[str, Callable[[str], str]] = {
    "librispeech": str.lower,
    "gigaspeech": _clean_gigaspeech,
    "tedlium": _clean_tedlium,
    "common_voice": _clean_common_voice,
}
