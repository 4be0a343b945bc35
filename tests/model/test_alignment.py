"""Words are found where the audio tokens say them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tiny_models
from tiny_audio.model.alignment import align_words
from tiny_audio.model.ctc import CTCHead
from tiny_audio.pieces import WordPieces

WIDTH, SCALE = 32, 3.0  # audio tokens need not be unit vectors


@pytest.fixture(scope="module")
def split() -> WordPieces:
    return WordPieces.learn(tiny_models.tokenizer(), ["one two three"] * 40 + ["one seven"] * 2, min_count=30)


@pytest.fixture(scope="module")
def table() -> Tensor:
    size = len(tiny_models.tokenizer())
    return torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def head(split) -> CTCHead:
    torch.manual_seed(0)
    ids = sorted(split.log_probs)
    return CTCHead(torch.tensor(ids), torch.tensor([split.log_probs[i] for i in ids]), WIDTH)


def said(head: CTCHead, table: Tensor, script: list[int | None]) -> Tensor:
    """Audio tokens that point at pieces, and at blank where there is None."""
    return SCALE * torch.stack([head.blank.detach() if piece is None else table[piece] for piece in script])


def find(head: CTCHead, split: WordPieces, table: Tensor, tokens: Tensor, counts: list[int], texts: list[str]) -> list:
    """Words of clips that have nothing but their audio tokens, of 80 ms each."""
    seconds = [0.08 * count for count in counts]
    spans = [(0.0, length) for length in seconds]
    return align_words(head, split, lambda ids: table[ids], tokens, counts, spans, seconds, texts)


def test_words_lie_where_their_pieces_do(head, split, table):
    one, seven = split.words("one seven")
    assert len(seven) > 1, "the rare word is to be made of several pieces"
    script = [None, None, *one, one[-1], None, *seven, None]
    other = [*split("two"), None]
    tokens = said(head, table, [*script, *other])
    counts = [len(script), len(other)]
    (first, second), (two,) = find(head, split, table, tokens, counts, ["one seven", "two"])
    assert (first.text, second.text, two.text) == ("one", "seven", "two")
    start = 2 * 0.08
    assert first.start == pytest.approx(start)
    assert first.end == pytest.approx(start + 0.08 * (len(one) + 1))  # the piece lasts for two audio tokens
    assert second.start == pytest.approx(first.end + 0.08)
    assert second.end == pytest.approx(second.start + 0.08 * len(seven))
    assert (two.start, two.end) == (0, pytest.approx(0.08 * len(split("two"))))


def test_a_word_that_was_not_said_has_a_low_confidence(head, split, table):
    tokens = said(head, table, [*split("one"), None, None, None, *split(" three")])
    (words,) = find(head, split, table, tokens, [len(tokens)], ["one two three"])
    confidence = {word.text: word.confidence for word in words}
    assert confidence["two"] < 0.2 < 0.5 < min(confidence["one"], confidence["three"])


def test_a_text_that_is_too_long_for_its_clip_has_no_places(head, split, table):
    tokens = said(head, table, [*split("one"), *split(" two")])
    assert find(head, split, table, tokens, [len(tokens)], ["one two three one two three one two"]) == [None]


def test_nothing_said_has_no_words(head, split, table):
    tokens = said(head, table, [None, None])
    assert find(head, split, table, tokens, [2], [""]) == [[]]


def test_times_are_those_of_the_clip_though_audio_tokens_hold_silence_around_it(head, split, table):
    """A second before the clip, which is 0.3 s long, and a second after it; a token lasts 0.1 s."""
    one, two, three, four = (split(text) for text in ("one", " two", " three", " four"))
    script = [*[None] * 5, *one, *[None] * 4, None, *two, *three, *[None] * 4, *four, None]
    tokens = said(head, table, script)
    span = (-0.1 * (9 + len(one)), 0.1 * (len(script) - 9 - len(one)))  # "one" and blanks are before the clip
    (words,) = align_words(
        *(head, split, lambda ids: table[ids], tokens, [len(script)], [span], [0.3], ["one two three four"])
    )
    times = [(word.start, word.end) for word in words]
    start, between = 0.1, 0.1 + 0.1 * len(two)
    assert times[0] == (0.0, pytest.approx(0.1)), "before the clip: its first 0.1 s"
    assert times[1] == (pytest.approx(start), pytest.approx(min(between, 0.3)))
    assert times[2] == (pytest.approx(min(between, 0.2)), pytest.approx(0.3))
    assert times[3] == (pytest.approx(0.3), pytest.approx(0.3)), "after the clip, where no room is left"
