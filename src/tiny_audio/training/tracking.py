"""Log figures: always to `metrics.jsonl` and `transcripts.jsonl`, and to the trackers in `logging.report_to`.

This module imports neither torch nor any of the trackers before one is used.

The trackers are called directly. Accelerate's wrappers pass `log` and `finish` on to the same three clients, and do
not do what this module does: keep a run offline, log each step once in a resumed run, use an axis of steps, log tables
of transcripts to all three, and continue if a tracker fails.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..config import Config
from ..errors import UserError
from ..files import write_whole
from .metrics import GLOBAL_STEP, TRANSCRIPTS

logger = logging.getLogger(__name__)

Transcript = tuple[str, str, str]  # name of the clip, reference, hypothesis
TRANSCRIPT_COLUMNS = ("name", "reference", "hypothesis")


class Tracker(Protocol):
    """A place that figures are logged to."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the metrics of a step."""

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """Log references and hypotheses of an evaluation."""

    def close(self) -> None:
        """Write what is not written yet, and close."""


def check_installed(names: Iterable[str]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        UserError: one is not installed; names the first of them, and its package.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"logging.report_to: {name} is not installed: pip install {name}")


class WandbRun:
    """A Weights & Biases run; without login or network it is offline, with one warning."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        logging_config = config.logging
        arguments: dict[str, Any] = {
            "project": logging_config.project_name,
            "entity": logging_config.entity,
            "name": logging_config.run_name,
            "tags": logging_config.tags or None,
            "notes": logging_config.notes,
            "config": config.to_dict(),
            "dir": str(folder),
            "id": run_id,
            "resume": "allow",
        }
        try:
            if not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False):
                arguments["mode"] = "offline"
                logger.warning("WandB: not logged in (`wandb login`); the run is kept offline in %s.", folder / "wandb")
            self._run = wandb.init(**arguments)
        except (wandb.Error, OSError, TimeoutError) as error:  # the server is also asked to check a login
            reason = str(error).partition("\n")[0]
            logger.warning("WandB cannot be reached (%s); the run is kept offline in %s.", reason, folder / "wandb")
            self._run = wandb.init(**arguments | {"mode": "offline"})
        # W&B drops steps below its last one, which a resumed run logs again; so the step is logged as a metric.
        self._run.define_metric(GLOBAL_STEP)
        self._run.define_metric("*", step_metric=GLOBAL_STEP)
        self.run_id: str = self._run.id
        logger.info("WandB run initialized: %s", self._run.url or f"offline, {self._run.dir}")

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log({**values, GLOBAL_STEP: step})

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """See `Tracker`."""
        import wandb

        table = wandb.Table(columns=list(TRANSCRIPT_COLUMNS), data=[list(row) for row in rows])
        self._run.log({TRANSCRIPTS: table, GLOBAL_STEP: step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class TensorBoard:
    """Event files in `tensorboard/` of the output folder: `tensorboard --logdir outputs`."""

    def __init__(self, config: Config, folder: Path, step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps that a killed run logged after its last checkpoint are not shown.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=None if step is None else step + 1)
        logger.info("TensorBoard: tensorboard --logdir %s", folder / "tensorboard")

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """See `Tracker`."""
        lines = [TRANSCRIPT_COLUMNS, ["---"] * len(TRANSCRIPT_COLUMNS), *rows]
        cells = ([" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines)
        self._writer.add_text(TRANSCRIPTS, "\n".join(f"| {' | '.join(row)} |" for row in cells), step)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class Trackio:
    """A run of Trackio (Hugging Face), kept on this machine: `trackio show`."""

    def __init__(self, config: Config, folder: Path, step: int | None) -> None:
        import trackio

        # A run is found by its name: that of the folder, so that only this run finds it again when it is resumed.
        name = config.logging.run_name or str(folder)
        with redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=config.logging.project_name,
                name=name,
                config=config.to_dict(),
                resume="never" if step is None else "allow",
                auto_log_gpu=False,  # memory and load are among our metrics
                auto_log_cpu=False,
            )

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """See `Tracker`."""
        import trackio

        table = trackio.Table(columns=list(TRANSCRIPT_COLUMNS), data=[list(row) for row in rows])
        self._run.log({TRANSCRIPTS: table}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        import trackio

        with redirect_stdout(sys.stderr):
            trackio.finish()


class JsonLines:
    """A file with one object per line, in order of steps.

    Args:
        path: the file.
        step: the step that the run resumes from. Lines of later steps, which a killed run wrote, are deleted, so that
            every step is in the file once. None: the run starts afresh, and so does the file.
    """

    def __init__(self, path: Path, step: int | None) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        lines = text.split("\n")  # not splitlines: a transcript may contain other line separators
        kept = "".join(
            f"{line}\n" for line in lines if (at := _step_of(line)) is not None and step is not None and at <= step
        )
        if kept != text:
            write_whole(path, kept.encode())
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._lost = False

    def write(self, rows: Iterable[Mapping[str, Any]], step: int) -> None:
        """Append lines of a step. If the disk is full, lines are lost, with one warning."""
        try:
            for row in rows:
                self._file.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")
        except OSError as error:
            if not self._lost:
                logger.error("%s cannot be written (%s); training continues.", self.path, error.strerror or error)
            self._lost = True

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # reported already
            self._file.close()


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the process was killed while it wrote this line
        return None


class LocalFiles:
    """`metrics.jsonl` and `transcripts.jsonl` in the output folder."""

    def __init__(self, folder: Path, step: int | None) -> None:
        self._metrics = JsonLines(folder / "metrics.jsonl", step)
        self._transcripts = JsonLines(folder / "transcripts.jsonl", step)

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`; values that are not finite become null."""
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._metrics.write([{"time": round(time.time(), 3), **plain}], step)

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """See `Tracker`; one line for each transcript."""
        self._transcripts.write((dict(zip(TRANSCRIPT_COLUMNS, row, strict=True)) for row in rows), step)

    def close(self) -> None:
        """See `Tracker`."""
        self._metrics.close()
        self._transcripts.close()


