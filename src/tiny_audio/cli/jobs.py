"""The jobs of `ta train -m`: the notes that each writes to its folder, and the table at the end of a sweep."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from ..evaluation.ranking import best_first

FILE = "job.json"
UNFINISHED, TRAINED, FAILED = "not finished", "trained", "failed"


@dataclass(frozen=True)
class Job:
    """One combination of a sweep.

    Attributes:
        number: in Hydra's order, from 0.
        settings: as they are typed.
        metric, greater_is_better: `training.metric_for_best`, and its direction.
        state: trained, failed, or not finished (stopped, killed, or still running).
        best: best value of the metric, if the job was trained and evaluated.
        error: why it failed.
    """

    number: int
    settings: list[str]
    metric: str
    greater_is_better: bool
    state: str = UNFINISHED
    best: float | None = None
    error: str = ""

    def write(self, folder: Path, state: str, best: float | None = None, error: str = "") -> None:
        """Write the job's result to its folder."""
        from ..files import write_whole

        folder.mkdir(parents=True, exist_ok=True)
        row = asdict(self) | {"state": state, "best": best, "error": error}
        write_whole(folder / FILE, (json.dumps(row, ensure_ascii=False) + "\n").encode())


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a job in the form that users type."""
    own = [token for token in overrides if not token.startswith(("+typed_", "hydra.", "hydra/"))]
    return [re.sub("^experiments=", "experiment=", token) for token in own]


def jobs_name(settings: Sequence[str]) -> str:
    """Return a name for the folder of a sweep. The same command gives the same name, and so resumes its jobs.

    It begins with the settings that vary, such as `learning_rate-batch_size-3f9a01`.
    """
    own = [token for token in settings if not token.startswith("hydra")]
    varied = [re.split(r"[./]", key)[-1] for key, _, value in (token.partition("=") for token in own) if "," in value]
    digest = hashlib.sha256("\n".join(own).encode()).hexdigest()[:6]
    return "-".join([*(re.sub(r"\W", "", name) for name in varied[:4]), digest])


def forget_jobs(folder: Path) -> None:
    """Delete the notes of an earlier start, so that later notes are of this one."""
    for file in folder.rglob(FILE):
        file.unlink()


def print_jobs(folder: Path, count: int, file: TextIO) -> None:
    """Print a table of the jobs, the best first, and how many there are of each state.

    Args:
        folder: of the sweep.
        count: number of its jobs, including those that have not begun.
        file: to print to.
    """
    from rich.console import Console
    from rich.table import Table

    jobs = [Job(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.rglob(FILE)]
    jobs.sort(key=lambda job: job.number)
    if not jobs:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job", justify="right", no_wrap=True)
    table.add_column(jobs[0].metric, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("settings", overflow="fold")
    varied = _varied(jobs)
    ranked = best_first(jobs, lambda job: math.nan if job.best is None else job.best, jobs[0].greater_is_better)
    for job in ranked + [job for job in jobs if job not in ranked]:
        best = "" if job.best is None else f"{job.best:.1%}" if job.metric in ("wer", "cer") else f"{job.best:.4g}"
        settings = " ".join(token for token in job.settings if token in varied)
        table.add_row(str(job.number), best, job.state, f"{settings} ({job.error})" if job.error else settings)
    # If the file is not a terminal, no row is broken.
    console = Console(file=file, width=None if file.isatty() else 200, highlight=False, markup=False)
    console.print(table)
    states = [job.state for job in jobs] + ["not begun"] * (count - len(jobs))
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    console.print(f"{', '.join(counts)}; in {folder}", soft_wrap=True)
    if set(states) - {TRAINED}:
        console.print("The same command continues those that were not trained to the end.")
    file.flush()


def _varied(jobs: Sequence[Job]) -> set[str]:
    """Return the settings that differ between jobs; if there is only one job, all of them."""
    every = {token for job in jobs for token in job.settings}
    return {token for token in every if len(jobs) == 1 or not all(token in job.settings for job in jobs)}
