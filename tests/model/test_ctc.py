"""CTC over a few classes at a time against the whole softmax, and its paths against all paths there are."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import ctc_loss, log_softmax, normalize
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.model import ctc
from tiny_audio.model.ctc import CTCHead, best_path, fits, pad_clips, padded_places

WIDTH, VOCABULARY = 16, torch.arange(3, 43)
EMBEDDINGS = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1))
COUNTS = [12, 7, 5, 3]
TRANSCRIPTS = [  # a repeat; none; nothing said; more than three audio tokens can hold
    torch.tensor([6, 6, 12]),
    torch.tensor([3, 23]),
    torch.tensor([], dtype=torch.int64),
    torch.tensor([4, 4, 5]),
]


def embed(ids: Tensor) -> Tensor:
    return EMBEDDINGS[ids]


@pytest.fixture
def head() -> CTCHead:
    torch.manual_seed(0)
    return CTCHead(VOCABULARY, torch.zeros(len(VOCABULARY)), WIDTH)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(sum(COUNTS), WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()


def whole_log_probs(head: CTCHead, tokens: Tensor) -> Tensor:
    """The plain way: blank and all pieces in one softmax (T, 1 + V)."""
    queries = head.log_scale.exp() * normalize(tokens, dim=-1)
    blank = queries @ normalize(head.blank, dim=0) + head.blank_bias
    return log_softmax(torch.cat((blank[:, None], queries @ normalize(embed(VOCABULARY), dim=-1).T), 1), -1)


@pytest.mark.parametrize("max_scores", [1 << 24, 80])
def test_loss_and_gradients_equal_those_of_the_whole_softmax(head, tokens, max_scores, monkeypatch):
    monkeypatch.setattr(ctc, "MAX_SCORES", max_scores)  # 80: two audio tokens at a time
    found = head(tokens, COUNTS, TRANSCRIPTS, embed)
    weights = [tokens, head.blank, head.blank_bias, head.log_scale]
    gradients = torch.autograd.grad(found.loss, weights)

    log_probs = pad_sequence(list(whole_log_probs(head, tokens).split(COUNTS)))
    classes = torch.cat([ids - 2 for ids in TRANSCRIPTS])  # the vocabulary starts at 3, class 0 is blank
    sizes = torch.tensor([len(ids) for ids in TRANSCRIPTS])
    plain = ctc_loss(log_probs, classes, torch.tensor(COUNTS), sizes, reduction="sum", zero_infinity=True)
    torch.testing.assert_close(found.loss, plain)
    for ours, theirs in zip(gradients, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    assert (found.num_pieces, found.too_short) == (8, 1)


@pytest.mark.parametrize("max_scores", [1 << 24, 400])
def test_two_versions_disagree_by_the_divergences_of_the_whole_softmax(head, tokens, max_scores, monkeypatch):
    other = torch.randn(sum(COUNTS), WIDTH, generator=torch.Generator().manual_seed(3)).requires_grad_()
    one, two = whole_log_probs(head, tokens), whole_log_probs(head, other)
    to_one = (one.detach().exp() * (one.detach() - two)).sum()
    to_two = (two.detach().exp() * (two.detach() - one)).sum()
    wanted = (to_one + to_two) / 2
    weights = [tokens, other, *head.parameters()]
    gradients = torch.autograd.grad(wanted, weights)

    monkeypatch.setattr(ctc, "MAX_SCORES", max_scores)
    found = head.disagreement(torch.cat((tokens, other)), embed)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(torch.autograd.grad(found, weights), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert head.disagreement(torch.cat((tokens, tokens)), embed) == 0
    assert head.disagreement(tokens[:0], embed) == 0  # no clip has an audio token


def test_a_clip_has_the_loss_that_it_has_alone(head, tokens):
    starts = [0, 12, 19, 24]
    alone = [
        head(tokens[start : start + count], [count], [ids], embed).loss
        for start, count, ids in zip(starts, COUNTS, TRANSCRIPTS, strict=True)
    ]
    torch.testing.assert_close(head(tokens, COUNTS, TRANSCRIPTS, embed).loss, sum(alone))


def test_clips_are_padded_as_by_pad_sequence_also_those_without_tokens():
    values = torch.randn(5, 3, requires_grad=True)
    for counts in ([2, 0, 3], [5], [0, 5]):
        found = pad_clips(values, padded_places(counts), counts)
        expected = pad_sequence(list(values.split(counts)), batch_first=True)
        assert torch.equal(found, expected)
        weight = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad((padded * weight).sum(), values)[0] for padded in (found, expected))
        assert torch.equal(ours, theirs)
    assert pad_clips(values[:0], padded_places([0, 0]), [0, 0]).shape == (2, 0, 3)


def test_a_piece_outside_the_vocabulary_is_scored_all_the_same(head, tokens):
    known = head(tokens, [27], [torch.tensor([6, 12])], embed).loss
    rare = head(tokens, [27], [torch.tensor([6, 47])], embed).loss
    assert torch.isfinite(rare)
    assert rare != known


def test_greedy_reads_what_audio_tokens_point_at(head):
    said = torch.stack(
        [EMBEDDINGS[6], EMBEDDINGS[6], head.blank.detach(), EMBEDDINGS[6], EMBEDDINGS[12], EMBEDDINGS[5]]
    )
    assert head.greedy(7 * said, [5, 1], embed) == [[6, 6, 12], [5]]


def every_path(log_probs: Tensor, classes: list[int]) -> float:
    """The best score among all sequences of classes that CTC reads as `classes`."""
    best = -float("inf")
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        read = [symbol for symbol, _ in itertools.groupby(path) if symbol]
        if read == classes:
            best = max(best, float(log_probs[range(len(path)), path].sum()))
    return best


@pytest.mark.parametrize("classes", [[1, 2], [1, 1], [2], [], [1, 2, 1]])
def test_alignment_is_the_best_of_all_paths(classes):
    log_probs = torch.randn(6, 3, generator=torch.Generator().manual_seed(len(classes))).log_softmax(-1)
    found = best_path(log_probs, torch.tensor(classes, dtype=torch.int64))
    path = torch.zeros(6, dtype=torch.int64)
    for piece, number in zip(found, classes, strict=True):
        path[piece.start : piece.end] = number
        assert piece.probability == pytest.approx(log_probs[piece.start : piece.end, number].max().exp().item())
    assert float(log_probs[range(6), path].sum()) == pytest.approx(every_path(log_probs, classes), abs=1e-5)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))


def test_align_places_pieces_and_says_where_it_cannot(head):
    said = torch.stack([head.blank.detach(), EMBEDDINGS[6], EMBEDDINGS[6], head.blank.detach(), EMBEDDINGS[12]])
    (pieces, none) = head.align(7 * torch.cat((said, said[:1])), [5, 1], [torch.tensor([6, 12])] * 2, embed)
    assert [(piece.start, piece.end) for piece in pieces] == [(1, 3), (4, 5)]
    assert all(0.9 < piece.probability <= 1 for piece in pieces)
    assert none is None


def test_fits_counts_the_blank_between_two_alike():
    assert fits(3, torch.tensor([4, 4]))
    assert not fits(2, torch.tensor([4, 4]))
