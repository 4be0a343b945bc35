"""Going on from a checkpoint, exactly where it was written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..config import Config, TrainingConfig
from ..data.plan import SamplingPlan
from ..errors import UserError
from ..model.sharded import shared_out
from .checkpoint import CheckpointFolder, load_checkpoint
from .state import RunState, set_rng_state

logger = logging.getLogger(__name__)


def find_start(config: Config, folder: CheckpointFolder) -> tuple[str, dict[str, Any] | None]:
    """Return the checkpoint that the run goes on from, its path and content; None where it starts afresh.

    Where `training.resume_from_checkpoint` names one, the first start takes it, and the same command later goes on
    from what has come of it since.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    named, newest = config.training.resume_from_checkpoint, folder.newest()
    if newest is not None and named in (None, newest[1]["state"]["resumed_from"]):
        path, saved = str(newest[0]), newest[1]
    elif named is not None:
        path, saved = named, load_checkpoint(named)
        if "averaged" in saved:
            raise UserError(
                f"training.resume_from_checkpoint={named} is an average of checkpoints, which no run can go on from; "
                f"to start a run from its weights: model.checkpoint={named}"
            )
        saved["state"] |= {"resumed_from": named}
        if Path(named).resolve().parent != folder.path.resolve():  # another run's: its figures stay there
            saved["state"] |= {"best": None, "history": [], "wandb_run_id": None}
        folder.set_aside(after=saved["state"]["step"])
    else:
        return "", None
    logger.info("Found checkpoint at %s", path)
    logger.info("Resuming from step %d...", saved["state"]["step"])
    return path, saved


def pin_revisions(config: Config, saved: dict[str, Any]) -> None:
    """Go on with the very commits of the models that the checkpoint was trained with, where none is asked for."""
    for part in ("encoder", "decoder"):
        if getattr(config.model, part) == saved["config"]["model"][part]:
            chosen = getattr(config.model, f"{part}_revision") or saved["models"][f"{part}_revision"]
            setattr(config.model, f"{part}_revision", chosen)


def batches_left(training: TrainingConfig, saved: dict[str, Any] | None, plan: SamplingPlan, processes: int) -> range:
    """Return the global batches that a run trains on, from the checkpoint that it goes on from, or from the start."""
    step = first = 0
    if saved is not None:
        state = saved["state"]
        step, first = state["step"], state["batches"]
        if state["plan_fingerprint"] != plan.fingerprint:  # at the next window after as many draws
            first = -(-state["draws"] // plan.window) * plan.window_batches
    left = max(0, training.max_steps - step)
    return range(first, first + left * training.gradient_accumulation_steps * processes)


def restore(
    saved: dict[str, Any], accelerator: Accelerator, optimizer: Any, plan: SamplingPlan, first: int
) -> RunState:
    """Put back all that is not weights, and return where the run stands.

    What the configuration says of the optimizer (weight decay, betas) stands, even where the checkpoint has other
    values; the learning rate is set at every step anyway.

    Args:
        saved: the checkpoint; its weights are loaded already.
        accelerator: for the gradient scaler.
        optimizer: as prepared; receives its moments.
        plan: where it is not the one that the checkpoint's position counts in, it is said.
        first: of `batches_left`, where training goes on.
    """
    logger.info("Loading optimizer state...")
    sizes = [
        [len(group["params"]) for group in o["param_groups"]] for o in (saved["optimizer"], optimizer.state_dict())
    ]
    if sizes[0] != sizes[1]:
        raise UserError(
            "the checkpoint's run trained other parts (projector, LoRA, decoder) than this one; to start from its "
            "weights, name it as model.checkpoint and set another paths.output_dir."
        )
    moments = saved["optimizer"]["state"]
    for theirs, ours in zip(saved["optimizer"]["param_groups"], optimizer.param_groups, strict=True):
        for index, weight in zip(theirs["params"], ours["params"], strict=True):
            moments[index] = {name: shared_out(value, weight) for name, value in moments.get(index, {}).items()}
        theirs.update({key: value for key, value in ours.items() if key != "params"})
    optimizer.load_state_dict(saved["optimizer"])
    logger.info("Loading scheduler state...")
    state = RunState(**saved["state"])
    if saved["scaler"] is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    logger.info("Loading RNG state...")
    set_rng_state(saved["rng"])
    if state.plan_fingerprint != plan.fingerprint:
        logger.warning(
            "The training data, the batch size or the seed are not those of the checkpoint: training goes on from its "
            "weights with the new data. To start afresh, delete its folder or set another paths.output_dir."
        )
    state.batches = first
    logger.info("Resume successful!")
    return state
