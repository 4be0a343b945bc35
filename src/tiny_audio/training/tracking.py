"""Where metrics go: `metrics.jsonl` always, Weights & Biases where it is on."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import Config
from .checkpoint import write_atomically
from .metrics import GLOBAL_STEP

logger = logging.getLogger(__name__)


class JsonLines:
    """`metrics.jsonl`: one object a line, in order of steps.

    Args:
        path: the file.
        step: the step that the run goes on from; lines of later steps, which a killed run had written, are dropped,
            so that every step stands in the file once.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if (at := _step_of(line)) is not None and at <= step]
        if kept != lines:
            write_atomically(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)
        self._lost = False

    def log(self, values: dict[str, float], step: int) -> None:
        """Append the metrics of a step; what is not finite is null. A full disk costs lines, which is said once."""
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **plain}) + "\n")
        except OSError as error:
            if not self._lost:
                logger.error("%s cannot be written (%s); training goes on.", self.path, error.strerror or error)
            self._lost = True

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # said already
            self._file.close()


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line that was being written when the process was killed
        return None


class WandbRun:
    """A Weights & Biases run; offline where there is no login or no network, which is said once."""

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
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
        if not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False):
            arguments["mode"] = "offline"
            logger.warning("WandB: not logged in (`wandb login`); the run is kept offline in %s.", folder / "wandb")
        try:
            self._run = wandb.init(**arguments)
        except (wandb.Error, OSError, TimeoutError) as error:
            logger.warning("WandB cannot be reached (%s); the run is kept offline in %s.", error, folder / "wandb")
            self._run = wandb.init(**arguments | {"mode": "offline"})
        # W&B drops steps lower than its last, which a resumed run logs again: the step is a metric like any other.
        self._run.define_metric(GLOBAL_STEP)
        self._run.define_metric("*", step_metric=GLOBAL_STEP)
        self.run_id: str = self._run.id
        logger.info("WandB run initialized: %s", self._run.url or f"offline, {self._run.dir}")

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the metrics of a step."""
        self._run.log({**values, GLOBAL_STEP: step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Trackers:
    """All places that metrics go to; on other processes than the first, none."""

    def __init__(self, config: Config, folder: Path, step: int, run_id: str | None, is_main: bool) -> None:
        self._trackers: list[JsonLines | WandbRun] = []
        self.run_id = run_id
        if not is_main:
            return
        self._trackers.append(JsonLines(folder / "metrics.jsonl", step))
        if config.logging.use_wandb:
            wandb_run = WandbRun(config, folder, run_id)
            self.run_id = wandb_run.run_id
            self._trackers.append(wandb_run)

    def log(self, values: dict[str, float], step: int) -> None:
        """Log metrics by their names, such as those of `metrics.py` or one's own `custom/...`."""
        for tracker in self._trackers:
            tracker.log(values, step)

    def close(self) -> None:
        """Close all."""
        for tracker in self._trackers:
            tracker.close()
