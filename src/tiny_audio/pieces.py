"""Transcripts in frequent word pieces: the targets of CTC on the audio tokens.

A language model's own tokenizer writes most words as one token, and in a few hours of speech most of its tokens occur
once or never: their sound cannot be learned. So rare words are built from smaller tokens of the same vocabulary, by a
unigram model (Kudo, arXiv 1804.10959) over the tokens that occur at least `MIN_COUNT` times, or once in `COMMON`
characters: the ten words of ten minutes of digits stay whole. With much speech hardly any word is rare, and the pieces
are those of the tokenizer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MIN_COUNT = 30  # occurrences that are enough to learn the sound of a piece
COMMON = 400  # a piece that occurs once in so many characters (80 English words) is common, however few there are
MAX_CHARACTERS = 16  # of a piece
ROUNDS = 8  # of estimation
WORD_START = re.compile(r"(?=[\u0120\u2581])")  # the space before a word, in byte-level and sentencepiece tokenizers
UNKNOWN = -25.0  # log-probability of a single character that was never seen: used only if no other piece fits


class WordPieces:
    """Splits text into frequent tokens of a vocabulary.

    Args:
        tokenizer: the decoder's.
        log_probs: log-probability of each piece, by token id.
    """

    def __init__(self, tokenizer: Any, log_probs: Mapping[int, float]) -> None:
        self._tokenizer = tokenizer
        self.log_probs = dict(log_probs)
        self._ids: dict[str, int] = tokenizer.get_vocab()
        names = tokenizer.convert_ids_to_tokens(list(self.log_probs))
        self._known = dict(zip(names, self.log_probs.values(), strict=True))
        self._split: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the pieces of a transcript, as token ids; decoded, they are the transcript."""
        return [piece for word in self.words(text) for piece in word]

    def words(self, text: str) -> list[list[int]]:
        """Return the pieces of each word of a transcript."""
        return [self._word(word) for word in words_of(self._tokenizer, text)]

    def spell(self, name: str) -> list[int]:
        """Return the pieces of a word or its beginning, as the tokenizer writes it; empty if there are none."""
        return [self._ids[piece] for piece in best_split(name, self._known, self._ids)]

    def longest_at_start(self, name: str) -> int:
        """Return the longest piece at the start of a word, as a token id; -1 if there is none."""
        starts = (name[:end] for end in range(min(len(name), MAX_CHARACTERS), 0, -1))
        return next((self._ids[start] for start in starts if start in self._known), -1)

    def _word(self, word: tuple[str, tuple[int, ...]]) -> list[int]:
        name, canonical = word
        if name not in self._split:
            ids = self.spell(name)
            same = bool(ids) and self._tokenizer.decode(ids) == self._tokenizer.decode(list(canonical))
            self._split[name] = ids if same else list(canonical)
        return self._split[name]

    @classmethod
    def learn(cls, tokenizer: Any, transcripts: Iterable[str], min_count: int = MIN_COUNT) -> WordPieces:
        """Find the pieces of transcripts: each is a character, common, or occurs at least `min_count` times."""
        words: Counter[str] = Counter()
        for text in transcripts:
            words.update(name for name, _ in words_of(tokenizer, text))
        ids: dict[str, int] = tokenizer.get_vocab()
        counts: Counter[str] = Counter()
        for word, count in words.items():
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + MAX_CHARACTERS) + 1):
                    if word[start:end] in ids:
                        counts[word[start:end]] += count
        enough = min(min_count, sum(len(word) * count for word, count in words.items()) / COMMON)
        for _ in range(ROUNDS):
            kept = {piece: count for piece, count in counts.items() if count >= enough or len(piece) == 1}
            total = sum(kept.values())
            known = {piece: math.log(count / total) for piece, count in kept.items() if count}
            counts = Counter()
            for word, count in words.items():
                for piece in best_split(word, known, ids):
                    counts[piece] += count
        return cls(tokenizer, {ids[piece]: value for piece, value in known.items() if counts[piece]})


def words_of(tokenizer: Any, text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return the words of a text as the tokenizer writes them, each with its own tokens."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words: list[tuple[str, tuple[int, ...]]] = []
    for name, token in zip(tokenizer.convert_ids_to_tokens(ids), ids, strict=True):
        if words and not WORD_START.match(name):
            words[-1] = (words[-1][0] + name, (*words[-1][1], token))
        else:
            words.append((name, (token,)))
    return words


def best_split(word: str, known: Mapping[str, float], ids: Mapping[str, int]) -> list[str]:
    """Return the likeliest pieces of a word (Viterbi); empty if one of its characters is not a token."""
    score = [0.0] + [-math.inf] * len(word)
    came_from = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for start in range(max(0, end - MAX_CHARACTERS), end):
            piece = word[start:end]
            value = known.get(piece, UNKNOWN if end - start == 1 and piece in ids else -math.inf)
            if score[start] + value > score[end]:
                score[end], came_from[end] = score[start] + value, start
    if score[-1] == -math.inf:
        return []
    pieces: list[str] = []
    end = len(word)
    while end:
        pieces.append(word[came_from[end] : end])
        end = came_from[end]
    return pieces[::-1]
