"""Batches of noise: the cost of a step depends on the lengths of clips, not on their content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..audio import pad_waveforms
from ..lengths import SAMPLE_RATE
from .loader import Batch


def synthetic_batch(
    seconds: Sequence[float],
    target_ids: Sequence[Sequence[int]],
    rng: np.random.Generator | None = None,
) -> Batch:
    """Return a batch like those of the loader, without a source.

    Args:
        seconds: of B clips.
        target_ids: the target tokens of each.
        rng: of the noise; by default seeded with 0.
    """
    rng = rng or np.random.default_rng(0)
    waveforms, num_samples = pad_waveforms(
        [(rng.standard_normal(round(s * SAMPLE_RATE)) * 0.1).astype(np.float32) for s in seconds]
    )
    size = len(seconds)
    return Batch(
        waveforms=waveforms,
        num_samples=num_samples,
        target_ids=[torch.tensor(target, dtype=torch.int64) for target in target_ids],
        transcripts=[""] * size,
        names=[str(number) for number in range(size)],
        sources=[],
        draws=list(range(size)),
        seconds=[round(s * SAMPLE_RATE) / SAMPLE_RATE for s in seconds],
    )
