"""The decoder's input: prompt, audio and transcript of several clips, laid out in one row.

Dimensions: T audio tokens of all clips, N positions of all clips, K target tokens of all clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..prompt import Prompt
from .device import upload


@dataclass(frozen=True)
class Sequences:
    """The decoder's input, packed: ``prefix | audio | suffix | target`` of each clip, one clip after another.

    If a clip has a context, it is in the suffix.

    Attributes:
        token_ids: (N,) int64; any id at the positions of audio.
        audio_positions: (T,) int64, the positions of the audio tokens.
        predict_positions: (K,) int64, the position before each target token.
        targets: (K,) int64.
        lengths: positions of each clip, summing to N.
    """

    token_ids: Tensor
    audio_positions: Tensor
    predict_positions: Tensor
    targets: Tensor
    lengths: list[int]

    @classmethod
    def lay_out(
        cls,
        prompt: Prompt,
        num_audio: Sequence[int],
        targets: Sequence[Tensor],
        device: torch.device,
        contexts: Sequence[Tensor] = (),
        examples: Sequence[int] = (),
    ) -> Sequences:
        """Lay out clips.

        Args:
            prompt: the tokens around the audio.
            num_audio: audio tokens of each clip; 0: the decoder reads text alone.
            targets: (K_i,) int64 each, empty when generating.
            device: of the result.
            contexts: (C_i,) int64 each, empty for a clip without one; an empty sequence: no clip has a context.
            examples: tokens between each suffix and its target.
        """
        prefix, none = torch.tensor(prompt.prefix_ids), torch.empty(0)
        known = contexts or [none] * len(num_audio)
        suffixes = [torch.tensor([*prompt.suffix(ids.tolist()), *examples]) for ids in known]
        ids: list[Tensor] = []
        audio: list[Tensor] = []
        predict: list[Tensor] = []
        lengths: list[int] = []
        start = 0
        for count, target, suffix in zip(num_audio, targets, suffixes, strict=True):
            ids += [prefix, prefix.new_zeros(count), suffix, target]
            audio.append(torch.arange(count) + start + len(prefix))
            lengths.append(len(prefix) + count + len(suffix) + len(target))
            start += lengths[-1]
            predict.append(torch.arange(len(target)) + start - len(target) - 1)
        packed = [upload(torch.cat(part), device) for part in (ids, audio, predict, list(targets))]
        return cls(packed[0], packed[1], packed[2], packed[3], lengths)
