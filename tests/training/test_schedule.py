"""The learning rate, against values computed by hand."""

from __future__ import annotations

import pytest

from tiny_audio.config import TrainingConfig
from tiny_audio.training.loop import learning_rate


def schedule(**settings) -> list[float]:
    config = TrainingConfig(**{"learning_rate": 1.0, "max_steps": 8, "warmup_steps": 4, **settings})
    return [learning_rate(step, config) for step in range(config.max_steps + 1)]


def test_warmup_then_cosine():
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0]
    assert schedule() == pytest.approx(expected, abs=1e-6)


def test_linear_constant_and_floor():
    assert schedule(lr_schedule="linear")[4:] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert schedule(lr_schedule="constant")[3:] == [1.0] * 6
    assert schedule(lr_schedule="linear", min_learning_rate_ratio=0.2)[-1] == pytest.approx(0.2)


def test_a_warmup_longer_than_the_run_is_cut():
    """The quick test (10 steps) of an experiment that warms up over 1000 must learn something."""
    rates = schedule(max_steps=10, warmup_steps=1000)
    assert rates[:2] == [1.0, 1.0]
    assert schedule(max_steps=1, warmup_steps=1000)[0] == 1.0
