"""Prefix probabilities of CTC: how likely it is that the text of a clip begins with a given prefix.

The recursion is that of Graves ("Supervised Sequence Labeling with Recurrent Neural Networks", 2008, section 7.5.3),
as Watanabe et al. (arXiv 1609.06773) and Hori et al. (arXiv 1706.02737) use it to decode with CTC and a decoder
together. The probabilities of a whole clip are too small for a float, and logarithms of sums are slow. So everything is
divided by the probabilities of the likeliest classes up to the same audio token, as in the scaled forward algorithm of
hidden Markov models (Rabiner 1989, section V.A), and each prefix by the largest of its own. What is then below 1e-308
counts as 0: e^-700 of where the prefix fits best.

Dimensions: B clips, t audio tokens of the longest, C classes (blank, then word pieces), N prefixes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

NEVER = -1e5  # a log-probability; the difference of two infinities would be NaN
MAX_SCORES = 1 << 22  # of prefixes and audio tokens, or next pieces, at once: 32 MB in fp64
BEYOND = -1e3  # of a piece at an audio token that the clip does not have
STRETCH = 300.0  # nats of the likeliest classes, over which probabilities are added up as they are


class PrefixState(NamedTuple):
    """The scores of N prefixes.

    Attributes:
        piece, blank: (t + 1, N) fp64, probabilities that the first 0 to t audio tokens say the prefix, and nothing
            besides, the last of them being its last piece, or blank; divided as described above.
        scale: (N,) fp64, the logarithm of what each prefix is divided by.
        last: (N,) int64, the class of the last piece; 0 if there is none.
    """

    piece: Tensor
    blank: Tensor
    scale: Tensor
    last: Tensor

    def select(self, rows: Tensor | slice) -> PrefixState:
        """Return some prefixes, by their numbers (M,) or a range of them."""
        return PrefixState(*(part[..., rows] for part in self))


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
        log_probs = log_probs.double().masked_fill(beyond[..., None], BEYOND)
        log_probs[..., 0].masked_fill_(beyond, 0.0)
        best = log_probs.amax(2)
        self._likeliest = pad(best.cumsum(1), (1, 0))  # (B, t + 1)
        self._stretches = _stretches(self._likeliest)
        since = self._likeliest[:, [some.start for some in self._stretches for _ in range(some.start, some.stop)]]
        self._ratios = (log_probs - best[..., None]).exp_()  # (B, t, C)
        self._weights = (self._likeliest[:, 1:] - since).exp()  # (B, t), to add up what is said at different times
        self._by_time = self._ratios.transpose(0, 1).flatten(1).numpy(), self._weights.T.contiguous().numpy()

    def start(self, clips: Tensor) -> PrefixState:
        """Return the empty prefix, for clips (N,) int64."""
        blank = pad(self._ratios[..., 0].cumprod(1), (1, 0), value=1.0)[clips].T.contiguous()
        return PrefixState(torch.zeros_like(blank), blank, torch.zeros(len(clips)).double(), torch.zeros_like(clips))

    def whole(self, clips: Tensor, state: PrefixState) -> Tensor:
        """Return (N,) log-probabilities that the clips (N,) say the prefixes and nothing besides."""
        return (state.piece[-1] + state.blank[-1]).log().clamp(min=NEVER) + self._likeliest[clips, -1] + state.scale

    def extend(self, clips: Tensor, state: PrefixState, rows: Tensor, pieces: Tensor) -> tuple[PrefixState, Tensor]:
        """Append a piece to prefixes.

        Args:
            clips: (M,) int64, which clip each prefix is of.
            state: of N prefixes.
            rows: (M,) int64, which prefixes become longer.
            pieces: (M,) int64, classes.

        Returns:
            The longer prefixes, and (M,) the log-probabilities that the speech begins with them.
        """
        size = max(1, MAX_SCORES // (1 + self._ratios.shape[1]))
        parts = torch.arange(len(rows)).split(size)
        found = [self._extend(clips[some], state, rows[some], pieces[some]) for some in parts]
        states, said = zip(*found, strict=True)
        return PrefixState(*(torch.cat(part, -1) for part in zip(*states, strict=True))), torch.cat(said)

    def _extend(self, clips: Tensor, state: PrefixState, rows: Tensor, pieces: Tensor) -> tuple[PrefixState, Tensor]:
        num_classes, new = self._ratios.shape[2], (state.last[rows] != pieces).double().numpy()
        classes, blanks = (clips * num_classes + pieces).numpy(), (clips * num_classes).numpy()
        old_piece, old_blank, of_rows, of_clips = (part.numpy() for part in (state.piece, state.blank, rows, clips))
        all_ratios, all_weights = self._by_time
        piece, blank = np.zeros((2, len(old_piece), len(of_rows)))
        both, top = np.zeros((2, len(of_rows)))
        total = torch.full((len(of_rows),), -torch.inf).double()
        for stretch in self._stretches:
            said = np.zeros(len(of_rows))
            for t in range(stretch.start, stretch.stop):  # arrays are (M,) from here on
                ratio = all_ratios[t].take(classes)
                enters = old_piece[t].take(of_rows) * new  # unless the pieces are equal: a blank is between them
                enters = (enters + old_blank[t].take(of_rows)) * ratio
                said += enters * all_weights[t].take(of_clips)
                np.multiply(piece[t], ratio, out=piece[t + 1])
                piece[t + 1] += enters
                np.multiply(both, all_ratios[t].take(blanks), out=blank[t + 1])
                both = piece[t + 1] + blank[t + 1]
                np.maximum(top, both, out=top)
            total = total.logaddexp(torch.from_numpy(said).log() + self._likeliest[clips, stretch.start])
        divide, scale = torch.from_numpy(np.where(top > 0, top, 1.0)), state.scale[rows]
        new_piece, new_blank = (torch.from_numpy(part).div_(divide) for part in (piece, blank))
        return PrefixState(new_piece, new_blank, scale + divide.log(), pieces), total.clamp(min=NEVER) + scale

    def next_pieces(self, clip: int, state: PrefixState) -> Tensor:
        """Return (N, C) log-probabilities that the speech in one clip begins with a prefix and each of the pieces.

        The first column, which would be of a blank, means nothing.
        """
        rows, before = torch.arange(len(state.last)), (state.piece + state.blank)[:-1]
        total = torch.full((len(rows), self._ratios.shape[2]), -torch.inf).double()
        for some in self._stretches:
            weighted = self._ratios[clip, some] * self._weights[clip, some, None]
            found = before[some].T @ weighted
            found[rows, state.last] = (state.blank[some] * weighted[:, state.last]).sum(0)
            total = total.logaddexp(found.log() + self._likeliest[clip, some.start])
        return total.clamp(min=NEVER) + state.scale[:, None]


def _stretches(likeliest: Tensor) -> list[slice]:
    """Return ranges of audio tokens within which no clip's (B, t + 1) log-probabilities fall by more than STRETCH."""
    found, start = [], 0
    for t in range(1, likeliest.shape[1]):
        if bool((likeliest[:, start] - likeliest[:, t] > STRETCH).any()):
            found.append(slice(start, t - 1))
            start = t - 1
    return [*found, slice(start, likeliest.shape[1] - 1)]
