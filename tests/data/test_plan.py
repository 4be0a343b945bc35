"""The sampling plan, against the slowest way of writing it down."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from tiny_audio.data.plan import GOLDEN_STEP, Draw, PlanSampler, SamplingPlan

WEIGHTS = [0.3, 0.2, 0.3, 0.1, 0.1]


def durations(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.gamma(4, 3, size).clip(1, 30).astype(np.float32) for size in sizes]


def slow_draws(plan: SamplingPlan, count: int) -> list[Draw]:
    """Draw by draw, with Python's own integers: where on the circle, whose turn, which clip."""
    start = int(np.random.default_rng([plan.seed, 0]).integers(2**64, dtype=np.uint64))
    seen = [0] * len(plan.sizes)
    draws = []
    for number in range(count):
        point = (start + number * int(GOLDEN_STEP)) % 2**64 / 2**64
        source = next(k for k, reach in enumerate(np.cumsum(plan.shares)) if point < reach)
        turn, place = divmod(seen[source], int(plan.sizes[source]))
        order = np.random.default_rng([plan.seed, 1, source, turn]).permutation(plan.sizes[source])
        draws.append(Draw(number, source, int(order[place])))
        seen[source] += 1
    return draws


def batches(plan: SamplingPlan, start: int, stop: int) -> list[list[Draw]]:
    return [plan.batch(number) for number in range(start, stop)]


def padding(plan: SamplingPlan, chosen: list[list[Draw]]) -> float:
    seconds = [[plan.durations[d.source][d.row] for d in batch] for batch in chosen]
    return 1 - sum(map(sum, seconds)) / sum(max(batch) * len(batch) for batch in seconds)


def test_equals_the_slow_definition() -> None:
    plan = SamplingPlan(durations(50, 7, 300), [0.5, 0.3, 0.2], batch_size=4, seed=3)
    windows = 12
    drawn = [draw for batch in batches(plan, 0, windows * plan.window_batches) for draw in batch]
    expected = slow_draws(plan, len(drawn))
    assert sorted(drawn) == expected
    for start in range(0, len(drawn), plan.window):  # batching never moves a draw out of its window
        assert sorted(drawn[start : start + plan.window]) == expected[start : start + plan.window]


def test_shares_match_the_weights_at_every_length() -> None:
    plan = SamplingPlan(durations(400, 900, 2000, 300, 100), [3, 2, 3, 1, 1], batch_size=10, seed=0)
    drawn = [draw for batch in batches(plan, 0, 1000) for draw in batch]
    shares = np.bincount([draw.source for draw in drawn], minlength=5) / 10_000
    np.testing.assert_allclose(shares, WEIGHTS, atol=0.01)
    for draws in (10, 100, 1000, 10_000, 100_000):
        counts = np.bincount(plan._sources(0, draws), minlength=5)
        assert np.abs(counts - draws * np.array(WEIGHTS)).max() < 4


def test_temperature_moves_shares_toward_equality() -> None:
    clips = durations(100, 100)
    assert SamplingPlan(clips, [0.9, 0.1], 4, 0).shares == pytest.approx([0.9, 0.1])
    assert SamplingPlan(clips, [0.9, 0.1], 4, 0, temperature=2.0).shares == pytest.approx([0.75, 0.25])


def test_every_clip_once_a_pass() -> None:
    plan = SamplingPlan(durations(23, 61), [0.5, 0.5], batch_size=5, seed=9)
    drawn = sorted(draw for batch in batches(plan, 0, 200) for draw in batch)
    for source, size in enumerate((23, 61)):
        rows = [draw.row for draw in drawn if draw.source == source]
        passes = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        assert len(passes) > 3
        assert all(sorted(rows) == list(range(size)) for rows in passes)
        assert passes[0] != passes[1]


def test_a_clip_does_not_come_twice_in_the_first_window() -> None:
    plan = SamplingPlan(durations(40, 5000), [0.5, 0.5], batch_size=8, seed=0)
    assert plan.window == 80
    drawn = [draw[1:] for batch in batches(plan, 0, plan.window_batches) for draw in batch]
    assert max(Counter(drawn).values()) == 1


