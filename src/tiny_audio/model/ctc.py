"""CTC between audio tokens and the decoder's own word pieces, without running the decoder.

The score of an audio token and a word piece is the cosine of the token and the piece's embedding: the larger it is, the
likelier the piece was said there. Blank has its own learned direction. CTC (Graves et al., "Connectionist Temporal
Classification", ICML 2006) over these scores trains a projector to place each piece where it is said, as the same
vectors that a frozen decoder reads.

LegoSLM (arXiv 2505.11352) also joins an encoder and an LLM by CTC over the LLM's vocabulary; it trains the encoder and
feeds the LLM embeddings weighted by the posteriors. Here neither model is trained, and the decoder reads the
projector's output unchanged.

Dimensions: B clips, T audio tokens of all clips, t of one clip, U word pieces of a transcript, C its different ones,
V pieces that compete, W decoder width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, kl_div, normalize
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from .device import upload

Embed = Callable[[Tensor], Tensor]  # token ids (N,) to embeddings (N, W): the decoder's

MAX_SCORES = 1 << 24  # at once: 64 MB in fp32; 3,300 audio tokens at 5,000 pieces, 110 at 150,000
START_SCALE = 10.0  # factor from a cosine to a logit
IMPOSSIBLE = -1e30  # a score; the difference of two infinities would be NaN


class CTCLoss(NamedTuple):
    """The CTC loss of a batch.

    Attributes:
        loss: negative log-likelihood of the transcripts, **summed** over the clips, fp32.
        num_pieces: word pieces of all transcripts.
        too_short: clips with fewer audio tokens than CTC needs for their transcripts; they add nothing to the loss.
    """

    loss: Tensor
    num_pieces: int
    too_short: int


class AlignedPiece(NamedTuple):
    """Where a word piece was found.

    Attributes:
        start, end: its audio tokens, counted within the clip: from `start` up to, but without, `end`.
        probability: the piece's largest probability at one of them.
    """

    start: int
    end: int
    probability: float


class CTCHead(nn.Module):
    """Scores of audio tokens against word pieces: W + 2 numbers that train.

    Args:
        vocabulary: (V,) int64, the pieces that compete. The pieces of the training transcripts are enough: most of a
            vocabulary of 150,000 is never said. A transcript may hold other pieces, too; they are scored as well.
        frequencies: (V,) fp32, the log-probability of each in transcripts: see `pieces.WordPieces`.
        decoder_dim: W.
    """

    vocabulary: Tensor
    frequencies: Tensor

    def __init__(self, vocabulary: Tensor, frequencies: Tensor, decoder_dim: int) -> None:
        super().__init__()
        self.register_buffer("vocabulary", vocabulary)
        self.register_buffer("frequencies", frequencies)
        self.blank = nn.Parameter(torch.randn(decoder_dim))
        self.blank_bias = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self._columns = {piece: column for column, piece in enumerate(vocabulary.tolist())}

    def queries(self, tokens: Tensor) -> Tensor:
        """Scale audio tokens (T, W) to the length of the scale, so that their products with unit vectors are scores."""
        return self.log_scale.exp() * normalize(tokens.float(), dim=-1)

    def blank_scores(self, queries: Tensor) -> Tensor:
        """Return the scores (T,) of blank."""
        return queries @ normalize(self.blank, dim=0) + self.blank_bias

    def log_probs(self, tokens: Tensor, counts: Sequence[int], own: Sequence[Tensor], embed: Embed) -> Tensor:
        """Return (t_max, B, 2 + C_max) log-probabilities: blank, each clip's own pieces, all others together.

        All other pieces are one class. So their scores and gradients never take memory for all audio tokens at once,
        and CTC runs over some dozens of classes, not the vocabulary. The likelihood of a transcript is the same.

        Args:
            tokens: (T, W), the clips one after another.
            counts: audio tokens of each clip.
            own: B tensors (C_i,) int64 on the CPU: the different pieces of each transcript.
            embed: the decoder's.
        """
        device = tokens.device
        queries = self.queries(tokens)
        rest = PartitionScore.apply(queries, unit(embed, self.vocabulary), self._pairs(counts, own))
        places = upload(padded_places(counts), device)
        padded = pad_clips(queries, places, counts)  # (B, t_max, W)
        pieces = unit(embed, upload(torch.cat(list(own)), device)).split([len(ids) for ids in own])
        scores = padded @ pad_sequence(list(pieces), batch_first=True).transpose(1, 2)  # (B, t_max, C_max)
        absent = torch.arange(scores.shape[2])[None] >= torch.tensor([[len(ids)] for ids in own])  # (B, C_max)
        scores = scores.masked_fill(upload(absent, device)[:, None], IMPOSSIBLE)
        blank, rest = (pad_clips(score[:, None], places, counts) for score in (self.blank_scores(queries), rest))
        return torch.cat((blank, scores, rest), dim=2).transpose(0, 1).log_softmax(2)

    @torch.no_grad()
    def all_log_probs(self, tokens: Tensor, counts: Sequence[int], embed: Embed) -> Tensor:
        """Return (B, t_max, 1 + V) log-probabilities on the CPU, fp32: of blank, and of all pieces that compete.

        Args:
            tokens, counts, embed: see `forward`.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            log_probs = self._all_log_probs(self.queries(tokens), unit(embed, self.vocabulary)).cpu()
            return pad_clips(log_probs, padded_places(counts), counts)

    def _all_log_probs(self, queries: Tensor, pieces: Tensor) -> Tensor:
        return torch.cat((self.blank_scores(queries)[:, None], queries @ pieces.T), dim=1).log_softmax(1)

    def disagreement(self, tokens: Tensor, embed: Embed) -> Tensor:
        """Compare two versions of the same clips; return their divergence, **summed** over the audio tokens, fp32.

        Each version is a target for the other, as in consistency-regularized CTC (CR-CTC; Yao et al., arXiv
        2410.05101): the mean of the two Kullback-Leibler divergences, where the target gets no gradient. At most 64 MB
        of log-probabilities are in memory at once; they are computed again for the gradient.

        Args:
            tokens: (2 T, W), all clips, and then the other version of all of them.
            embed: the decoder's.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            pieces = unit(embed, self.vocabulary)
            both = self.queries(tokens).unflatten(0, (2, -1))  # (2, T, W)
            size = max(1, MAX_SCORES // (2 * (1 + len(pieces))))
            parts = [checkpoint(self._divergence, part, pieces, use_reentrant=False) for part in both.split(size, 1)]
            return torch.stack(parts).sum()

    def _divergence(self, queries: Tensor, pieces: Tensor) -> Tensor:
        log_probs = self._all_log_probs(queries.flatten(0, 1), pieces).unflatten(0, (2, -1))
        return kl_div(log_probs, log_probs.detach().flip(0), reduction="sum", log_target=True) / 2

    def forward(self, tokens: Tensor, counts: Sequence[int], transcripts: Sequence[Tensor], embed: Embed) -> CTCLoss:
        """Compute the CTC loss of B clips.

        Args:
            tokens: (T, W) audio tokens, the clips one after another.
            counts: audio tokens of each clip.
            transcripts: B tensors (U_i,) int64 on the CPU, word pieces without the end of the turn; may be empty.
            embed: the decoder's.
        """
        if not len(tokens):  # clips so short that none has an audio token
            nothing = 0.0 * (tokens.float().sum() + self.blank.sum() + self.blank_bias + self.log_scale)
            return CTCLoss(nothing, sum(map(len, transcripts)), len(counts))
        with torch.autocast(tokens.device.type, enabled=False):
            distinct = [ids.unique(return_inverse=True) for ids in transcripts]
            log_probs = self.log_probs(tokens, counts, [own for own, _ in distinct], embed)
            losses = ctc_loss(
                log_probs,
                upload(torch.cat([place for _, place in distinct]) + 1, tokens.device),
                torch.tensor(counts),
                torch.tensor([len(ids) for ids in transcripts]),
                reduction="none",
                zero_infinity=True,
            )
        too_short = sum(not fits(count, ids) for count, ids in zip(counts, transcripts, strict=True))
        return CTCLoss(losses.sum(), sum(map(len, transcripts)), too_short)

    @torch.no_grad()
    def greedy(self, tokens: Tensor, counts: Sequence[int], embed: Embed) -> list[list[int]]:
        """Return the word pieces read off each of B clips: the best of each audio token, without repeats and blanks.

        Args:
            tokens, counts, embed: see `forward`.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            queries, pieces = self.queries(tokens), unit(embed, self.vocabulary)
            found = [
                (rows @ pieces.T).max(-1) for rows in queries.split(max(1, MAX_SCORES // max(1, len(self.vocabulary))))
            ]
            scores, columns = (torch.cat([chunk[i] for chunk in found]) for i in (0, 1))
            best = self.vocabulary[columns].masked_fill(self.blank_scores(queries) >= scores, -1)
        return [[p for p in clip.unique_consecutive().tolist() if p >= 0] for clip in best.cpu().split(list(counts))]

    @torch.no_grad()
    def align(
        self, tokens: Tensor, counts: Sequence[int], transcripts: Sequence[Tensor], embed: Embed
    ) -> list[list[AlignedPiece] | None]:
        """Find the word pieces of each of B transcripts in its clip: the likeliest CTC path through all of them.

        Args:
            tokens, counts, transcripts, embed: see `forward`.

        Returns:
            A list as long as the transcript for each clip; None if the clip has too few audio tokens for it.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            distinct = [ids.unique(return_inverse=True) for ids in transcripts]
            log_probs = self.log_probs(tokens, counts, [own for own, _ in distinct], embed).cpu()
        return [
            (best_path(log_probs[:count, i], place + 1) if len(place) else []) if fits(count, transcripts[i]) else None
            for i, (count, (_, place)) in enumerate(zip(counts, distinct, strict=True))
        ]

    def _pairs(self, counts: Sequence[int], own: Sequence[Tensor]) -> Tensor:
        """Return (2, M) int64 on the CPU: audio tokens and the columns of V that are their own clip's pieces."""
        rows, columns, start = [], [], 0
        for count, ids in zip(counts, own, strict=True):
            known = torch.tensor([self._columns[piece] for piece in ids.tolist() if piece in self._columns]).long()
            rows.append(torch.arange(start, start + count).repeat_interleave(len(known)))
            columns.append(known.repeat(count))
            start += count
        return torch.stack((torch.cat(rows), torch.cat(columns)))


class PartitionScore(torch.autograd.Function):
    """The log-sum-exp of scores (T, V), which are never in memory all at once.

    As in `decoder.TargetLoss`, the gradient of a row is computed together with its scores, which are then dropped.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, pieces: Tensor, left_out: Tensor) -> Tensor:
        """Score queries (T, W) against pieces (V, W), both fp32, and return (T,).

        Args:
            ctx: autograd's.
            queries, pieces: the pieces get no gradient.
            left_out: (2, M) int64 on the CPU, row and column of pairs that do not count, rows in order.
        """
        sums, gradients = [], []
        size = max(1, MAX_SCORES // max(1, len(pieces)))
        edges = torch.tensor([*range(0, len(queries), size), len(queries)])
        cuts = torch.searchsorted(left_out[0].contiguous(), edges).tolist()
        for i, chunk in enumerate(queries.split(size) if len(queries) else ()):
            rows, columns = upload(left_out[:, cuts[i] : cuts[i + 1]].contiguous(), queries.device)
            scores = chunk @ pieces.T
            scores[rows - i * size, columns] = IMPOSSIBLE
            total = scores.logsumexp(-1, keepdim=True)
            sums.append(total[:, 0])
            if ctx.needs_input_grad[0]:
                gradients.append(scores.sub_(total).exp_() @ pieces)
        ctx.save_for_backward(*gradients)
        return torch.cat(sums) if sums else queries.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient that `forward` kept."""
        return torch.cat(ctx.saved_tensors) * gradient[:, None], None, None


def unit(embed: Embed, ids: Tensor) -> Tensor:
    """Return the embeddings of word pieces (N,) as unit vectors (N, W) in fp32, without a gradient."""
    with torch.no_grad():
        return normalize(embed(ids).float(), dim=-1)


def padded_places(counts: Sequence[int]) -> Tensor:
    """Return (T,) int64 on the CPU: the places of all clips' audio tokens among B x t_max padded ones."""
    longest = max(counts)
    return torch.cat([torch.arange(count) + clip * longest for clip, count in enumerate(counts)])


def pad_clips(values: Tensor, places: Tensor, counts: Sequence[int]) -> Tensor:
    """Return values of audio tokens (T, N) as (B, t_max, N), with zeros after the end of each clip.

    The gradient is read from the same places; that of `pad_sequence` copies the whole batch once for each clip.
    """
    shape = len(counts), max(counts), values.shape[1]
    return values.new_zeros(shape[0] * shape[1], shape[2]).index_copy(0, places, values).view(shape)


def fits(count: int, ids: Tensor) -> bool:
    """Whether a transcript (U,) fits `count` audio tokens: one for each piece, and a blank between two equal pieces."""
    return count >= len(ids) + int((ids[1:] == ids[:-1]).sum())


def best_path(log_probs: Tensor, classes: Tensor) -> list[AlignedPiece]:
    """Return where each of `classes` (U,) is on the likeliest CTC path (Viterbi) through log-probabilities (t, C).

    Class 0 is blank. The path has to exist: see `fits`.
    """
    num_steps, num_states = len(log_probs), 2 * len(classes) + 1
    states = torch.zeros(num_states, dtype=torch.int64)  # blank, first piece, blank, second piece, ..., blank
    states[1::2] = classes
    emitted = log_probs[:, states]
    skips = torch.zeros(num_states, dtype=torch.bool)  # over the blank between two pieces that differ
    skips[3::2] = classes[1:] != classes[:-1]
    score = torch.full((num_states,), -math.inf)
    score[:2] = emitted[0, :2]
    came_from = torch.zeros(num_steps, num_states, dtype=torch.int64)  # states back
    for step in range(1, num_steps):
        moves = torch.full((3, num_states), -math.inf)
        moves[0], moves[1, 1:], moves[2, 2:] = score, score[:-1], score[:-2]
        moves[2].masked_fill_(~skips, -math.inf)
        score, came_from[step] = moves.max(0)
        score = score + emitted[step]
    state = num_states - 1 if num_states == 1 or score[-1] >= score[-2] else num_states - 2
    visited = [0] * num_steps
    for step in range(num_steps - 1, -1, -1):
        visited[step] = state
        state -= int(came_from[step, state])
    pieces = []
    for number in range(len(classes)):
        steps = [step for step, at in enumerate(visited) if at == 2 * number + 1]
        probability = float(log_probs[steps, classes[number]].max().exp())
        pieces.append(AlignedPiece(steps[0], steps[-1] + 1, probability))
    return pieces
