"""Clocks and gauges, and what is said of the data."""

from __future__ import annotations

import time

import pytest
import torch

from tiny_audio.benchmark import measure
from tiny_audio.benchmark.data import bottleneck
from tiny_audio.benchmark.measure import Timeline, matrix_rate
from tiny_audio.training.memory import PeakMemory

CPU = torch.device("cpu")


def test_a_timeline_names_what_lies_before_each_mark():
    timeline = Timeline(CPU)
    for name, seconds in (("start", 0.0), ("slow", 0.05), ("fast", 0.0)):
        time.sleep(seconds)
        timeline.mark(name)
    (slow, slow_seconds), (fast, fast_seconds) = timeline.intervals()
    assert (slow, fast) == ("slow", "fast")
    assert slow_seconds >= 0.05
    assert slow_seconds > fast_seconds


def test_peak_memory_counts_what_was_given_back_too():
    with PeakMemory(CPU) as peak:
        block = torch.ones(64 * 2**20 // 4)
        time.sleep(0.05)
        del block
    assert 60 * 2**20 < peak.bytes < 120 * 2**20


def test_the_matrix_rate_is_one():
    assert 1e8 < matrix_rate(CPU, torch.float32) < 1e14


def test_a_slow_device_multiplies_small_matrices_only(monkeypatch):
    sizes = []

    def product_seconds(size, repeats, device, dtype):
        sizes.append(size)
        return 2 * size**3 / 1e9

    monkeypatch.setattr(measure, "_product_seconds", product_seconds)
    assert matrix_rate(CPU, torch.bfloat16) == pytest.approx(1e9)
    assert sizes == [256, 512]


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({0: 50, 1: 90, 2: 150}, "The step is the bottleneck: 2 workers deliver 1.5 times what it takes."),
        ({1: 200, 2: 300}, "The step is the bottleneck: 1 worker delivers 2.0 times what it takes."),
        ({0: 30, 1: 40}, "The data is the bottleneck: 1 worker delivers 40% of what the step takes."),
        ({0: 100}, "Without workers step and data take turns: 50 audio hours an hour together."),
    ],
)
def test_the_bottleneck_in_a_line(rates, said):
    assert bottleneck(rates, 100) == said
