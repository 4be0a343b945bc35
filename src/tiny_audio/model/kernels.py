"""Attention kernels for packed clips: each clip of the row attends only to itself, and nothing is padded.

Dimensions: B clips, N positions of all clips together, H query heads, G key heads (H is a multiple of G), E head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import Tensor

#: query (N, H, E), key and value (N, G, E), cu_seqlens (B + 1,) int32, max_seqlen (positions of the longest clip),
#: whether attention is causal, the factor of the products (None: 1 / sqrt(E)), and to how many positions back a
#: position attends, itself included (None: all) -> (N, H, E)
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int, bool, float | None, int | None], Tensor]


def available_kernels() -> dict[str, Kernel]:
    """Return the kernels that are installed, the preferred one first; they may not run on every device.

    Both are FlashAttention-2 (arXiv 2307.08691), for CUDA GPUs from SM80 on, in bf16 and fp16.
    """
    kernels: dict[str, Kernel] = {}
    if (torch_kernel := _torch_varlen()) is not None:
        kernels["varlen"] = torch_kernel
    if find_spec("flash_attn") is not None:
        kernels["flash_attn"] = _flash_attn
    return kernels


def _torch_varlen() -> Kernel | None:
    """torch's own `varlen_attn`; before torch 2.11 it has no argument for the factor."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= set(parameters):
        return None
    shares_heads = "enable_gqa" in parameters

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        causal: bool,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        options: dict[str, Any] = {}
        if (groups := query.shape[1] // key.shape[1]) > 1:
            if shares_heads:
                options["enable_gqa"] = True
            else:
                key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        where, seen = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen), _seen(causal, window)
        return varlen_attn(query, key, value, *where, scale=scale, window_size=seen, **options)  # type: ignore[return-value]

    return attend


def _flash_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    causal: bool,
    scale: float | None,
    window: int | None,
) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    where, seen = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen), _seen(causal, window)
    return flash_attn_varlen_func(query, key, value, *where, softmax_scale=scale, causal=causal, window_size=seen)


def _seen(causal: bool, window: int | None) -> tuple[int, int]:
    """Return how far a position attends to the left and to the right, as both kernels take it; -1: no limit."""
    return -1 if window is None else window - 1, 0 if causal else -1
