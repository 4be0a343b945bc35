"""Attention over packed clips: all clips of a batch stand in one row, and none sees another.

Linear layers and norms run on real positions alone. The attention itself is a kernel for rows of clips where there is
one (`kernels`); elsewhere it is padded, inside the op alone. This is faster than a padded batch and makes a clip's
result independent of its neighbours. It is an attention implementation of `transformers`, registered as `packed`: the
stock modules are used as they are. Without a `packed_layout` argument (while decoding token by token) it is the stock
`sdpa`.

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

from .device import upload as to_device
from .kernels import Kernel

PACKED_ATTENTION = "packed"


@dataclass(frozen=True)
class PackedLayout:
    """Where each clip lies in the row.

    Attributes:
        num_clips: B.
        longest: L.
        position_ids: (1, N) int64, restarting at 0 with every clip.
        boundaries: (B + 1,) int32, where each clip begins, and N.
        to_padded: (B * L,) int64, the packed position that stands at each place of the padded batch; past a clip's
            end, the clip's last position: finite, and masked or unseen.
        to_packed: (N,) int64, the place in the padded batch of each packed position.
        key_mask: (B, 1, 1, L) bool, True at real positions.
        kernel: attends along the row; None: padded `scaled_dot_product_attention`.
    """

    num_clips: int
    longest: int
    position_ids: Tensor
    boundaries: Tensor
    to_padded: Tensor
    to_packed: Tensor
    key_mask: Tensor
    kernel: Kernel | None

    @classmethod
    def of(cls, lengths: list[int], device: torch.device, kernel: Kernel | None = None) -> PackedLayout:
        """Lay out clips of `lengths` (each at least 1) one after another."""
        length = torch.tensor(lengths)
        start = (length.cumsum(0) - length)[:, None]
        place = torch.arange(max(lengths))[None]
        real = place < length[:, None]  # (B, L)
        to_padded = start + torch.minimum(place, length[:, None] - 1)

        def upload(part: Tensor) -> Tensor:  # no views: compiled layers would tell one clip's from several clips'
            return to_device(part.clone(), device)

        return cls(
            num_clips=len(lengths),
            longest=max(lengths),
            position_ids=upload(place.expand_as(real)[real][None]),
            boundaries=upload(torch.tensor([0, *lengths]).cumsum(0).int()),
            to_padded=upload(to_padded.flatten()),
            to_packed=upload(real.flatten().nonzero()[:, 0]),
            key_mask=upload(real[:, None, None]),
            kernel=kernel,
        )

    def pad(self, packed: Tensor) -> Tensor:
        """Bring (1, H, N, E) into (B, H, L, E)."""
        heads, width = packed.shape[1], packed.shape[3]
        return packed[0].index_select(1, self.to_padded).view(heads, self.num_clips, -1, width).transpose(0, 1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Bring (B, H, L, E) into (1, N, H, E), as `transformers` wants attention outputs."""
        return padded.transpose(1, 2).flatten(0, 1).index_select(0, self.to_packed)[None]


def packed_attention(
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
    assert window is None or packed_layout.longest <= window, "packed attention has no sliding window"
    assert not kwargs.get("dropout"), "the models are frozen: their attention has no dropout"
    causal, scale = bool(module.is_causal), kwargs.get("scaling")
    if packed_layout.kernel is not None:
        rows = [part[0].transpose(0, 1) for part in in_one_precision(query, key, value)]  # (N, H, E)
        where = (packed_layout.boundaries, packed_layout.longest)
        attended = packed_layout.kernel(rows[0], rows[1], rows[2], *where, causal, scale)
        return attended[None], None
    attended = scaled_dot_product_attention(
        packed_layout.pad(query),
        packed_layout.pad(key),
        packed_layout.pad(value),
        attn_mask=None if causal else packed_layout.key_mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return packed_layout.unpad(attended), None


def in_one_precision(*parts: Tensor) -> list[Tensor]:
    """Return tensors in the precision of autocast, which does not know kernels; rotated queries may be fp32."""
    kind = parts[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parts[0].dtype
    return [part.to(dtype) for part in parts]


def unused_mask(device: torch.device) -> Tensor:
    """Return a mask that `transformers` hands on untouched because it is 4-D; `packed_attention` does not read it."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
