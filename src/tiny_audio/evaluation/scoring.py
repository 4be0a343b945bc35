"""Rules of scoring by name: how transcripts are normalized, and what an alignment costs.

An error rate means nothing without its rule: the rule's name stands beside every figure.
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
        split: of a transcript its words and its characters, normalized.
        sclite: align with the costs of NIST sclite (3 for an insertion or a deletion, 4 for a substitution), which
            pairs words more sensibly and finds more errors in bad transcripts; False: plain Levenshtein, 1 each.
        counts_empty: what is written where nothing was said counts as inserted; False: such clips do not count.
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
    """Return Whisper's English normalizer: its classes are transformers', its list of spellings whisper-normalizer's.

    The classes of whisper-normalizer itself are not used: they rewrite more (`cause` to `because`), so that its figures
    would not be those of others.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
    from whisper_normalizer.english import EnglishSpellingNormalizer

    english, basic = EnglishTextNormalizer(EnglishSpellingNormalizer().mapping), BasicTextNormalizer()

    @lru_cache(1 << 16)  # the same references for every checkpoint
    def normalize(text: str) -> str:
        try:
            return str(english(text)).strip()
        except ValueError:  # a number of thousands of digits, as a model writes that loops
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
    """Return the rules that `scoring=` names, with commas between; results are ranked by the first.

    Raises:
        UserError: a name that is not known, or named twice.
    """
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in RULES:
            raise UserError(f"scoring={names}: there is no rule {name!r}; there are {', '.join(RULES)}.")
        if chosen.count(name) > 1:
            raise UserError(f"scoring={names} names {name} twice.")
    return tuple(RULES[name] for name in chosen)


def default_rules(transcripts: Iterable[str], languages: Sequence[str | None] = ()) -> tuple[Rule, ...]:
    """Return the rules of a set where none are named: first the one whose figure others can compare, then ours.

    Whisper's normalizer is for English alone: it takes the vowels of Hindi away, and the umlauts of German.

    Args:
        transcripts: of the set.
        languages: as its corpora are said to be; None: not said.
    """
    named = {language for language in languages if language is not None}
    return (WHISPER if named <= {"en"} and is_english(transcripts) else LEVENSHTEIN, OURS)


def is_english(transcripts: Iterable[str]) -> bool:
    """Whether transcripts are written in letters that English has; other languages that have no others pass for it."""
    letters, foreign = 0, 0
    for text in transcripts:
        letters += len(text)
        foreign += 0 if text.isascii() else sum(char.isalpha() and not char.isascii() for char in text)
    return foreign <= MAX_FOREIGN * letters
