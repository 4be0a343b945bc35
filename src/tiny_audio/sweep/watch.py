"""A running trial, read from its `metrics.jsonl`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from .file import Sweep
from .report import format_value

if TYPE_CHECKING:
    from optuna import Trial

logger = logging.getLogger(__name__)


class Watch:
    """The evaluations of a trial so far.

    Attributes:
        best: step and value of the best evaluation; the one before the first step does not count.
        last: step and value of the last one.
        pruned: whether the trial is to be stopped early.
    """

    def __init__(self, sweep: Sweep, trial: Trial, config: Config, title: str) -> None:
        self.sweep, self.trial, self.title = sweep, trial, title
        self.path = Path(config.paths.output_dir, config.experiment, "metrics.jsonl")
        self.max_steps = config.training.max_steps
        self.best: tuple[int, float] | None = None
        self.last: tuple[int, float] | None = None
        self.pruned = False
        self._seen = 0
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        self._reported = set(frozen.intermediate_values)  # by an earlier start

    def read(self) -> None:
        """Report new evaluations to Optuna and the terminal; each counts as an iteration, as in W&B."""
        evaluations = read_metric(self.path, self.sweep.metric)
        for number, (step, value) in enumerate(evaluations[self._seen :], self._seen + 1):
            self._seen, self.last = number, (step, value)
            if number not in self._reported:
                self.trial.report(value, number)
                logger.info("%s: %s", self.title, self.show(self.last))
            if self.best is None or (value < self.best[1] if self.sweep.minimize else value > self.best[1]):
                self.best = self.last
            self.pruned = self.pruned or (step < self.max_steps and self.trial.should_prune())

    def show(self, evaluation: tuple[int, float]) -> str:
        """Write an evaluation for people."""
        step, value = evaluation
        return f"{self.sweep.metric} {format_value(self.sweep.metric, value)} at step {step}"


def read_metric(path: Path, metric: str) -> list[tuple[int, float]]:
    """Return step and value of a metric from `metrics.jsonl`, without those that are not finite."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:  # the line that is being written
            continue
        if row["step"] > 0 and row.get(metric) is not None:
            rows.append((int(row["step"]), float(row[metric])))
    return rows


def last_line(path: Path) -> str:
    """Return the last line that a process printed."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
