"""Measure how well a run uses its machine: work done, time waited for data, memory; and trace a few steps."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from ..data.loader import Batch
from ..files import written_whole
from ..model.flops import Load, Widths, decoder_lengths, step_flops
from ..model.speech_llm import SpeechLLM
from . import metrics


class Meter:
    """Adds up work and waiting time between two logged steps.

    Args:
        model: of the run.
        device: that it runs on.
        peak_flops: peak operations a second of one device; None if it is not known.
        num_processes: number of devices.
    """

    def __init__(self, model: SpeechLLM, device: torch.device, peak_flops: float | None, num_processes: int) -> None:
        self.model, self.device = model, device
        self.peak_flops, self.num_processes = peak_flops, num_processes
        self.widths = Widths.of(model)
        self._tokens, self._flops, self._waited = 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within this context as waiting for data."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - started

    def work(self, batches: list[Batch]) -> tuple[int, float]:
        """Return decoder positions (prompt, audio tokens, transcript) and operations of this process's batches."""
        loads = [Load.of(self.model, batch) for batch in batches if len(batch)]
        flops = sum(sum(step_flops(self.widths, load, self.model.projector).values()) for load in loads)
        return sum(sum(decoder_lengths(self.model, batch)) for batch in batches), flops

    def add(self, tokens: int, flops: float) -> None:
        """Count a step's work, of all processes."""
        self._tokens, self._flops = self._tokens + tokens, self._flops + flops

    def read(self, seconds: float) -> dict[str, float]:
        """Return the figures of the last `seconds`, and reset them."""
        rate = self._flops / seconds / self.num_processes
        values = {
            metrics.TOKENS_PER_SECOND: self._tokens / seconds,
            metrics.DATA_WAIT_SHARE: min(1.0, self._waited / seconds),
            metrics.TFLOPS: rate / 1e12,
            metrics.PEAK_MEMORY: float(self._peak_memory()),
        }
        if self.peak_flops is not None:
            values[metrics.MFU] = rate / self.peak_flops
        self._tokens, self._flops, self._waited = 0, 0.0, 0.0
        return values

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        if sys.platform == "win32":
            return psutil.Process().memory_info().peak_wset
        import resource

        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return resident if sys.platform == "darwin" else 1024 * resident


logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces the steps `first` to `last` of a run with torch's profiler, and writes them into a file.

    Args:
        steps: such as `10-12` or `10`; None: nothing is traced.
        folder: where the trace is written.
    """

    def __init__(self, steps: str | None, folder: Path) -> None:
        first, _, last = (steps or "0").partition("-")
        self.first, self.last = int(first), int(last or first)
        self.path = folder / f"profile-steps-{first}-{last or first}.json.gz"
        self._profile: Any = None

    def before(self, step: int) -> None:
        """Start if `step`, counted from 1, is the first step to trace."""
        if self.first <= step <= self.last and self._profile is None:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(activities=activities, record_shapes=True, profile_memory=True)
            self._profile.start()

    def after(self, step: int) -> None:
        """If `step` is the last step to trace, stop and write the trace."""
        if self._profile is not None and step >= self.last:
            self.close()

    def close(self) -> None:
        """Write what was traced, even if the run ends before the last of those steps."""
        if self._profile is None:
            return
        self._profile.stop()
        try:
            with written_whole(self.path) as part:
                named = part.with_name(part.name + ".json.gz")  # the suffix chooses the format
                self._profile.export_chrome_trace(str(named))
                named.replace(part)
            logger.info("Profile: %s (open it at https://ui.perfetto.dev)", self.path)
        except OSError as error:
            logger.error("%s cannot be written (%s).", self.path, error.strerror or error)
        self._profile = None
