"""Whether the disk has room for the checkpoints of a run."""

from __future__ import annotations

import shutil

from ...config import TrainingConfig
from ...model.checkpointed import trained_bytes
from ...model.speech_llm import SpeechLLM
from ..checkpoint import CheckpointFolder
from ..console import format_bytes
from .findings import Findings
from .memory import MOMENTS


def checkpoint_bytes(model: SpeechLLM) -> int:
    """Return the approximate size of a checkpoint: the weights that it stores, and the moments of those that train."""
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    return trained_bytes(model) + MOMENTS * trained


def check_disk(folder: CheckpointFolder, training: TrainingConfig, step: int, evaluates: bool, size: int) -> Findings:
    """Compare the free space with the checkpoints of `size` bytes that the run will still write.

    A new one is written before an old one is deleted, so a run needs room for at least two.
    """
    free = shutil.disk_usage(folder.path).free
    there = len(folder.steps())
    saves = count_saves(training, step, evaluates)
    fewest = min(saves, 2 - min(there, 1))
    keep = 1 if training.save_best_only else training.save_total_limit
    # Besides those that are kept: the best, and the one that is being written.
    most = saves if keep is None else max(1, min(saves, keep + evaluates + 1 - there))
    final = size / (1 + MOMENTS)  # final.pt, which holds only the weights
    where = f"{folder.path} has {format_bytes(free)} free"
    if free < fewest * size + final:
        error = (
            f"paths.output_dir: {where}, too little for {_checkpoints(fewest, size)}"
            f"{', since a new one is written before an old one is deleted' if fewest > 1 else ''}; make room, or set "
            "paths.output_dir to a larger disk."
        )
        return Findings(errors=[error])
    if free < most * size + final:
        fewer = f", or lower training.save_total_limit={'null' if keep is None else keep}" if keep != 1 else ""
        total = format_bytes(most * size + final)
        warning = (
            f"paths.output_dir: {where}, and up to {_checkpoints(most, size)} and final.pt ({total}) will come there; "
            f"make room{fewer}."
        )
        return Findings(warnings=[warning])
    return Findings(notes=[f"{_checkpoints(most, size)} fit on the disk ({format_bytes(free)} free)"])


def count_saves(training: TrainingConfig, step: int, evaluates: bool) -> int:
    """Return how many checkpoints a run writes at most after `step`: as if every evaluation were the best so far.

    If none is ever deleted, that number would be far too high; then only one best is counted besides the regular ones.
    """
    unlimited = training.save_total_limit is None and not training.save_best_only
    every = [training.save_steps] + [training.eval_steps] * (evaluates and not unlimited)
    due = {number for n in every for number in range(n * (step // n + 1), training.max_steps + 1, n)}
    return len(due | {training.max_steps}) + (evaluates and unlimited)


def _checkpoints(count: int, size: int) -> str:
    return f"{count} checkpoint{'s' if count > 1 else ''} of {format_bytes(size)}"
