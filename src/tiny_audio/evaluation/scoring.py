"""Scoring rules by name: how transcripts are normalized, and what an alignment costs.

An error rate means nothing without its rule: every figure is given with the name of its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from ..errors import UserError
from ..text import NORMALIZER_NAME, characters_for_scoring, normalize_for_scoring, words_for_scoring

#: Letters beyond ASCII that English transcripts may have, as a share: names and loan words, but no umlauts.
MAX_FOREIGN = 0.003


@dataclass(frozen=True)
class Rule:
    """One way to count errors.

    Attributes:
        name: as `scoring=` takes it.
        description: what it does, for people.
        split: returns the normalized words and characters of a transcript.
        sclite: align with the costs of NIST sclite (3 for an insertion or a deletion, 4 for a substitution), which
            pair words more sensibly and find more errors in bad transcripts; False: plain Levenshtein, 1 each.
        counts_empty: words that are written for a clip without speech count as inserted; False: such clips do not
            count.
    """

    name: str
    description: str
    split: Callable[[str], tuple[list[str], list[str]]]
    sclite: bool
    counts_empty: bool = True


def _ours(text: str) -> tuple[list[str], list[str]]:
    normalized = normalize_for_scoring(text)
    return words_for_scoring(normalized), characters_for_scoring(normalized)


@cache
def whisper_normalizer() -> Callable[[str], str]:
    """Return Whisper's English normalizer, with the classes of transformers and the spellings of whisper-normalizer.

    The classes of whisper-normalizer are not used: they rewrite more (`cause` to `because`), so the figures could not
    be compared with those of others.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
    from whisper_normalizer.english import EnglishSpellingNormalizer

    english, basic = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping), BasicTextNormalizer()

    @lru_cache(1 << 16)  # the same references for every checkpoint
    def normalize(text: str) -> str:
        try:
            return str(english(text)).strip()
        except ValueError:  # a number of thousands of digits, from a model in a loop
            return str(basic(text)).strip()

    return normalize


def _whisper(text: str) -> tuple[list[str], list[str]]:
    normalized = whisper_normalizer()(text)
    return normalized.split(), list(normalized)


OURS = Rule("ours", f"{NORMALIZER_NAME}; sclite's costs", _ours, sclite=True)
WHISPER = Rule(
    "whisper",
    "Whisper's English normalizer (numbers as digits, American spelling, contractions in full, no fillers), plain "
    "Levenshtein as jiwer counts; clips of which it leaves nothing do not count",
    _whisper,
    sclite=False,
    counts_empty=False,
)
LEVENSHTEIN = Rule("levenshtein", f"{NORMALIZER_NAME}; plain Levenshtein as jiwer counts", _ours, sclite=False)
RULES = {rule.name: rule for rule in (WHISPER, LEVENSHTEIN, OURS)}


def parse_rules(names: str) -> tuple[Rule, ...]:
    """Return the rules that `scoring=` names, separated by commas; results are ranked by the first.

    Raises:
        UserError: a name is unknown, or given twice.
    """
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in RULES:
            raise UserError(f"scoring={names}: there is no rule {name!r}; there are {', '.join(RULES)}.")
        if chosen.count(name) > 1:
            raise UserError(f"scoring={names} names {name} twice.")
    return tuple(RULES[name] for name in chosen)


def default_rules(transcripts: Iterable[str], languages: Sequence[str | None] = ()) -> tuple[Rule, ...]:
    """Return the default rules of a set: first the rule whose figures compare with those of others, then ours.

    Whisper's normalizer is for English alone: it removes the vowels of Hindi, and the umlauts of German.

    Args:
        transcripts: of the set.
        languages: the languages that the corpora are configured with; None: not given.
    """
    named = {language for language in languages if language is not None}
    return (WHISPER if named <= {"en"} and is_english(transcripts) else LEVENSHTEIN, OURS)


def is_english(transcripts: Iterable[str]) -> bool:
    """Whether transcripts use only letters of English; other languages with the same letters count as English too."""
    letters, foreign = 0, 0
    for text in transcripts:
        letters += len(text)
        foreign += 0 if text.isascii() else sum(char.isalpha() and not char.isascii() for char in text)
    return foreign <= MAX_FOREIGN * letters
