"""The trackers that `logging.report_to` names. Imports neither torch nor any of them before one is used."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..config import Config
from ..errors import UserError
from .metrics import GLOBAL_STEP, TRANSCRIPTS

logger = logging.getLogger(__name__)

Transcript = tuple[str, str, str]  # name of the clip, reference, hypothesis
TRANSCRIPT_COLUMNS = ("name", "reference", "hypothesis")


class Tracker(Protocol):
    """A place that figures go to."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the metrics of a step."""

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """Log what was said and what was written at an evaluation."""

    def close(self) -> None:
        """Write what is left."""


def check_installed(names: Iterable[str]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        UserError: naming the first of them, and the package.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"logging.report_to: {name} is not installed: pip install {name}")


class WandbRun:
    """A Weights & Biases run; offline where there is no login or no network, which is said once."""

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
        except (wandb.Error, OSError, TimeoutError) as error:  # a login is asked of the server, too
            reason = str(error).partition("\n")[0]
            logger.warning("WandB cannot be reached (%s); the run is kept offline in %s.", reason, folder / "wandb")
            self._run = wandb.init(**arguments | {"mode": "offline"})
        # W&B drops steps lower than its last, which a resumed run logs again: the step is a metric like any other.
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

        # What a killed run wrote beyond its last checkpoint is not shown.
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

        # A run is known by its name: that of the folder, so that going on finds it and others do not.
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
