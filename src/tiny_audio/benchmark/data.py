"""The speed of the data pipeline alone, without a model, for each number of worker processes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from ..config import DataConfig, DatasetConfig, PathsConfig
from ..data.loader import ClipDataset, train_loader
from ..data.plan import SamplingPlan
from ..data.sources import open_sources
from ..errors import UserError
from ..prompt import Prompt

logger = logging.getLogger(__name__)


def open_data(path: str, batch_size: int, prompt: Prompt) -> tuple[SamplingPlan, ClipDataset]:
    """Open a corpus as training does.

    Args:
        path: a manifest, a folder or `pocket`.
        batch_size: clips per batch.
        prompt: its tokenizer reads the transcripts.

    Raises:
        UserError: the corpus cannot be read, or has no usable clip.
    """
    config = DataConfig()
    entry = DatasetConfig(name="pocket", split="train") if path == "pocket" else DatasetConfig(path=path)
    sources = open_sources([entry], config, Path(PathsConfig().cache_dir), limit=None, seed=0)
    plan = SamplingPlan([source.durations for source in sources], [1.0] * len(sources), batch_size, seed=0)
    return plan, ClipDataset(sources, prompt.target_ids, config)


def measure_data(plan: SamplingPlan, dataset: ClipDataset, workers: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Draw batches as fast as the loader delivers them.

    Batches that were ready before the clock started do not count: as many as the workers prefetch are thrown
    away first.

    Args:
        plan, dataset: see `open_data`.
        workers: numbers of worker processes; 0: the training process reads.
        seconds: duration of the measurement for each.

    Returns:
        clips and hours of the corpus, and the decoded audio hours per hour for each number of workers.
    """
    next(iter(train_loader(plan, dataset)))  # first use of the decoder
    rates = {}
    for count in workers:
        logger.info("Measuring the data, workers: %d...", count)
        rates[count] = _rate(plan, dataset, count, seconds)
    hours = sum(float(durations.sum()) for durations in plan.durations) / 3600
    return {"clips": plan.num_clips, "hours": hours, "audio_hours_per_hour": rates}


def _rate(plan: SamplingPlan, dataset: ClipDataset, workers: int, seconds: float) -> float:
    """Return seconds of audio per second."""
    ahead = dataset.data.prefetch_factor
    batches = iter(train_loader(plan, dataset, num_workers=workers, prefetch_factor=ahead))
    for _ in range(workers * ahead):
        next(batches)
    start, audio, clips = time.perf_counter(), 0.0, 0
    for batch in batches:
        audio += batch.audio_seconds
        clips += len(batch)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            break
    if not clips:
        raise UserError("--data: none of the clips that were drawn could be read.")
    return audio / elapsed


def bottleneck(rates: dict[int, float], throughput: float) -> str:
    """Return one line on whether the data or the step is slower.

    Args:
        rates: audio hours per hour for each number of workers.
        throughput: audio hours per hour that the step consumes.
    """
    enough = [count for count, rate in sorted(rates.items()) if count and rate >= throughput]
    if enough:
        count = enough[0]
        return f"The step is the bottleneck: {_deliver(count)} {rates[count] / throughput:.1f} times what it takes."
    best = max(rates, key=lambda count: rates[count])
    if best == 0:  # nothing is read while the step runs
        together = 1 / (1 / rates[0] + 1 / throughput)
        return f"Without workers step and data take turns: {together:,.0f} audio hours an hour together."
    return f"The data is the bottleneck: {_deliver(best)} {rates[best] / throughput:.0%} of what the step takes."


def _deliver(workers: int) -> str:
    return "1 worker delivers" if workers == 1 else f"{workers} workers deliver"
