"""Rank the checkpoints of a run by its evaluations, and use the ranking.

The history of evaluations is the only source: the best is always computed from it, by the metric that the run uses
now. `training_state.json`, the choice of checkpoints to delete, and the mean of the best all use this ranking.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Config, TrainingConfig
from ..errors import UserError
from ..evaluation.ranking import best_first
from ..files import locked
from ..text import NORMALIZER_NAME
from .checkpoint import FINAL_FILE, OF_THE_RUN, STATE_FILE, CheckpointFolder, kind, load_checkpoint, save_checkpoint
from .state import RunState

Row = dict[str, Any]  # of a history: step, loss, wer, cer


@dataclass(frozen=True)
class Ranking:
    """The ranked checkpoints of a run.

    Attributes:
        metric: by which they are ranked.
        values: step -> the metric, best first; only checkpoints that exist and were evaluated.
        newest: the step of the newest checkpoint that can be read.
    """

    metric: str
    values: dict[int, float]
    newest: int


def rank(history: Sequence[Row], training: TrainingConfig) -> list[Row]:
    """Return the evaluations of a history, best first, by `training.metric_for_best`."""
    return best_first(history, lambda row: row[training.metric_for_best], training.greater_is_better)


def rank_saved(history: Sequence[Row], training: TrainingConfig, folder: CheckpointFolder) -> list[Row]:
    """Return the evaluations that have a checkpoint, best first; a full disk may have prevented the very best one."""
    return [row for row in rank(history, training) if folder.file(int(row["step"])).is_file()]


def rank_checkpoints(folder: CheckpointFolder) -> Ranking:
    """Rank the checkpoints of a folder by the history of its run.

    Raises:
        UserError: no checkpoint of a step can be read.
    """
    found = folder.newest()
    if found is None:
        raise UserError(f"there are no step checkpoints in {folder.path}.")
    state = found[1]["state"]
    written = read_state(folder)
    by = goes_by(folder) or found[1]["config"]["training"]
    training = TrainingConfig(metric_for_best=by["metric_for_best"], greater_is_better=by["greater_is_better"])
    ordered = rank_saved(written["history"] if written else state["history"], training, folder)
    return Ranking(
        training.metric_for_best, {int(row["step"]): row[training.metric_for_best] for row in ordered}, state["step"]
    )


def goes_by(folder: CheckpointFolder) -> Mapping[str, Any] | None:
    """Return `metric_for_best` and `greater_is_better` of the last start of a folder's run, if they are known.

    The newest checkpoint may be older than that start.
    """
    state = read_state(folder)
    return state if state and "metric_for_best" in state else None


def read_state(folder: CheckpointFolder) -> dict[str, Any] | None:
    """Return the content of `training_state.json`; None if there is none.

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
        raise UserError(f"{path} cannot be read; move it away to use the history in the newest checkpoint.") from None
    return state


