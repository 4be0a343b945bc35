"""The checkpoints of a run by how well they did when the run evaluated them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .checkpoint import STATE_FILE, CheckpointFolder


@dataclass(frozen=True)
class Ranking:
    """What a run knows of its checkpoints.

    Attributes:
        metric: by which they are ranked: `training.metric_for_best` of the newest.
        values: step -> the metric, best first; only checkpoints that are there and were evaluated.
        newest: the step of the newest checkpoint that can be read.
    """

    metric: str
    values: dict[int, float]
    newest: int


def rank_checkpoints(folder: CheckpointFolder) -> Ranking:
    """Rank the checkpoints of a folder by the history of its run.

    Raises:
        UserError: none of the checkpoints of steps can be read.
    """
    found = folder.newest()
    if found is None:
        raise UserError(f"there are no checkpoints of steps in {folder.path}.")
    training, state = found[1]["config"]["training"], found[1]["state"]
    metric, sign = training["metric_for_best"], -1 if training["greater_is_better"] else 1
    written = read_state(folder)
    history = written["history"] if written else state["history"]
    there = set(folder.steps())
    values = {int(row["step"]): row[metric] for row in history}
    usable = [step for step, value in values.items() if step in there and math.isfinite(value)]
    ordered = sorted(usable, key=lambda step: sign * values[step])  # of equal ones the earlier first, as in training
    return Ranking(metric, {step: values[step] for step in ordered}, state["step"])


def read_state(folder: CheckpointFolder) -> dict[str, Any] | None:
    """Return what `training_state.json` says; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = folder.path / STATE_FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        state["history"], state["checkpoints"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} cannot be read; move it away to go by what the newest checkpoint says.") from None
    return state
