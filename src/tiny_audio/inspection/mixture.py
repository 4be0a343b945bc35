"""The sampling plan of the corpora: how often each is drawn, and how much padding batches hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config import Config
from ..data.sources import Source
from ..lengths import MAX_CLIP_SECONDS
from ..training.build import build_plan
from .facts import MixtureFacts, Share

MAX_BATCHES = 2000  # for the measurement of padding: 32,000 draws at batch 16


def look_at_mixture(sources: Sequence[Source], config: Config) -> MixtureFacts:
    """Draw as training on one device would, and count."""
    plan, training = build_plan(config, sources), config.training
    per_step = training.batch_size * training.gradient_accumulation_steps
    draws = training.max_steps * per_step
    seconds = np.array([source.durations.sum(dtype=np.float64) for source in sources])
    drawn_seconds = plan.shares * seconds / plan.sizes
    shares = [
        Share(
            name=source.name,
            draws=float(plan.shares[k]),
            clips=float(plan.sizes[k] / plan.sizes.sum()),
            hours=float(seconds[k] / seconds.sum()),
            drawn_hours=float(drawn_seconds[k] / drawn_seconds.sum()),
            passes=float(draws * plan.shares[k] / plan.sizes[k]),
        )
        for k, source in enumerate(sources)
    ]
    batches = min(MAX_BATCHES, training.max_steps * training.gradient_accumulation_steps)
    lengths = np.array(
        [[plan.durations[d.source][d.row] for d in plan.batch(number)] for number in range(batches)], dtype=np.float64
    )
    shuffled = np.random.default_rng(training.seed).permutation(lengths.ravel()).reshape(lengths.shape)
    return MixtureFacts(
        steps=training.max_steps,
        clips_per_step=per_step,
        drawn_hours=float(draws * drawn_seconds.sum() / 3600),
        epochs=plan.epoch(draws),
        shares=shares,
        padding=padding(lengths),
        padding_random=padding(shuffled),
        padding_30s=1 - float(lengths.mean()) / MAX_CLIP_SECONDS,
    )


def padding(lengths: np.ndarray) -> float:
    """Return the share of padding in batches of these lengths (batches, clips), each padded to its longest."""
    return 1 - float(lengths.sum() / (lengths.max(1) * lengths.shape[1]).sum())