def summarize(
    config: Config, state: RunState, folder: CheckpointFolder, description: dict[str, Any], skipped_clips: int
) -> dict[str, Any]:
    """Return the content of `training_state.json`.

    Args:
        config: the run's settings.
        state: where the run stands.
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


@dataclass(frozen=True)
class CleaningPlan:
    """Which checkpoints of a folder to delete.

    Attributes:
        kept: step -> why.
        deleted: steps.
        freed_bytes: what deleting them frees; a file that also has another name (`final.pt`) frees nothing.
    """

    ranking: Ranking
    kept: dict[int, str]
    deleted: list[int]
    freed_bytes: int


def plan_cleaning(folder: CheckpointFolder, keep_best: int, keep_last: int) -> CleaningPlan:
    """Choose what to delete: all but the best and the last ones; never the best, nor the newest that can be read.

    Raises:
        UserError: none of the checkpoints can be read.
    """
    ranking, steps = rank_checkpoints(folder), folder.steps()
    reasons: dict[int, list[str]] = {}
    for place, step in enumerate(list(ranking.values)[: max(keep_best, 1)], 1):
        reasons.setdefault(step, []).append("best" if place == 1 else f"best, {place} of {keep_best}")
    for step in steps[-max(keep_last, 1) :]:
        reasons.setdefault(step, []).append("newest" if step == steps[-1] else f"one of the newest {keep_last}")
    if ranking.newest not in reasons:
        reasons[ranking.newest] = ["newest that can be read"]
    deleted = [step for step in steps if step not in reasons]
    stats = [folder.file(step).stat() for step in deleted]
    freed = sum(stat.st_size for stat in stats if stat.st_nlink == 1)
    kept = {step: "; ".join(reasons[step]) for step in steps if step in reasons}
    return CleaningPlan(ranking, kept, deleted, freed)


def clean(folder: CheckpointFolder, plan: CleaningPlan) -> None:
    """Delete what a plan says, and remove it from the list in `training_state.json`.

    Raises:
        UserError: a file cannot be deleted; the files before it are deleted.
    """
    try:
        for step in plan.deleted:
            folder.file(step).unlink(missing_ok=True)
        if state := read_state(folder):
            folder.write_state(state | {"checkpoints": [folder.file(step).name for step in folder.steps()]})
    except OSError as error:
        raise UserError(f"{error.filename or folder.path} cannot be changed: {error.strerror}.") from None


@contextmanager
def hold(folder: CheckpointFolder) -> Iterator[None]:
    """Lock a folder against runs, with the same lock that a run holds.

    Raises:
        UserError: a run is writing there, or the lock cannot be opened.
    """
    path = folder.path.parent / ".lock"
    if not path.exists():
        yield
        return
    with ExitStack() as held:
        try:
            busy = f"a run is writing to {path.parent}; wait for it, or stop it first."
            held.enter_context(locked(path, busy, wait=False))
        except OSError as error:
            raise UserError(f"{path} cannot be opened: {error.strerror}.") from None
        yield


def average(folder: CheckpointFolder, count: int, output: Path | None = None) -> tuple[Path, list[int]]:
    """Write the mean of the weights of the best `count` checkpoints, computed in fp32, as a new checkpoint.

    As in Vaswani et al., arXiv 1706.03762, section 6.1, who average the last ones. It holds no optimizer state, so no
    run can resume from it.

    Args:
        folder: of one run.
        count: how many, at least 2.
        output: the file; `averaged-best-N.pt` in the folder, if left out.

    Returns:
        The file, and the steps of the checkpoints, best first.

    Raises:
        UserError: there are fewer, they do not belong to the same models, or the file cannot be written.
    """
    output = output or folder.path / f"averaged-best-{count}.pt"
    if output.suffix != ".pt" or output.name == FINAL_FILE or output.name.startswith("checkpoint-step-"):
        raise UserError(f"output={output} must end in .pt, and must not be a name that runs use for checkpoints.")
    ranking = rank_checkpoints(folder)
    steps = list(ranking.values)[:count]
    if len(steps) < count:
        raise UserError(f"{folder.path} has {len(steps)} evaluated checkpoints, and --best {count} asks for more.")
    content = load_checkpoint(folder.file(steps[0]))
    total = {part: {k: w.float() for k, w in weights.items()} for part, weights in content["weights"].items()}
    for step in steps[1:]:
        _add(total, content, load_checkpoint(folder.file(step)), folder.file(step))
    for part, weights in content["weights"].items():
        content["weights"][part] = {name: (total[part][name] / count).to(w.dtype) for name, w in weights.items()}
    content |= dict.fromkeys(OF_THE_RUN)
    content["state"] |= {"step": max(steps), "history": []}
    content["averaged"] = {"steps": steps, "metric": ranking.metric}
    try:
        save_checkpoint(output, content)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from None
    return output, steps


def _add(total: dict[str, dict[str, Tensor]], first: dict[str, Any], other: dict[str, Any], path: Path) -> None:
    """Add another checkpoint's weights to the sums."""
    ours, theirs = kind(first), kind(other)
    if differing := [key for key in ours if ours[key] != theirs[key] and None not in (ours[key], theirs[key])]:
        raise UserError(f"{path} belongs to other models than the best one ({', '.join(differing)}): no average.")
    for part, weights in total.items():
        for name, weight in weights.items():
            weight += other["weights"][part][name]
