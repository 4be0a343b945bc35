"""Check whether the data is read as fast as the step uses it."""

from __future__ import annotations

import math
import os
import time

from accelerate import Accelerator

from ...config import DataConfig
from ...data.plan import SamplingPlan
from ...model.speech_llm import SpeechLLM
from .findings import Findings
from .memory import noise

TIMED_PASSES = 3
BATCHES = 16  # of the plan; the one of median length is timed
IDLE_SHARE = 0.2  # of a step without workers: below this, there is no warning about waiting for data


def measure_throughput(model: SpeechLLM, plan: SamplingPlan, accelerator: Accelerator) -> float:
    """Return how many seconds of audio a step processes in a second, for a batch of usual length.

    Only forward and backward pass are timed; the optimizer adds a few percent.
    """
    batches = [[float(plan.durations[draw.source][draw.row]) for draw in plan.batch(n)] for n in range(BATCHES)]
    seconds = sorted(batches, key=sum)[BATCHES // 2]
    batch = noise(model, seconds, [[model.decoder.prompt.end_id] * round(4 * s + 1) for s in seconds])
    for timed in (False, True):  # the first pass chooses kernels and fills caches
        started = time.perf_counter()
        for _ in range(TIMED_PASSES if timed else 1):
            with accelerator.autocast():
                loss = model(batch)
            loss.objective.backward()
            model.zero_grad(set_to_none=True)
        float(loss.cross_entropy.detach())  # waits for the device
    return TIMED_PASSES * sum(seconds) / (time.perf_counter() - started)


def local_processes() -> int:
    """Return how many processes of the run share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_speed(rate: float, throughput: float, data: DataConfig, cores: float) -> Findings:
    """Compare what workers read with what a step uses, both in seconds of audio a second.

    Workers are assumed to be as fast side by side as one alone. This is optimistic: if they are too slow by this
    estimate, they are too slow in fact.

    Args:
        rate: of one process that reads.
        throughput: of the step.
        data: `num_workers`, and whether features are cached.
        cores: that the workers of this process can use.
    """
    workers = min(data.num_workers, cores)
    enough = math.ceil(throughput / rate)
    if workers == 0:
        waiting = throughput / (throughput + rate)
        if waiting < IDLE_SHARE:
            return Findings()
        problem = f"data.num_workers=0: the step waits for its data, {waiting:.0%} of the time"
        enough = max(1, enough)
    elif workers * rate < throughput:
        problem = (
            f"data.num_workers={data.num_workers}: the data will be slower than the step, which takes "
            f"{throughput:,.0f} seconds of audio a second and gets about {workers * rate:,.0f}"
        )
    else:
        return Findings()
    if enough <= cores:
        return Findings(warnings=[f"{problem}; data.num_workers={enough} would do."])
    advice = [] if data.num_workers >= cores else [f"data.num_workers={int(cores)}, as many as there are cores"]
    if not data.cache_features:
        advice += ["recordings in wav or flac at 16 kHz", "data.cache_features=true for a corpus that fits on the disk"]
    advice = advice or ["a faster disk for paths.cache_dir"]
    return Findings(warnings=[f"{problem}; what helps: {', '.join(advice)}."])
