"""Dropout whose random numbers are cheap on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 1 << 16  # that 16 random bits tell apart
LOWEST = torch.iinfo(torch.int64).min


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Hide numbers of `x`, each with probability `p`, and scale the others up; in training only.

    On a CPU torch draws each of these decisions by itself, which takes a fifth of a step of the CTC warm-up. Here 64
    random bits make four of them, so that `p` is rounded to a multiple of 1/65,536. Both use torch's generator.
    """
    if x.device.type != "cpu" or not training or not 0 < p < 1:
        return functional.dropout(x, p, training)
    hidden = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(LOWEST, None)
    drawn = bits.view(torch.int16)[: x.numel()].view(x.shape)
    return x * (drawn >= hidden - LEVELS // 2).to(x.dtype).mul_(LEVELS / (LEVELS - hidden))