class Trackers:
    """All places that figures are logged to; only the first process logs.

    Args:
        config: the run's settings.
        folder: its output folder.
        step: the step that the run resumes from, below 0 in the warm-up; None if it starts afresh.
        run_id: the W&B run to resume.
        is_main: whether this is the first process.
    """

    def __init__(self, config: Config, folder: Path, step: int | None, run_id: str | None, is_main: bool) -> None:
        names = config.logging.trackers
        check_installed(names)
        self._trackers: list[Tracker] = []
        self._num_transcripts = config.logging.log_transcripts
        self.run_id = run_id
        if not is_main:
            return
        self._trackers.append(LocalFiles(folder, step))
        if "wandb" in names:
            wandb_run = WandbRun(config, folder, run_id)
            self.run_id = wandb_run.run_id
            self._trackers.append(wandb_run)
        if "tensorboard" in names:
            self._trackers.append(TensorBoard(config, folder, step))
        if "trackio" in names:
            self._trackers.append(Trackio(config, folder, step))

    def log(self, values: dict[str, float], step: int) -> None:
        """Log metrics by name: those of `metrics.py`, and the user's own."""
        self._all(lambda tracker: tracker.log(values, step))

    def log_transcripts(self, transcripts: Sequence[Transcript], step: int) -> None:
        """Log `logging.log_transcripts` of an evaluation's transcripts, of the same clips every time.

        The transcripts are in order of length, and are picked evenly from all lengths.
        """
        count = min(self._num_transcripts, len(transcripts))
        rows = [transcripts[i * len(transcripts) // count] for i in range(count)]
        if rows:
            self._all(lambda tracker: tracker.log_transcripts(rows, step))

    def close(self) -> None:
        """Close all."""
        self._all(lambda tracker: tracker.close())

    def _all(self, act: Callable[[Tracker], None]) -> None:
        """Call `act` with each tracker. One that fails is no longer used: its error must not end the run."""
        for tracker in list(self._trackers):
            try:
                act(tracker)
            except Exception as error:
                if isinstance(tracker, LocalFiles):
                    raise
                self._trackers.remove(tracker)
                name, reason = type(tracker).__name__, str(error).partition("\n")[0] or type(error).__name__
                logger.error(
                    "%s failed (%s); training continues without it, metrics.jsonl has all metrics.", name, reason
                )
