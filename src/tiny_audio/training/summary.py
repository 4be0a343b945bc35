"""`training_state.json`: what a person wants to know of a run's folder."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..text import NORMALIZER_NAME
from .checkpoint import CheckpointFolder
from .ranking import rank_saved
from .state import RunState


def summarise(
    config: Config, state: RunState, folder: CheckpointFolder, description: dict[str, Any], skipped_clips: int
) -> dict[str, Any]:
    """Return what `training_state.json` says.

    Args:
        config: the run's settings.
        state: where it stands.
        folder: its checkpoints.
        description: see `describe`.
        skipped_clips: so far.
    """
    training = config.training
    ranked = rank_saved(state.history, training, folder)
    best = None
    if ranked:
        step, metric = int(ranked[0]["step"]), training.metric_for_best
        best = {"checkpoint": folder.file(step).name, "step": step, "metric": metric, "value": ranked[0][metric]}
    return {
        "experiment": config.experiment,
        "step": state.step,
        "max_steps": training.max_steps,
        "finished": state.step >= training.max_steps,
        "best": best,
        "metric_for_best": training.metric_for_best,
        "greater_is_better": training.greater_is_better,
        "checkpoints": [folder.file(step).name for step in folder.steps()],
        "history": state.history,
        "evaluation_set": state.evaluation_set,
        "scoring": NORMALIZER_NAME,
        "hours_of_audio_seen": round(state.audio_seconds / 3600, 3),
        "corpora": {
            name: {**about, "seen": int(seen[0]), "hours_seen": round(seen[1] / 3600, 3)}
            for name, about in description["corpora"].items()
            for seen in (state.corpora.get(name, (0, 0.0)),)
        },
        "run": description["run"],
        "train_seconds": round(state.train_seconds, 1),
        "skipped_clips": skipped_clips,
        "wandb_run_id": state.wandb_run_id,
    }