def test_batches_are_full_even_where_there_are_fewer_clips() -> None:
    plan = SamplingPlan(durations(3), [1.0], batch_size=16, seed=0)
    assert plan.window_batches == 1
    assert [len(batch) for batch in batches(plan, 0, 5)] == [16] * 5
    assert {draw.row for draw in plan.batch(4)} == {0, 1, 2}


@pytest.mark.parametrize("batch_size", [4, 16, 64])
def test_little_padding(batch_size: int) -> None:
    plan = SamplingPlan(durations(2000, 2000, 4000), [0.5, 0.3, 0.2], batch_size, seed=0)
    chosen = batches(plan, 0, 2 * plan.window_batches)
    flat = [draw for batch in chosen for draw in batch]
    mixed = [flat[i] for i in np.random.default_rng(0).permutation(len(flat))]
    unsorted = [mixed[i : i + batch_size] for i in range(0, len(mixed), batch_size)]
    assert padding(plan, chosen) < 0.05 < 0.3 < padding(plan, unsorted)


def test_the_batches_of_a_step_are_of_similar_length_but_come_in_no_order() -> None:
    plan = SamplingPlan(durations(20_000), [1.0], batch_size=16, seed=0)
    longest = [max(plan.durations[0][d.row] for d in batch) for batch in batches(plan, 0, 256)]
    steps = np.array(longest).reshape(-1, 4)
    assert np.ptp(steps, axis=1).mean() < 0.25 * np.ptp(longest)
    assert abs(np.corrcoef(steps[:-1, 0], steps[1:, 0])[0, 1]) < 0.9
    assert sorted(longest) != longest
    orders = [np.argsort(longest[start : start + 64]).tolist() for start in range(0, 256, 64)]
    assert len({tuple(order) for order in orders}) == 4  # each window is shuffled in its own way


def test_resuming_anywhere_goes_on_as_if_never_stopped() -> None:
    clips = durations(500, 90, 1200)
    whole = list(islice(PlanSampler(SamplingPlan(clips, [1, 1, 2], 8, 5)), 400))
    for start in (0, 1, 63, 64, 257, 399):
        resumed = PlanSampler(SamplingPlan(clips, [1, 1, 2], 8, 5), start_batch=start)
        assert list(islice(resumed, 400 - start)) == whole[start:]


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_any_number_of_processes_trains_on_the_same_batches(processes: int) -> None:
    plan = SamplingPlan(durations(500, 90), [1, 1], 4, 5)
    whole = batches(plan, 10, 130)
    parts = [list(PlanSampler(plan, 10, index, processes, stop_batch=130)) for index in range(processes)]
    assert [parts[i % processes][i // processes] for i in range(120)] == whole


def test_far_into_a_large_mixture_within_a_second() -> None:
    clips = durations(104_014, 300_000, 600_000, 268_263, 182_482)
    plan = SamplingPlan(clips, WEIGHTS, batch_size=16, seed=42)
    began = time.perf_counter()
    batch = plan.batch(400_000 // 16)
    assert time.perf_counter() - began < 30
    assert all(400_000 - plan.window <= draw.number < 400_000 + plan.window for draw in batch)


def test_fingerprint_changes_with_everything_the_stream_depends_on() -> None:
    clips = durations(50, 60)
    plan = SamplingPlan(clips, [1, 2], 4, 0)
    assert plan.fingerprint == SamplingPlan(clips, [2, 4], 4, 0).fingerprint
    others = [
        SamplingPlan(clips, [1, 3], 4, 0),
        SamplingPlan(clips, [1, 2], 8, 0),
        SamplingPlan(clips, [1, 2], 4, 1),
        SamplingPlan(clips[::-1], [1, 2], 4, 0),
        SamplingPlan([clips[0], clips[1] + 1], [1, 2], 4, 0),
    ]
    assert len({plan.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert plan.epoch(55) == 0.5


def test_different_seeds_draw_differently() -> None:
    clips = durations(500)
    assert batches(SamplingPlan(clips, [1], 8, 0), 0, 5) != batches(SamplingPlan(clips, [1], 8, 1), 0, 5)
