"""Prefix probabilities of CTC: how likely it is that the text of a clip begins with a given prefix.

The recursion is that of Graves ("Supervised Sequence Labeling with Recurrent Neural Networks", 2008, section 7.5.3),
as Watanabe et al. (arXiv 1609.06773) and Hori et al. (arXiv 1706.02737) use it to decode with CTC and a decoder
together. Each of its sums over time is one cumulative sum of exponentials, so there is no Python loop over time.

Dimensions: B clips, t audio tokens of the longest, C classes (blank, then word pieces), N prefixes. Sums are in fp64:
log-probabilities of a whole clip reach thousands, and differences of them are what counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

NEVER = -1e5  # a log-probability; the difference of two infinities would be NaN
MAX_SCORES = 1 << 22  # of prefixes and audio tokens, or next pieces, at once: 32 MB in fp64
BEYOND = -1e3  # of a piece at an audio token that the clip does not have


class PrefixState(NamedTuple):
    """The scores of N prefixes.

    Attributes:
        piece, blank: (N, t + 1) log-probabilities that the first 0 to t audio tokens say the prefix, and nothing
            besides, the last of them being its last piece, or blank.
        last: (N,) int64, the class of the last piece; 0 if there is none.
    """

    piece: Tensor
    blank: Tensor
    last: Tensor

    def select(self, rows: Tensor) -> PrefixState:
        """Return the prefixes at `rows` (M,)."""
        return PrefixState(*(part.index_select(0, rows) for part in self))

    @property
    def whole(self) -> Tensor:
        """(N,) log-probabilities that the clips say the prefixes and nothing besides."""
        return torch.logaddexp(self.piece[:, -1], self.blank[:, -1])


class PrefixScores:
    """Scores prefixes of the texts of B clips.

    Args:
        log_probs: (B, t, C) of each class at each audio token, class 0 being blank; on the CPU.
        counts: audio tokens of each clip; later ones are ignored.
    """

    def __init__(self, log_probs: Tensor, counts: list[int]) -> None:
        if not log_probs.shape[1]:  # no clip has an audio token: give each a blank one
            log_probs = log_probs.new_zeros(len(counts), 1, log_probs.shape[2])
        beyond = torch.arange(log_probs.shape[1])[None] >= torch.tensor(counts)[:, None]
        self._log_probs = log_probs.double().masked_fill(beyond[..., None], BEYOND)
        self._log_probs[..., 0] = log_probs[..., 0].double().masked_fill(beyond, 0.0)
        self._blanks = _sums(self._log_probs[..., 0])
        self._probs = self._log_probs.exp()
        self._probs[..., 0] = 0.0

    def start(self, clips: Tensor) -> PrefixState:
        """Return the empty prefix, for clips (N,) int64."""
        blank = self._blanks.index_select(0, clips)
        return PrefixState(torch.full_like(blank, NEVER), blank, torch.zeros_like(clips))

    def extend(self, clips: Tensor, state: PrefixState, pieces: Tensor) -> tuple[PrefixState, Tensor]:
        """Append a piece to each prefix.

        Args:
            clips: (N,) int64, which clip each prefix is of.
            state: of N prefixes.
            pieces: (N,) int64, classes.

        Returns:
            The longer prefixes, and (N,) the log-probabilities that the speech begins with them.
        """
        size = max(1, MAX_SCORES // (1 + self._log_probs.shape[1]))
        rows = torch.arange(len(clips)).split(size)
        found = [self._extend(clips[some], state.select(some), pieces[some]) for some in rows]
        states, said = zip(*found, strict=True)
        return PrefixState(*map(torch.cat, zip(*states, strict=True))), torch.cat(said)

    def _extend(self, clips: Tensor, state: PrefixState, pieces: Tensor) -> tuple[PrefixState, Tensor]:
        log_probs = self._log_probs[clips, :, pieces]  # (N, t)
        before = _can_precede(state, pieces)
        piece = _recur(before, _sums(log_probs))
        blank = _recur(piece[:, :-1], self._blanks.index_select(0, clips))
        return PrefixState(piece, blank, pieces), (before + log_probs).logsumexp(1)

    def next_pieces(self, clip: int, state: PrefixState) -> Tensor:
        """Return (N, C) log-probabilities that the speech in one clip begins with a prefix and each of the pieces."""
        rows = torch.arange(len(state.last))
        before = torch.logaddexp(state.piece, state.blank)[:, :-1]
        top = before.max(1, keepdim=True).values
        found = (before - top).exp() @ self._probs[clip]
        again = (state.blank[:, :-1] - top).exp() * self._probs[clip][:, state.last].T
        found[rows, state.last] = again.sum(1)
        return found.clamp_(min=1e-300).log_() + top


def _can_precede(state: PrefixState, pieces: Tensor) -> Tensor:
    """Return (N, t) log-probabilities of the prefixes after 0 to t - 1 audio tokens, such that a piece can come next.

    There must be a blank between two equal pieces.
    """
    same = (state.last == pieces)[:, None]
    return torch.where(same, state.blank, torch.logaddexp(state.piece, state.blank))[:, :-1]


def _recur(entered: Tensor, sums: Tensor) -> Tensor:
    """Solve r(s) = p(s) * (r(s - 1) + e(s - 1)), r(0) = 0, for log r (N, t + 1).

    Args:
        entered: (N, t), log e from 0 on.
        sums: (N, t + 1), log p added up to 0 to t.
    """
    return pad((entered - sums[:, :-1]).logcumsumexp(1) + sums[:, 1:], (1, 0), value=NEVER)


def _sums(log_probs: Tensor) -> Tensor:
    """Return (..., t + 1) sums of the first 0 to t of log-probabilities (..., t)."""
    return pad(log_probs.cumsum(-1), (1, 0))
