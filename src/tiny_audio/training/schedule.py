"""The learning rate as a function of the step alone, so that there is nothing to save or to restore."""

from __future__ import annotations

import math

from ..config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step, counted from 0: linear warmup, then `lr_schedule` down to its floor.

    The first step already learns (1 / warmup_steps of the peak), and the last of max_steps is just above the floor.
    A warmup as long as the run (a quick test of an experiment) is cut to a tenth of it.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if warmup >= config.max_steps:
        warmup = config.max_steps // 10
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, config.max_steps - warmup))
    shape = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[config.lr_schedule]
    return peak * (config.min_learning_rate_ratio + (1 - config.min_learning_rate_ratio) * shape)
