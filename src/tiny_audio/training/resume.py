"""Going on from a checkpoint, exactly where it was written."""

from __future__ import annotations

import logging
from typing import Any

from accelerate import Accelerator

from ..config import Config
from ..data.plan import SamplingPlan
from .checkpoint import CheckpointFolder, load_checkpoint
from .state import RunState, set_rng_state

logger = logging.getLogger(__name__)


def find_start(config: Config, folder: CheckpointFolder) -> tuple[str, dict[str, Any] | None]:
    """Return the checkpoint that the run goes on from, its path and content; None where it starts afresh.

    Raises:
        UserError: `training.resume_from_checkpoint` cannot be read.
    """
    named = config.training.resume_from_checkpoint
    if named is not None:
        path, saved = named, load_checkpoint(named)
    else:
        newest = folder.newest()
        if newest is None:
            return "", None
        path, saved = str(newest[0]), newest[1]
    logger.info("Found checkpoint at %s", path)
    logger.info("Resuming from step %d...", saved["state"]["step"])
    return path, saved


def restore(saved: dict[str, Any], accelerator: Accelerator, optimizer: Any, plan: SamplingPlan) -> RunState:
    """Put back all that is not weights, and return where the run stands.

    What the configuration says of the optimizer (weight decay, betas) stands, even where the checkpoint has other
    values; the learning rate is set at every step anyway.

    Args:
        saved: the checkpoint; its weights are loaded already.
        accelerator: for the gradient scaler.
        optimizer: as prepared; receives its moments.
        plan: where it is not the one that the checkpoint's position counts in, training goes on at the plan's next
            window after as many draws, and says so.
    """
    logger.info("Loading optimizer state...")
    chosen = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved["optimizer"])
    for group, values in zip(optimizer.param_groups, chosen, strict=True):
        group.update(values)
    logger.info("Loading scheduler state...")
    state = RunState(**saved["state"])
    if saved["scaler"] is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    logger.info("Loading RNG state...")
    set_rng_state(saved["rng"])
    if state.plan_fingerprint != plan.fingerprint:
        state.batches = -(-state.draws // plan.window) * plan.window_batches
        logger.warning(
            "The training data, the batch size or the seed are not those of the checkpoint: training goes on from its "
            "weights with the new data. To start afresh, delete its folder or set another paths.output_dir."
        )
    logger.info("Resume successful!")
    return state
