"""Hide spans of encoder frames and audio tokens, and encoder channels, in a training step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .device import upload

HIDDEN_SPAN = 5  # audio tokens, 0.4 s at 12.5 a second: about a word, which the words around it allow to guess
HIDDEN_FRAMES = 25  # the longest span of frames that is hidden: 0.5 s
HIDDEN_SHARE = 0.2  # of a clip, at most in one span: a clip of one word keeps most of the word


def mask_frames(frames: Tensor, lengths: Sequence[int], share: float, channel_share: float) -> Tensor:
    """Hide spans of time, and some channels of each clip, of encoder frames (N, D): SpecAugment after the encoder.

    Hidden numbers become zero, and the rest of a frame is scaled up to its expected size. So the encoder's outputs can
    be computed once, and still differ from step to step.

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

    Hidden tokens become zero. A decoder that normalizes its input by the root mean square leaves zeros zero, so the
    position holds nothing. The clip's mean, SpecAugment's other choice, would be scaled up to the size of a token. It
    would stand for something that was not said, and pass gradients to all tokens of the clip.

    Gaps and spans alternate: spans have 1 to `longest` tokens, gaps at least one, geometrically distributed. No span
    hides more than `HIDDEN_SHARE` of a clip (SpecAugment's p), so of short clips less is hidden. The numbers are drawn
    from torch's generator on the CPU, so the host does not wait for the device, and the choice is the same on every
    device.

    Args:
        counts: audio tokens of each clip, adding up to T.
        share: share of the tokens to hide, at most 0.5.
        longest: the longest span, in tokens.

    Returns:
        The indices of the hidden tokens among the T, int64, on the CPU.
    """
    num_tokens, before = sum(counts), 8 * longest  # start earlier, else the first tokens would never be hidden
    pairs = (num_tokens + before + 1) // 2  # enough: each pair covers at least two tokens
    gap = (1 + longest) / 2 * (1 - share) / share  # mean length of a gap
    gaps = torch.empty(pairs).geometric_(1 / gap).long()
    spans = torch.randint(1, longest + 1, (pairs,))
    ends = torch.stack((gaps, spans), dim=1).flatten().cumsum(0)  # of gap, span, gap, ...
    places = torch.arange(before, before + num_tokens)
    passed = torch.searchsorted(ends, places, right=True)  # gaps and spans that end before: odd within a span
    since = places - torch.cat((ends.new_zeros(1), ends))[passed]  # tokens of this gap or span before this one
    of_clip = torch.tensor(counts, dtype=torch.long)
    most = (HIDDEN_SHARE * of_clip).long().repeat_interleave(of_clip)
    return ((passed % 2 == 1) & (since < most)).nonzero().flatten()
