"""Rare words become common pieces, common words stay whole, and what is decoded is what was said."""

from __future__ import annotations

import itertools
import math

import pytest

import tiny_models
from tiny_audio.pieces import UNKNOWN, WordPieces, best_split, words_of


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.tokenizer()


TEXTS = ["one two three"] * 800 + ["seven"] * 2 + ["one seventh"]


def test_common_words_stay_whole_and_rare_ones_are_put_together(tokenizer):
    split = WordPieces.learn(tokenizer, TEXTS, min_count=30)
    assert tokenizer.convert_ids_to_tokens(split("one two")) == tokenizer.convert_ids_to_tokens(
        tokenizer("one two")["input_ids"]
    )
    assert len(tokenizer("seven")["input_ids"]) < len(split("seven"))


def test_with_a_low_limit_the_pieces_are_the_tokenizers(tokenizer):
    split = WordPieces.learn(tokenizer, TEXTS, min_count=1)
    assert split("seven") == tokenizer("seven")["input_ids"]


@pytest.mark.parametrize(("others", "whole"), [(22, True), (26, False)])
def test_a_piece_is_common_if_it_occurs_once_in_400_characters(tokenizer, others, whole):
    rare = ["seven"] * 3  # 5 characters each, and as many of the others make up 400 for each
    split = WordPieces.learn(tokenizer, rare + ["onetwothree four"] * 3 * others, min_count=300)
    assert (split("seven") == tokenizer("seven")["input_ids"]) is whole


def test_what_few_texts_say_again_and_again_stays_whole(tokenizer):
    split = WordPieces.learn(tokenizer, ["seven one"] * 20, min_count=300)
    assert split("seven") == tokenizer("seven")["input_ids"]


@pytest.mark.parametrize("text", ["one two three", "seventy-one", "naïve 12 €", "", "  two  spaces "])
def test_decoded_pieces_are_the_text(tokenizer, text):
    split = WordPieces.learn(tokenizer, TEXTS, min_count=30)
    assert tokenizer.decode(split(text)) == text


def test_stored_probabilities_split_as_the_learned_ones(tokenizer):
    learned = WordPieces.learn(tokenizer, TEXTS, min_count=30)
    assert WordPieces(tokenizer, learned.log_probs)("one seventh") == learned("one seventh")


def test_every_kept_piece_is_frequent_or_a_character(tokenizer):
    split = WordPieces.learn(tokenizer, TEXTS, min_count=30)
    counts = dict.fromkeys(split.log_probs, 0)
    for piece in itertools.chain.from_iterable(map(split, TEXTS)):
        counts[piece] += 1
    names = dict(zip(counts, tokenizer.convert_ids_to_tokens(list(counts)), strict=True))
    assert all(count >= 30 or len(names[piece]) == 1 for piece, count in counts.items())


def test_the_split_is_the_likeliest_of_all(tokenizer):
    known = {"a": -2.0, "b": -2.5, "ab": -4.0, "abc": -6.9, "ca": -3.0, "bca": -5.0}
    ids = {name: i for i, name in enumerate([*known, "c"])}
    word = "abcab"

    def score(pieces):
        return sum(known.get(p, UNKNOWN if len(p) == 1 else -math.inf) for p in pieces)

    cuts = (sorted(c) for n in range(len(word)) for c in itertools.combinations(range(1, len(word)), n))
    every = [[word[i:j] for i, j in itertools.pairwise([0, *c, len(word)])] for c in cuts]
    assert score(best_split(word, known, ids)) == max(map(score, every))
    assert best_split("a?", known, ids) == []


def test_words_begin_where_the_tokenizer_writes_a_space(tokenizer):
    names = ["".join(tokenizer.convert_ids_to_tokens(list(ids))) for _, ids in words_of(tokenizer, "one two three")]
    assert names == [name for name, _ in words_of(tokenizer, "one two three")]
    assert len(names) == 3
