"""Decoding with the decoder and CTC together.

A decoder that was trained on a few hours of speech writes fluent text, but not always what was said: it loops, leaves
words out, and continues after the end. CTC stays close to the audio, but makes spelling mistakes. A beam search by the
sum of their log-probabilities (Watanabe et al., "Hybrid CTC/Attention Architecture", 2017; Hori et al., arXiv
1706.02737) makes fewer errors than either. The decoder writes its own tokens; CTC scores them as word pieces, see
`pieces`.

CTC has learned from the training transcripts which pieces are frequent, and the decoder knows it, too. Counted twice,
this prior makes the search leave words out, and write frequent ones for rare ones. So a share of CTC's prior is
subtracted, as in the density ratio method (McDermott et al., arXiv 2002.11268): each piece adds its rarity, the
negative logarithm of its frequency, to the score.

Which of the decoder's tokens are tried next decides whether the search finds the text that it rates best. A token of
several pieces can begin as CTC hears it, and go on otherwise. So CTC scores all tokens by their first piece, the best
of them also by their second, and so on (`_Beam._choose`).

The score of a text falls as the text grows, except for the rarity of its pieces. All texts of a clip say about the
same, so an unfinished one may still gain the rarity that it lacks to the best finished one, and that of a piece more.
When none can become better in this way, the search ends.

Dimensions: B clips, R hypotheses of all of them, V tokens of the decoder, C classes of CTC (blank, then its pieces).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import SearchConfig
from ..pieces import WORD_START, WordPieces
from .prefixes import MAX_SCORES, PrefixScores, PrefixState

MARGIN = 10.0  # of rarity, in nats: that of a piece that occurs once in 20,000
FEW = 160  # word pieces: below it most are letters
TRIED = (256, 64, 24)  # next tokens that are left for a hypothesis once CTC has scored 1, 2, 3 of their pieces
TRIED_BY_LETTERS = (2048, 512, 128, 64, 32, 24)  # the same with few pieces, of which three do not tell tokens apart
MAX_WORD = 32  # characters after which a word counts as finished: some languages write no spaces


class Hypothesis(NamedTuple):
    """A text that is being written.

    Attributes:
        clip: its number.
        tokens: so far.
        log_prob: by the decoder.
        word: the last word, as the tokenizer writes it.
        num_pieces, rarity: of all its words.
        score: its log-probability, CTC's and the rarity, together.
    """

    clip: int
    tokens: tuple[int, ...]
    log_prob: float
    word: str
    num_pieces: int
    rarity: float
    score: float


class Ended(NamedTuple):
    """A text with its end, its score, what each of its pieces costs CTC, in nats, and the rarity of its words."""

    score: float
    tokens: tuple[int, ...]
    nats: float
    rarity: float


class Candidate(NamedTuple):
    """A hypothesis with one more token.

    Attributes:
        row: of the hypothesis.
        token: the decoder's.
        log_prob: by the decoder, of all tokens.
        word: the last word with the token.
        begins: whether the token begins a word.
        pieces: the classes of the word.
        num_pieces, rarity: of all words.
    """

    row: int
    token: int
    log_prob: float
    word: str
    begins: bool
    pieces: tuple[int, ...]
    num_pieces: int
    rarity: float


class Lexicon:
    """The decoder's tokens as the classes of CTC.

    Args:
        tokenizer: the decoder's.
        split: its word pieces.
        vocabulary: (C - 1,) int64, the pieces that compete. The search does not write characters that are in none of
            them, as CTC has not learned their sound.
        end_ids: tokens that end a transcript.
    """

    def __init__(self, tokenizer: Any, split: WordPieces, vocabulary: Tensor, end_ids: set[int]) -> None:
        self._split = split
        self._classes = {piece: number for number, piece in enumerate(vocabulary.tolist(), 1)}
        self.end_ids = sorted(end_ids)
        self.names: list[str | None] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        special = {*end_ids, *tokenizer.all_special_ids}
        self._spelled: dict[str, tuple[int, ...]] = {"": ()}
        self._rarities = [0.0, *(-split.log_probs[piece] for piece in vocabulary.tolist())]
        self.rarities = torch.tensor(self._rarities)  # (C,) negative log-frequencies, in nats
        spelled = [() if n in special else self._begin(name or "") for n, name in enumerate(self.names)]
        self.tried = TRIED_BY_LETTERS if len(vocabulary) < FEW else TRIED
        padded = [(*pieces, *[0] * len(self.tried))[: len(self.tried)] for pieces in spelled]
        self.starts = torch.tensor(padded)  # (V, 3 or 6), the first classes of each token, then 0; all 0: never written

    def _begin(self, name: str) -> tuple[int, ...]:
        # A token may have no pieces of its own, and yet be the end of a word that has some.
        return self.spell(name) or (self._classes.get(self._split.longest_at_start(name), 0),)

    def spell(self, word: str) -> tuple[int, ...]:
        """Return the classes of a word; empty if it has none."""
        if word not in self._spelled:
            found = [self._classes.get(piece, 0) for piece in self._split.spell(word)]
            self._spelled[word] = tuple(found) if all(found) else ()
        return self._spelled[word]

    def rarity(self, word: str) -> float:
        """Return the negative log-frequency of a word's pieces in the transcripts, in nats."""
        return sum(self._rarities[piece] for piece in self.spell(word))


