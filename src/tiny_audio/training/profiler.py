"""`hardware.profile_steps`: a trace of a few steps, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..files import written_whole

logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces the steps `first` to `last` of a run with torch's profiler, and writes them into a file.

    Args:
        steps: such as `10-12` or `10`; None: nothing is traced.
        folder: where the trace goes.
    """

    def __init__(self, steps: str | None, folder: Path) -> None:
        first, _, last = (steps or "0").partition("-")
        self.first, self.last = int(first), int(last or first)
        self.path = folder / f"profile-steps-{first}-{last or first}.json.gz"
        self._profile: Any = None

    def before(self, step: int) -> None:
        """Begin where `step`, counted from 1, is the first of those that are traced."""
        if self.first <= step <= self.last and self._profile is None:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(activities=activities, record_shapes=True, profile_memory=True)
            self._profile.start()

    def after(self, step: int) -> None:
        """End after the last of them, and write."""
        if self._profile is not None and step >= self.last:
            self.close()

    def close(self) -> None:
        """Write what was traced, also of a run that ends before the last of those steps."""
        if self._profile is None:
            return
        self._profile.stop()
        try:
            with written_whole(self.path) as part:
                named = part.with_name(part.name + ".json.gz")  # the suffix chooses the form
                self._profile.export_chrome_trace(str(named))
                named.replace(part)
            logger.info("Profile: %s (open it at https://ui.perfetto.dev)", self.path)
        except OSError as error:
            logger.error("%s cannot be written (%s).", self.path, error.strerror or error)
        self._profile = None
