"""Attention over packed clips: all clips of a batch stand in one row, and none sees another.

Linear layers and norms run on real positions alone; only the attention itself is padded, inside the op. This is
faster than a padded batch and makes a clip's result independent of its neighbours. It is an attention
implementation of `transformers`, registered as `packed_sdpa`, so the stock modules are used as they are; without a
`packed_layout` argument (while decoding token by token) it is the stock `sdpa`.

Dimensions: B clips, N positions of all clips together, L positions of the longest clip, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_ATTENTION = "packed_sdpa"


@dataclass(frozen=True)
class PackedLayout:
    """Where each clip lies in the row.

    Attributes:
        lengths: positions of each clip, B numbers.
        position_ids: (1, N) int64, restarting at 0 with every clip.
        to_padded: (B * L,) int64, the packed position that stands at each place of the padded batch; past a clip's
            end, the clip's last position: finite, and masked or unseen.
        to_packed: (N,) int64, the place in the padded batch of each packed position.
        key_mask: (B, 1, 1, L) bool, True at real positions; None where all clips are equally long.
    """

    lengths: list[int]
    position_ids: Tensor
    to_padded: Tensor
    to_packed: Tensor
    key_mask: Tensor | None

    @classmethod
    def of(cls, lengths: list[int], device: torch.device | str = "cpu") -> PackedLayout:
        """Lay out clips of `lengths` (each at least 1) one after another."""
        length = torch.tensor(lengths)
        start = (length.cumsum(0) - length)[:, None]
        place = torch.arange(max(lengths))[None]
        real = place < length[:, None]  # (B, L)
        to_padded = start + torch.minimum(place, length[:, None] - 1)
        return cls(
            lengths=lengths,
            position_ids=place.expand_as(real)[real][None].to(device, non_blocking=True),
            to_padded=to_padded.flatten().to(device, non_blocking=True),
            to_packed=real.flatten().nonzero()[:, 0].to(device, non_blocking=True),
            key_mask=None if bool(real.all()) else real[:, None, None].to(device, non_blocking=True),
        )

    def pad(self, packed: Tensor) -> Tensor:
        """Bring (1, H, N, E) into (B, H, L, E)."""
        heads, width = packed.shape[1], packed.shape[3]
        return packed[0].index_select(1, self.to_padded).view(heads, len(self.lengths), -1, width).transpose(0, 1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Bring (B, H, L, E) into (1, N, H, E), as `transformers` wants attention outputs."""
        return padded.transpose(1, 2).flatten(0, 1).index_select(0, self.to_packed)[None]


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each clip: query, key, value (1, H, N, E) to (1, N, H, E).

    A causal module needs no mask: padding stands after every real position. A bidirectional one masks it.
    """
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    assert not kwargs.get("softcap"), "packed attention has no logit softcapping"
    window = kwargs.get("sliding_window")
    assert window is None or max(packed_layout.lengths) <= window, "packed attention has no sliding window"
    causal = bool(module.is_causal)
    attended = scaled_dot_product_attention(
        packed_layout.pad(query),
        packed_layout.pad(key),
        packed_layout.pad(value),
        attn_mask=None if causal else packed_layout.key_mask,
        is_causal=causal,
        dropout_p=kwargs.get("dropout", 0.0),
        scale=kwargs.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return packed_layout.unpad(attended), None


def unused_mask(device: torch.device) -> Tensor:
    """Return a mask that `transformers` hands on untouched because it is 4-D; `packed_sdpa` does not read it."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


AttentionInterface.register(PACKED_ATTENTION, packed_sdpa)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