class _Beam:
    """The hypotheses of all clips, and their states.

    Attributes:
        hypotheses: R of them, those of a clip side by side.
        before, now: states of their prefixes: without the last word, and with it.
        ended: the best text of each clip that has ended, and whether the limit cut off one that might be better.
    """

    def __init__(self, scores: PrefixScores, lexicon: Lexicon, search: SearchConfig, limits: Sequence[int]) -> None:
        self.scores, self.lexicon, self.search, self.limits = scores, lexicon, search, limits
        clips = range(len(limits))
        self.hypotheses = [Hypothesis(clip, (), 0.0, "", 0, 0.0, 0.0) for clip in clips]
        self.before = self.now = scores.start(torch.tensor(clips))
        self.ended = [Ended(-math.inf, (), 0.0, 0.0) for _ in clips]

    def end(self, log_probs: Tensor) -> None:
        """Try to end each hypothesis here, given the decoder's log-probabilities (R, V) of the next token."""
        ends = log_probs[:, self.lexicon.end_ids].logsumexp(1).tolist()
        clips = torch.tensor([one.clip for one in self.hypotheses])
        for one, end, whole in zip(self.hypotheses, ends, self.scores.whole(clips, self.now).tolist(), strict=True):
            score = self._score(one.log_prob + end, whole, one.rarity)
            if score > self.ended[one.clip].score:
                self.ended[one.clip] = Ended(score, one.tokens, -whole / max(one.num_pieces, 1), one.rarity)

    def grow(self, log_probs: Tensor) -> list[int]:
        """Write the best next tokens; return the hypothesis that each new one continues."""
        candidates = self._propose(log_probs)
        if not candidates:
            return []
        rows = torch.tensor([one.row for one in candidates])
        begins = torch.tensor([one.begins for one in candidates])
        before = PrefixState(
            *(
                torch.where(begins, now, old)
                for now, old in zip(self.now.select(rows), self.before.select(rows), strict=True)
            )
        )
        now, ctc_scores = self._score_words(before, candidates)
        scores = [
            self._score(one.log_prob, value, one.rarity)
            for one, value in zip(candidates, ctc_scores.tolist(), strict=True)
        ]
        kept = self._best(candidates, scores)
        if not kept:
            return []
        self.before, self.now = before.select(torch.tensor(kept)), now.select(torch.tensor(kept))
        grown = []
        for n in kept:
            one, old = candidates[n], self.hypotheses[candidates[n].row]
            tokens = (*old.tokens, one.token)
            grown.append(Hypothesis(old.clip, tokens, one.log_prob, one.word, one.num_pieces, one.rarity, scores[n]))
        self.hypotheses = grown
        return [candidates[n].row for n in kept]

    def _score(self, log_prob: float, ctc: float, rarity: float) -> float:
        return log_prob + self.search.ctc_weight * ctc + self.search.prior_weight * rarity

    def _may_win(self, clip: int, score: float, rarity: float) -> bool:
        """Whether an unfinished text may become better than the best one that has ended."""
        best = self.ended[clip]
        return score + self.search.prior_weight * (max(best.rarity - rarity, 0.0) + MARGIN) > best.score

    def _propose(self, log_probs: Tensor) -> list[Candidate]:
        """Choose next tokens, and drop those that cannot win."""
        chosen, possible = self._choose(log_probs)
        own = log_probs.gather(1, chosen).tolist()
        found = []
        for row, (one, tokens) in enumerate(zip(self.hypotheses, chosen.tolist(), strict=True)):
            if len(one.tokens) >= self.limits[one.clip]:
                continue
            for token, value, can in zip(tokens, own[row], possible[row].tolist(), strict=True):
                new = self._candidate(row, one, token, one.log_prob + value) if can else None
                if new is not None and self._may_win(one.clip, self._score(new.log_prob, 0.0, new.rarity), new.rarity):
                    found.append(new)
        return found

    def _choose(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Choose next tokens by the decoder and by CTC's scores of their first pieces, one piece after another.

        These scores are exact for a token that begins a word and has at most as many pieces as `Lexicon.tried` has
        stages. A token that continues a word may change the pieces of the word.

        Args:
            log_probs: (R, V), of the decoder.

        Returns:
            (R, N) tokens, and whether each can be written.
        """
        weight, rarities = self.search.ctc_weight, self.search.prior_weight * self.lexicon.rarities
        starts, state = self.lexicon.starts[: log_probs.shape[1]], self.now  # a tokenizer may have more tokens
        clips = torch.tensor([one.clip for one in self.hypotheses])
        first = starts[:, 0]
        heard = weight * torch.cat([found for _, found in self._next_pieces(clips, state)]) + rarities
        heard[:, 0] = -math.inf
        scores = log_probs[:, : len(first)] + heard.index_select(1, first)
        scores, tokens = scores.topk(min(self.lexicon.tried[0], len(first)))
        before = torch.arange(len(clips))[:, None].expand_as(tokens)  # which prefix of `state` a token continues
        for place, left in enumerate(self.lexicon.tried[1:], 1):
            longer = (starts[tokens, place] > 0) & scores.isfinite()
            if longer.any():
                last, piece = starts[tokens[longer], place - 1], starts[tokens[longer], place]
                prefixes, which = torch.unique(before[longer] * len(rarities) + last, return_inverse=True)
                rows = prefixes // len(rarities)
                clips = clips[rows]
                state, said = self.scores.extend(clips, state, rows, prefixes % len(rarities))
                following = torch.empty(len(which))
                for start, found in self._next_pieces(clips, state):
                    own = (which >= start) & (which < start + len(found))
                    following[own] = found[which[own] - start, piece[own]]
                scores[longer] += weight * (following - said[which].float()) + rarities[piece]
                before = before.masked_scatter(longer, which)
            scores, kept = scores.topk(min(left, scores.shape[1]))
            tokens, before = tokens.gather(1, kept), before.gather(1, kept)
        return tokens, scores.isfinite()

    def _next_pieces(self, clips: Tensor, state: PrefixState) -> Iterator[tuple[int, Tensor]]:
        """Yield (N_i, C) CTC's log-probabilities of some prefixes and one more piece, and where these prefixes begin.

        The prefixes of a clip are side by side. C may be large, so a caller keeps what it needs of each part.
        """
        end, size = 0, max(1, MAX_SCORES // len(self.lexicon.rarities))
        for clip, count in zip(*(part.tolist() for part in clips.unique_consecutive(return_counts=True)), strict=True):
            start, end = end, end + count
            for first in range(start, end, size):
                some = state.select(slice(first, min(first + size, end)))
                yield first, self.scores.next_pieces(clip, some).float()

    def _candidate(self, row: int, one: Hypothesis, token: int, log_prob: float) -> Candidate | None:
        name = self.lexicon.names[token] or ""
        begins = bool(one.word) and (WORD_START.match(name) is not None or len(one.word) >= MAX_WORD)
        word = name if begins else one.word + name
        pieces = self.lexicon.spell(word)
        if not pieces:
            return None
        num_pieces, rarity = one.num_pieces + len(pieces), one.rarity + self.lexicon.rarity(word)
        if not begins:
            num_pieces -= len(self.lexicon.spell(one.word))
            rarity -= self.lexicon.rarity(one.word)
        return Candidate(row, token, log_prob, word, begins, pieces, num_pieces, rarity)

    def _score_words(self, before: PrefixState, candidates: list[Candidate]) -> tuple[PrefixState, Tensor]:
        """Return the states after the words of candidates, and the log-probabilities that the speech begins so."""
        clips = torch.tensor([self.hypotheses[one.row].clip for one in candidates])
        state, found = PrefixState(*(part.clone() for part in before)), torch.zeros(len(candidates), dtype=torch.double)
        for place in range(max(len(one.pieces) for one in candidates)):
            some = [n for n, one in enumerate(candidates) if len(one.pieces) > place]
            rows = torch.tensor(some)
            pieces = torch.tensor([candidates[n].pieces[place] for n in some])
            longer, value = self.scores.extend(clips[rows], state, rows, pieces)
            for part, new in zip(state, longer, strict=True):
                part[..., rows] = new
            found[rows] = value
        return state, found

    def _best(self, candidates: list[Candidate], scores: list[float]) -> list[int]:
        """Return the best candidates of each clip that may become better than the best text that has ended."""
        kept = []
        numbers = range(len(candidates))
        for clip, group in groupby(numbers, key=lambda n: self.hypotheses[candidates[n].row].clip):
            possible = [n for n in group if self._may_win(clip, scores[n], candidates[n].rarity)]
            kept += sorted(possible, key=lambda n: -scores[n])[: self.search.beams]
        return kept


def search_rows(
    log_probs: Callable[[], Tensor],
    step: Callable[[Tensor, list[int]], None],
    scores: PrefixScores,
    lexicon: Lexicon,
    search: SearchConfig,
    limits: Sequence[int],
) -> tuple[list[list[int]], list[bool], list[float]]:
    """Write after B clips by beam search.

    Args:
        log_probs: returns the decoder's (R, V) of the next token, on the CPU; R is B at first.
        step: writes tokens (R,), given the hypothesis that each of them continues.
        scores: of the clips' prefixes by CTC.
        lexicon, search: see `Lexicon` and `config.SearchConfig`.
        limits: upper limit of tokens for each clip.

    Returns:
        The best tokens of each clip, without their end; whether the limit of tokens cut them off; and what each of
        their word pieces costs CTC on average, in nats.
    """
    beam = _Beam(scores, lexicon, search, limits)
    while True:
        found = log_probs()
        beam.end(found)
        rows = beam.grow(found)
        if not rows:
            break
        step(torch.tensor([one.tokens[-1] for one in beam.hypotheses]), rows)
    tokens = [list(one.tokens) for one in beam.ended]
    cut_off = [len(ids) >= limit for ids, limit in zip(tokens, limits, strict=True)]
    return tokens, cut_off, [one.nats for one in beam.ended]
