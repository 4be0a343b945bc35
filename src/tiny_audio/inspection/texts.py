"""Inspection of transcripts as a whole: how long they take to say, unusual parts, repetitions.

N clips.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ..text import is_unspaced, take_out_tags
from .facts import MAX_NAMED, Histogram, Named, OddCharacter, Outlier, Spread, TextFacts

RATE_EDGES = np.linspace(0, 8, 41)  # words a second; fast speech is 5
MIN_CLIPS_FIT = 20  # fewer do not show how long a text takes
MIN_SPREAD = 0.25  # of lengths, see `relative_spread`: below it, they are too much alike for a correlation
OUTLIER_FACTOR = 2.0  # an outlier takes this many times as long as its text, or a half ...
OUTLIER_SIGMAS = 6.0  # ... and is at least this far from the middle of its corpus; LibriSpeech's maximum is 5.2
ODD_SHARE = 0.002  # of the transcripts: a character in more of them is usual in the corpus
REPEATED_CLIPS = 10  # a transcript is suspicious from this many clips on ...
REPEATED_FACTOR = 10  # ... if that is this many times the average of the corpus
# Marks that cleaning keeps, since they may have been said.
_MARK = re.compile(r"<[^<>\s][^<>]{0,30}>|\{[^{}]{1,30}\}|\(\(?[^()]{1,30}\)?\)|\*[^*\s][^*]{0,30}\*")
_NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")  # tags that differ only in a number are of one kind
_ODD_CLASSES = ("So", "Sk", "Cc", "Co", "Cn", "Cs")  # symbols, controls, unassigned: never part of a sentence
_WHITE = "\t\n\r"


def look_at_texts(seconds: np.ndarray, texts: Sequence[str], names: Sequence[str]) -> tuple[TextFacts, np.ndarray]:
    """Inspect the cleaned transcripts.

    Args:
        seconds: (N,) of the clips.
        texts: N transcripts.
        names: N.

    Returns:
        The facts, and which clips are outliers (N,).
    """
    words: Counter[str] = Counter()
    transcripts: Counter[str] = Counter()
    num_words, num_characters = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
    capitals = 0
    for i, text in enumerate(texts):
        split = text.split()
        words.update(split)
        transcripts[text] += 1
        num_words[i], num_characters[i] = len(split), len(text)
        capitals += text != text.lower()
    rates = num_words / np.maximum(seconds, 1e-3)
    facts = TextFacts(
        words=int(num_words.sum()),
        vocabulary=len(words),
        characters=int(num_characters.sum()),
        distinct=len(transcripts),
        words_per_second=Spread.of(rates),
        rate_histogram=Histogram.of(rates, RATE_EDGES),
        capitals=capitals / len(texts),
        odd_characters=odd_characters(texts, names),
        repeats=repeats(transcripts, texts, names),
        unspaced=is_unspaced(texts),
    )
    outliers = np.zeros(len(texts), dtype=bool)
    if len(texts) >= MIN_CLIPS_FIT and min(map(relative_spread, (seconds, num_characters))) >= MIN_SPREAD:
        facts.correlation = float(np.corrcoef(ranks(seconds), ranks(num_characters))[0, 1])
        around, per_character = fit_seconds(seconds, num_characters)
        expected = np.maximum(around + per_character * num_characters, 0.05)
        facts.seconds_around, facts.seconds_per_character = around, per_character
        distance = robust_distance(np.log(seconds / expected))
        outliers = (distance > OUTLIER_SIGMAS) & (abs(np.log(seconds / expected)) > np.log(OUTLIER_FACTOR))
        facts.num_outliers = int(outliers.sum())
        for i in np.argsort(-distance * outliers, kind="stable")[: min(MAX_NAMED, facts.num_outliers)].tolist():
            facts.outliers.append(
                Outlier(
                    names[i], float(seconds[i]), float(expected[i]), len(texts[i]), float(rates[i]), shorten(texts[i])
                )
            )
    return facts, outliers


def relative_spread(values: np.ndarray) -> float:
    """Return an estimate of standard deviation over mean from the deciles, so that single outliers do not count."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return (high - low) / 2.563 / max(middle, 1e-9)


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks (N,) of values; equal values get their mean rank. The correlation of ranks is Spearman's.

    In Pearson's, one transcript of a thousand sentences outweighs 499 others.
    """
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[which])


def robust_distance(values: np.ndarray) -> np.ndarray:
    """Return how many standard deviations each value is from the middle; outliers do not change these two."""
    middle = np.median(values)
    sigma = 1.4826 * np.median(abs(values - middle))  # of a normal distribution, from its median deviation
    return np.asarray(abs(values - middle) / max(float(sigma), 1e-6))


def fit_seconds(seconds: np.ndarray, characters: np.ndarray) -> tuple[float, float]:
    """Fit seconds = around + per_character * characters by least squares, without outliers; return both."""
    kept = robust_distance(np.log(seconds / characters)) < 3  # one outlier would change the line too much
    around, per_character = 0.0, 0.0
    for _ in range(5):
        per_character, around = np.polyfit(characters[kept], seconds[kept], 1).tolist()
        ratio = np.log(seconds / np.maximum(around + per_character * characters, 0.05))
        kept = robust_distance(ratio) < 3
    return around, per_character


def shorten(text: str, length: int = 60) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


def repeats(transcripts: Counter[str], texts: Sequence[str], names: Sequence[str]) -> list[tuple[str, Named]]:
    """Return transcripts with far more clips than is usual in the corpus, most frequent first."""
    average = len(texts) / len(transcripts)
    often = max(REPEATED_CLIPS, REPEATED_FACTOR * average)
    found = {text: Named() for text, count in transcripts.most_common(MAX_NAMED) if count >= often}
    for text, name in zip(texts, names, strict=True) if found else ():
        if text in found:
            found[text].add(name)
    return list(found.items())


def odd_characters(texts: Sequence[str], names: Sequence[str]) -> list[OddCharacter]:
    """Return characters that few transcripts hold: letters of other scripts, digits, symbols.

    Letters of the commonest script are never unusual, even if they are rare; in Latin only those without accents.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(text))
    scripts: Counter[str] = Counter()
    for character, count in counts.items():
        if character.isalpha():
            scripts[_script(character)] += count
    own = max(scripts, key=lambda script: scripts[script], default="LATIN")
    rare = max(1.0, ODD_SHARE * len(texts))

    def belongs(character: str) -> bool:
        if character in " '" or counts[character] > rare:
            return True
        return _script(character) == own and (own != "LATIN" or character.isascii())

    found = {c: OddCharacter(c, _title(c), taught=True) for c in counts if not belongs(c)}
    if not found:
        return []
    any_of = re.compile("[" + "".join(map(re.escape, found)) + "]")
    for text, name in zip(texts, names, strict=True):
        for character in set(any_of.findall(text)):
            found[character].clips.add(name, shorten(text))
    return sorted(found.values(), key=lambda character: (character.clips.count, character.character))


