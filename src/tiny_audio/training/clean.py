"""Deleting checkpoints, never the best and never the newest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..errors import UserError
from ..files import locked
from .checkpoint import CheckpointFolder
from .ranking import Ranking, rank_checkpoints, read_state


@dataclass(frozen=True)
class Plan:
    """Which checkpoints of a folder go.

    Attributes:
        kept: step -> why.
        deleted: steps.
        freed_bytes: what that frees; a file that has another name too (`final.pt`) frees nothing.
    """

    ranking: Ranking
    kept: dict[int, str]
    deleted: list[int]
    freed_bytes: int


def plan_cleaning(folder: CheckpointFolder, keep_best: int, keep_last: int) -> Plan:
    """Choose what to delete: all but the best and the newest; never the best one, never the newest that can be read.

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
    return Plan(ranking, kept, deleted, freed)


def clean(folder: CheckpointFolder, plan: Plan) -> None:
    """Delete what a plan says, and take it off the list in `training_state.json`.

    Raises:
        UserError: a file cannot be deleted; those before it are.
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
    """Keep runs out of a folder, with the lock that they hold themselves.

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
