"""Claim the folder of a run, choose what it resumes from (nothing, its newest checkpoint, a named one), restore it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate import Accelerator

from ..config import Config, TrainingConfig
from ..data.plan import SamplingPlan
from ..data.sources import Source
from ..errors import UserError
from ..files import locked, sweep_temporaries
from ..model.sharded import shared_out
from .checkpoint import CheckpointFolder, load_checkpoint
from .optimizer import refuse_another
from .processes import Processes
from .state import RunState, set_rng_state

logger = logging.getLogger(__name__)

QUICK_TEST_SHARE = 0.1  # of the new run's steps: a quick test with more steps is resumed
# Settings that the plan of the draws depends on, besides the corpora.
PLANNED_BY = {
    "training": ("batch_size", "seed"),
    "data": ("max_samples", "max_audio_length", "min_audio_length", "temperature", "text_case", "keep_punctuation"),
}


@contextmanager
def claim_folder(output: Path, processes: Processes) -> Iterator[CheckpointFolder]:
    """Make the output folder and lock it for this run, before anything slow is loaded.

    Raises:
        UserError: it cannot be made or written, another run is writing to it, or the processes see different folders.
    """
    folder = CheckpointFolder(output / "checkpoints")
    mark = folder.path / f".seen-{uuid4().hex}.tmp"
    busy = f"another run is writing to {output}; wait for it, or set another paths.output_dir."
    with ExitStack() as held:
        try:
            with processes.first_ahead():
                folder.path.mkdir(parents=True, exist_ok=True)
                if processes.is_main:
                    held.enter_context(locked(output / ".lock", busy, wait=False))
                    sweep_temporaries(folder.path)
                    mark.touch()
            name = processes.from_first(mark.name)
            seen = (folder.path / name).is_file()
            processes.require_same(seen, f"folder {output}", "paths.output_dir has to be one folder for all of them.")
        except OSError as error:
            raise UserError(f"paths.output_dir: {folder.path} cannot be made or written ({error.strerror}).") from None
        finally:
            with suppress(OSError):  # the folder may not exist
                mark.unlink()
        yield folder


def find_start(config: Config, folder: CheckpointFolder, processes: Processes) -> tuple[str, dict[str, Any] | None]:
    """Return path and content of the checkpoint that the run resumes from; "" and None if it starts afresh.

    The first process chooses the file, and reads all of it to check it. The others map the same file.

    Raises:
        UserError: some process cannot read it.
    """
    path, saved = "", None
    marks: dict[str, Any] = {}
    with processes.first_ahead():
        if processes.is_main:
            path, saved, marks = _choose(config, folder)
    path, marks = processes.from_first((path, marks))
    seen: Any = None
    if path:
        try:
            saved = saved or load_checkpoint(path, verify=False)
            seen = (saved["state"]["step"], saved["state"]["plan_fingerprint"])
            saved["state"] |= marks
        except UserError as error:
            seen = str(error)
    processes.require_same(seen, f"checkpoint {path}", "paths.output_dir has to be one folder for all of them.")
    if saved is not None:
        logger.info("Found checkpoint at %s", path)
        logger.info("Resuming from step %d...", saved["state"]["step"])
    return path, saved


def _choose(config: Config, folder: CheckpointFolder) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
    """Return path and content of the checkpoint to resume from, and the values to replace in its state.

    If `training.resume_from_checkpoint` names one, the first start takes it. If the same command is run again later,
    it resumes from its own newest checkpoint.
    """
    named, newest = config.training.resume_from_checkpoint, folder.newest()
    if newest is not None and named in (None, newest[1]["state"]["resumed_from"]):
        return str(newest[0]), newest[1], {}
    if named is None:
        return "", None, {}
    saved = load_checkpoint(named)
    if "averaged" in saved:
        raise UserError(
            f"training.resume_from_checkpoint={named} is an average of checkpoints, from which no run can resume; "
            f"to start a run from its weights: model.checkpoint={named}"
        )
    if saved["optimizer"] is None:
        raise UserError(
            f"training.resume_from_checkpoint={named} holds no optimizer, which a run needs to resume; name "
            f"{Path(named).with_name('checkpoint-step-{}.pt'.format(saved['state']['step']))}, or start a run from its "
            f"weights: model.checkpoint={named}"
        )
    marks: dict[str, Any] = {"resumed_from": named}
    if Path(named).resolve().parent != folder.path.resolve():  # of another run: its figures stay there
        marks |= {"history": [], "wandb_run_id": None}
    folder.set_aside(after=saved["state"]["step"])
    return named, saved, marks


def starts_afresh(
    config: Config, saved: dict[str, Any], path: str, plan: SamplingPlan, sources: Sequence[Source]
) -> bool:
    """Whether the checkpoint is of a quick test, which a run does not resume from.

    A quick test had a `data.max_samples` that this run does not have, or has higher, and at most a tenth of this
    run's steps.

    Raises:
        UserError: the checkpoint is of a finished run on other data, and resuming from it was not asked for. Its
            weights must not be lost, and a run on these data must not count as done.
    """
    training, state, before = config.training, saved["state"], saved["config"]
    if training.resume_from_checkpoint is not None or state["plan_fingerprint"] == plan.fingerprint:
        return False
    limit, had = config.data.max_samples, before["data"]["max_samples"]
    if had is not None and (limit is None or limit > had) and state["step"] <= QUICK_TEST_SHARE * training.max_steps:
        return True
    warming = saved.get("ctc_warmup") is not None or not state["plan_fingerprint"]  # older ones do not name their plan
    if warming or state["step"] < before["training"]["max_steps"]:
        return False
    same = {(source.name, source.origin) for source in sources} == {
        (name, about["origin"]) for name, about in saved["corpora"].items()
    }
    if same and training.max_steps > state["step"]:
        return False
    more = f"training.max_steps={training.max_steps}"
    if training.max_steps <= state["step"]:
        more = f"training.max_steps above {state['step']}"
    further = f"training.resume_from_checkpoint={path} and {more}"
    if saved["optimizer"] is None:  # of a warm-up alone
        further = f"model.projector_checkpoint={path} and another paths.output_dir"
    raise UserError(
        f"{path} belongs to a finished run with other {_differences(config, before, same)}. To continue from its "
        f"weights: {further}. To start a new run: another paths.output_dir."
    )


def set_aside(saved: dict[str, Any], path: str, folder: CheckpointFolder, processes: Processes) -> None:
    """Move the checkpoints of a quick test out of the way, and say so."""
    limit, steps = saved["config"]["data"]["max_samples"], saved["state"]["step"]
    logger.info("%s belongs to a quick test (data.max_samples=%s, %d steps): starting a new run.", path, limit, steps)
    with processes.first_ahead():
        if processes.is_main:
            folder.set_aside(after=-1)


def _differences(config: Config, before: dict[str, Any], same_corpora: bool) -> str:
    """Name the settings that differ in the data of two runs, such as `training.seed (42 there, 43 here)`."""
    now = config.to_dict()
    named = [
        f"{group}.{key} ({before[group][key]} there, {now[group][key]} here)"
        for group, keys in PLANNED_BY.items()
        for key in keys
        if before[group][key] != now[group][key]
    ]
    return ", ".join(([] if same_corpora else ["corpora"]) + named) or "clips"


def pin_revisions(config: Config, saved: dict[str, Any]) -> None:
    """Use the same commits of the models as the checkpoint, unless the configuration names a revision."""
    for part in ("encoder", "decoder"):
        if getattr(config.model, part) == saved["config"]["model"][part]:
            chosen = getattr(config.model, f"{part}_revision") or saved["models"][f"{part}_revision"]
            setattr(config.model, f"{part}_revision", chosen)


def batches_left(training: TrainingConfig, saved: dict[str, Any] | None, plan: SamplingPlan, processes: int) -> range:
    """Return the global batches that a run still trains on, after the checkpoint or from the start."""
    step = first = 0
    if saved is not None:
        state = saved["state"]
        step, first = state["step"], state["batches"]
        if state["plan_fingerprint"] != plan.fingerprint:  # continue at the next window after as many draws
            first = -(-state["draws"] // plan.window) * plan.window_batches
    left = max(0, training.max_steps - step)
    return range(first, first + left * training.gradient_accumulation_steps * processes)


def restore(
    saved: dict[str, Any], state: RunState, accelerator: Accelerator, optimizer: Any, plan: SamplingPlan, first: int
) -> None:
    """Restore everything but the weights. Afterwards nothing refers to `saved` any more.

    The configuration's settings of the optimizer (weight decay, betas) apply, even if the checkpoint has other
    values. The learning rate is set at every step anyway.

    Args:
        saved: the checkpoint; its weights are loaded already.
        state: of the run, loaded from `saved`; its position becomes `first`.
        accelerator: for the gradient scaler.
        optimizer: as prepared; receives its moments.
        plan: of this run; a warning says if it is not the plan of the checkpoint.
        first: the first of `batches_left`.
    """
    try:
        _restore(saved, accelerator, optimizer)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            "the checkpoint's optimizer or random generators are damaged; to start from its weights, name it as "
            "model.checkpoint and set another paths.output_dir."
        ) from error
    warn_of_another_plan(state, plan)
    state.batches = first
    logger.info("Resume successful!")


def warn_of_another_plan(state: RunState, plan: SamplingPlan) -> None:
    """Say so if the checkpoint of a state was trained on other draws than this run's."""
    if state.plan_fingerprint not in (plan.fingerprint, ""):
        logger.warning(
            "The training data, the batch size or the seed are not those of the checkpoint: training continues "
            "from its weights with the new data. To start a new run, delete its folder or set another paths.output_dir."
        )


def _restore(saved: dict[str, Any], accelerator: Accelerator, optimizer: Any) -> None:
    logger.info("Loading optimizer state...")
    refuse_another(saved["optimizer"], optimizer)
    moments = saved["optimizer"]["state"]
    for theirs, ours in zip(saved["optimizer"]["param_groups"], optimizer.param_groups, strict=True):
        for index, weight in zip(theirs["params"], ours["params"], strict=True):
            kept = {name: shared_out(value, weight) for name, value in moments.get(index, {}).items()}
            moments[index] = {name: _own(value, weight) for name, value in kept.items()}
        theirs.update({key: value for key, value in ours.items() if key != "params"})
    optimizer.load_state_dict(saved["optimizer"])
    logger.info("Loading scheduler state...")
    if saved["scaler"] is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    logger.info("Loading RNG state...")
    set_rng_state(saved["rng"])


def _own(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a copy if the optimizer would keep the checkpoint's own tensor, and so the mapped file."""
    return value.clone() if weight.device.type == "cpu" else value
