"""The checkpoints of a run by how well they did when the run evaluated them.

The history of evaluations is the one source: what is best is worked out from it wherever it is asked, by the metric
that the run goes by now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import TrainingConfig
from ..errors import UserError
from ..evaluation.ranking import best_first
from .checkpoint import STATE_FILE, CheckpointFolder

Row = dict[str, Any]  # of a history: step, loss, wer, cer


@dataclass(frozen=True)
class Ranking:
    """What a run knows of its checkpoints.

    Attributes:
        metric: by which they are ranked.
        values: step -> the metric, best first; only checkpoints that are there and were evaluated.
        newest: the step of the newest checkpoint that can be read.
    """

    metric: str
    values: dict[int, float]
    newest: int


def rank(history: Sequence[Row], training: TrainingConfig) -> list[Row]:
    """Return the evaluations of a history, best first, by `training.metric_for_best`."""
    return best_first(history, lambda row: row[training.metric_for_best], training.greater_is_better)


def rank_saved(history: Sequence[Row], training: TrainingConfig, folder: CheckpointFolder) -> list[Row]:
    """Return those that have a checkpoint, best first: a full disk may have cost the very best its own."""
    return [row for row in rank(history, training) if folder.file(int(row["step"])).is_file()]


def rank_checkpoints(folder: CheckpointFolder) -> Ranking:
    """Rank the checkpoints of a folder by the history of its run.

    Raises:
        UserError: none of the checkpoints of steps can be read.
    """
    found = folder.newest()
    if found is None:
        raise UserError(f"there are no checkpoints of steps in {folder.path}.")
    state = found[1]["state"]
    written = read_state(folder)
    by = goes_by(folder) or found[1]["config"]["training"]
    training = TrainingConfig(metric_for_best=by["metric_for_best"], greater_is_better=by["greater_is_better"])
    ordered = rank_saved(written["history"] if written else state["history"], training, folder)
    return Ranking(
        training.metric_for_best, {int(row["step"]): row[training.metric_for_best] for row in ordered}, state["step"]
    )


def goes_by(folder: CheckpointFolder) -> Mapping[str, Any] | None:
    """Return `metric_for_best` and `greater_is_better` of a folder's run as it was last started, if that is known.

    The newest checkpoint may be older than that.
    """
    state = read_state(folder)
    return state if state and "metric_for_best" in state else None


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