def _script(character: str) -> str:
    """The first word of a character's name: LATIN, HANGUL, CYRILLIC, DIGIT, ...; one word for kana and kanji."""
    word = unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]
    return "CJK" if word in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else word


def _title(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}").lower()


def look_at_raw_texts(facts: TextFacts, clips: Iterable[tuple[str, str, str, str]]) -> None:
    """Add to the facts of a corpus what its raw transcripts show: what cleaning drops, and which marks it keeps.

    Args:
        facts: of the cleaned transcripts.
        clips: name and transcript of each clip: as written, after the corpus's own cleaning, and as the model learns
            it.
    """
    seen = cased = punctuated = 0
    dropped: dict[str, Named] = {}
    for name, raw, prepared, taught in clips:
        seen += 1
        cased += raw != raw.lower() and raw != raw.upper()
        punctuated += any(mark in raw for mark in ".,?!;:\u3002\u061f\u0964")
        if not raw.isascii() or not raw.isprintable():
            for character in set(raw) - set(taught) - set(_WHITE):
                if unicodedata.category(character) in _ODD_CLASSES:
                    dropped.setdefault(character, Named()).add(name, shorten(raw))
        left, tags = take_out_tags(prepared)
        for tag in {_NUMBERS.sub("#", tag.lower()) for tag in tags}:
            facts.taken_out.setdefault(tag, Named()).add(name, shorten(prepared))
        for mark in {mark.lower() for mark in _MARK.findall(left)}:
            if any(word.isalpha() for word in re.split(r"[\W\d_]+", mark)):
                facts.tags.setdefault(mark, Named()).add(name, shorten(prepared))
    facts.cased, facts.punctuated = cased / max(seen, 1), punctuated / max(seen, 1)
    for character, named in sorted(dropped.items(), key=lambda item: item[1].count):
        facts.odd_characters.append(OddCharacter(character, _title(character), False, named))
