"""Attention over packed clips: all clips of a batch are in one row, and no clip attends to another.

Linear layers and norms run on real positions only. The attention itself is a kernel for rows of clips if there is
one (`kernels`); otherwise it is padded, only inside the op. This is faster than a padded batch and makes a clip's
result independent of its neighbors. It is an attention implementation of `transformers`, registered as `packed`; the
stock modules are used unchanged. Without a `packed_layout` argument (for padded clips, and for decoding token by
token) it is the stock `sdpa`, or on a CPU `attend_once` for a single token.

`transformers` reads packed clips too, by its arguments `cu_seq_lens_q` and the like, but only with `flash_attn` or a
kernel from the Hub. It does not use torch's `varlen_attn`. CPUs and older GPUs need the layout of this module.

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
UNKNOWN = ("softcap", "s_aux", "position_bias")  # arguments of attention functions that this one does not support


@dataclass(frozen=True)
class PackedLayout:
    """The place of each clip in the row.

    Attributes:
        num_clips: B.
        max_seqlen: L.
        position_ids: (1, N) int64, restarting at 0 with every clip.
        cu_seqlens: (B + 1,) int32, the start of each clip, and N.
        to_padded: (B * L,) int64, the packed position at each place of the padded batch. Past a clip's end it is the
            clip's last position: its values are finite, and it is masked or not attended to.
        to_packed: (N,) int64, the place in the padded batch of each packed position.
        key_mask: (B, 1, 1, L) bool, True at real positions.
        kernel: the attention kernel for the row; None: padded `scaled_dot_product_attention`.
    """

    num_clips: int
    max_seqlen: int
    position_ids: Tensor
    cu_seqlens: Tensor
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

        def upload(part: Tensor) -> Tensor:  # no views: layers would be compiled separately for one clip and several
            return to_device(part.clone(), device)

        return cls(
            num_clips=len(lengths),
            max_seqlen=max(lengths),
            position_ids=upload(place.expand_as(real)[real][None]),
            cu_seqlens=upload(torch.tensor([0, *lengths]).cumsum(0).int()),
            to_padded=upload(to_padded.flatten()),
            to_packed=upload(real.flatten().nonzero()[:, 0]),
            key_mask=upload(real[:, None, None]),
            kernel=kernel,
        )

    def arguments(self, embeddings: Tensor, packed: bool) -> dict[str, Any]:
        """Return the arguments to call a causal language model with, to read embeddings (N, W).

        Its hidden states are (1, N, W) or, if it reads a padded batch, (B, L, W).
        """
        if packed:
            own = {"position_ids": self.position_ids, "packed_layout": self}
            rows, mask = embeddings[None], unused_mask(embeddings.device)
            return {"inputs_embeds": rows, "attention_mask": mask, "use_cache": False, **own}
        # No mask: causal attention does not reach the padding after a clip, and is faster without a mask.
        rows = embeddings.index_select(0, self.to_padded).view(self.num_clips, self.max_seqlen, -1)
        return {"inputs_embeds": rows, "use_cache": False}

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

    Raises:
        NotImplementedError: the module caps its scores or adds a bias to them.
    """
    if unknown := [name for name in UNKNOWN if kwargs.get(name) is not None]:
        raise NotImplementedError(f"packed attention has no {unknown[0]}")  # sdpa would ignore it without an error
    if packed_layout is None and query.shape[2] == 1 and query.device.type == "cpu":
        return attend_once(query, key, value, attention_mask, kwargs.get("scaling")), None
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    assert not kwargs.get("dropout"), "the models are frozen: their attention has no dropout"
    causal, scale, window = bool(module.is_causal), kwargs.get("scaling"), kwargs.get("sliding_window")
    if window is not None and packed_layout.max_seqlen <= window:
        window = None
    if packed_layout.kernel is not None:
        rows = [part[0].transpose(0, 1) for part in in_one_precision(query, key, value)]  # (N, H, E)
        where = (packed_layout.cu_seqlens, packed_layout.max_seqlen)
        attended = packed_layout.kernel(rows[0], rows[1], rows[2], *where, causal, scale, window)
        return attended[None], None
    mask = None if causal else packed_layout.key_mask
    if window is not None:
        assert causal, "a bidirectional encoder has no sliding window"
        mask = window_mask(packed_layout.max_seqlen, window, query.device)
    attended = scaled_dot_product_attention(
        packed_layout.pad(query),
        packed_layout.pad(key),
        packed_layout.pad(value),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return packed_layout.unpad(attended), None


def attend_once(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attend from one new position of each row, as at each token that is written.

    On a CPU, two matrix products are several times as fast as torch's kernel, which is made for many positions. Heads
    that share keys and values are rows of one product, so nothing is repeated. Products are in fp32: this rounds once,
    so that the result hardly depends on the other rows.

    Args:
        query: (B, H, 1, E).
        key: (B, G, L, E), G dividing H.
        value: (B, G, L, F); F is E in most models.
        mask: (B or 1, H or 1, 1, L): bool, True where a position is attended to, or floats to add to the scores.
        scale: of the scores; 1 / sqrt(E) if left out.

    Returns:
        (B, 1, H, F), as `transformers` wants attention outputs.
    """
    rows, heads, _, width = query.shape
    shape = (rows, key.shape[1], heads // key.shape[1], -1)
    with torch.autocast("cpu", enabled=False):
        grouped = query.reshape(shape).float() * (width**-0.5 if scale is None else scale)
        scores = grouped @ key.float().transpose(2, 3)  # (B, G, H / G, L)
        if mask is not None:
            if mask.shape[1] > 1:
                mask = mask.reshape(len(mask), *shape[1:])
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        mixed = scores.softmax(-1) @ value.float()
    return mixed.to(value.dtype).reshape(rows, 1, heads, value.shape[-1])


def in_one_precision(*parts: Tensor) -> list[Tensor]:
    """Return tensors in the precision of autocast, which does not cast for kernels; rotated queries may be fp32."""
    kind = parts[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parts[0].dtype
    return [part.to(dtype) for part in parts]


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Return (length, length) bool: each position attends to itself and to those less than `window` before it."""
    place = torch.arange(length, device=device)
    before = place[:, None] - place
    return (before >= 0) & (before < window)


def unused_mask(device: torch.device) -> Tensor:
    """Return a mask that `transformers` passes on unchanged because it is 4-D; `packed_attention` does not read it."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
