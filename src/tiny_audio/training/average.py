"""One checkpoint from several: the mean of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from .checkpoint import FINAL_FILE, OF_THE_RUN, CheckpointFolder, kind, load_checkpoint, save_checkpoint
from .ranking import rank_checkpoints


def average(folder: CheckpointFolder, count: int, output: Path | None = None) -> tuple[Path, list[int]]:
    """Write the mean of the weights of the best `count` checkpoints, computed in fp32, as a checkpoint of its own.

    As in Vaswani et al., arXiv 1706.03762, section 6.1, who average the last ones. It holds no optimizer state, and no
    run can go on from it.

    Args:
        folder: of one run.
        count: how many, at least 2.
        output: the file; `averaged-best-N.pt` in the folder, if left out.

    Returns:
        The file, and the steps of the checkpoints, best first.

    Raises:
        UserError: there are not as many, they do not belong to the same models, or the file cannot be written.
    """
    output = output or folder.path / f"averaged-best-{count}.pt"
    if output.suffix != ".pt" or output.name == FINAL_FILE or output.name.startswith("checkpoint-step-"):
        raise UserError(f"output={output} must end in .pt, and be no name that a run gives its own checkpoints.")
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
