"""What a training step hides: spans of encoder frames and of audio tokens, channels of the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .device import upload

HIDDEN_SPAN = 5  # audio tokens, 0.4 s at 12.5 a second: about a word, which those around it give away
HIDDEN_FRAMES = 25  # the longest span of frames that is hidden: 0.5 s


def mask_frames(frames: Tensor, lengths: Sequence[int], share: float, channel_share: float) -> Tensor:
    """Hide spans of time, and of each clip some channels, of encoder frames (N, D): SpecAugment after the encoder.

    Zeros take their place, and what is left of a frame is brought up to its expected size. The encoder's outputs can
    so be computed once, and yet no two steps see the same.

    Args:
        frames: (N, D), the clips one after another.
        lengths: frames of each clip.
        share: of the frames, in spans of at most `HIDDEN_FRAMES`; see `draw_hidden`.
        channel_share: of the D channels.
    """
    if channel_share:
        kept = torch.rand(len(lengths), frames.shape[1]) >= channel_share
        rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        scale = upload(kept.float().div_(1 - channel_share), frames.device)
        frames = frames * scale.index_select(0, upload(rows, frames.device))
    if share:
        hidden = draw_hidden(lengths, share, HIDDEN_FRAMES)
        frames = frames.index_fill(0, upload(hidden, frames.device), 0.0)
    return frames


def draw_hidden(counts: Sequence[int], share: float, longest: int = HIDDEN_SPAN) -> Tensor:
    """Choose the audio tokens or frames that a training step hides, in spans of time (SpecAugment, arXiv 1904.08779).

    Zeros take their place. A decoder that normalizes its input by the root mean square leaves zeros zero: there is
    nothing at that position. The clip's mean, SpecAugment's other choice, would be brought up to the size of a token,
    say something that was not said, and hand on gradients to all tokens of the clip.

    Gaps and spans take turns: spans are of 1 to `longest` tokens, gaps of at least one, geometrically distributed.
    A clip so short that all of it would be hidden is left whole. Drawn from torch's generator on the CPU, so the device
    is not waited for, and hides the same wherever the model runs.

    Args:
        counts: audio tokens of each clip, adding up to T.
        share: of the tokens that are hidden, at most 0.5.
        longest: span, in tokens.

    Returns:
        The indices of the hidden ones among the T, int64, on the CPU.
    """
    num_tokens, before = sum(counts), 8 * longest  # it begins earlier, else the first tokens would be safe
    pairs = (num_tokens + before + 1) // 2  # enough: each moves on by two at least
    gap = (1 + longest) / 2 * (1 - share) / share  # its mean
    gaps = torch.empty(pairs).geometric_(1 / gap).long()
    spans = torch.randint(1, longest + 1, (pairs,))
    ends = torch.stack((gaps, spans), dim=1).flatten().cumsum(0)  # of a gap, of a span, of a gap, ...
    hidden = torch.searchsorted(ends, torch.arange(before, before + num_tokens), right=True) % 2 == 1
    for clip in hidden.split(list(counts)):
        clip &= ~clip.all()
    return hidden.nonzero().flatten()
