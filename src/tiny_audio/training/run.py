"""A whole run, composed in order: device, models, data, optimizer, what it goes on from; then the loop."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..config import Config
from ..data.augment import open_augmenter
from ..data.loader import ClipDataset
from ..data.plan import SamplingPlan
from ..data.skips import SkipLog
from ..errors import UserError
from ..model.checkpointed import load_weights
from ..model.speech_llm import SpeechLLM
from ..progress import format_time
from .build import (
    agree_on_plan,
    build_evaluation,
    describe,
    distribute,
    explaining_out_of_memory,
    load_data,
    load_models,
    open_batches,
    start_accelerator,
    usable_workers,
)
from .checkpoint import CheckpointFolder, load_checkpoint
from .console import Console, format_metric
from .ctc_warmup import CTCWarmup, calibrate, learn_pieces
from .feature_cache import cache_features
from .loop import Trainer
from .preflight import preflight
from .resume import find_start, pin_revisions, restore
from .state import RunState
from .trackers import check_installed
from .tracking import Trackers

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs in one folder are not found out there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

NEVER = -(10**9)  # a step before any that is logged


def train(config: Config) -> float | None:
    """Train as `config` says, from the newest checkpoint where there is one.

    Returns:
        The best value of `training.metric_for_best`, for sweeps; None without an evaluation set.

    Raises:
        UserError: something that the user can mend; the message says what.
        KeyboardInterrupt, SystemExit: a signal stopped the run; its state is saved.
    """
    check_installed(config.logging.trackers)
    accelerator = start_accelerator(config)
    output = Path(config.paths.output_dir) / config.experiment
    best, failure = None, None
    try:
        with claim_folder(output, accelerator) as folder:
            best = train_in(folder, output, config, accelerator)
    except (UserError, KeyboardInterrupt, SystemExit) as error:
        if accelerator.num_processes == 1:
            raise
        # Without its frames: the model that they hold waits for ever if it goes after the group that it belongs to.
        failure = error.with_traceback(None)
        failure.__context__ = None
    leave_group(accelerator, together=failure is None)
    if failure is not None:
        raise failure
    return best


def leave_group(accelerator: Accelerator, together: bool) -> None:
    """Take the process group apart: its threads, left to the interpreter, may abort a process at its exit."""
    if torch.distributed.is_initialized():
        if together:
            accelerator.wait_for_everyone()
        gc.collect()
        torch.distributed.destroy_process_group()


def train_in(folder: CheckpointFolder, output: Path, config: Config, accelerator: Accelerator) -> float | None:
    """Train with the output folder in hand: see `train`."""
    training, is_main = config.training, accelerator.is_main_process
    with accelerator.main_process_first():  # it may move checkpoints
        start, saved = find_start(config, folder)
    if saved is None:
        check_named_checkpoints(config)
    else:
        pin_revisions(config, saved)
    augmenter = open_augmenter(config.data, training.seed)
    model = load_models(config, accelerator)
    sources, eval_sources = load_data(config, accelerator)
    plan = agree_on_plan(config, sources, accelerator)
    if saved is not None and belongs_to_another_run(config, saved, plan):
        logger.warning("%s is of a finished run on other data: starting afresh, its checkpoints are moved away.", start)
        with accelerator.main_process_first():
            folder.set_aside(after=-1)
        start, saved = "", None
    share = config.data.max_skipped_share
    skips = SkipLog(output / "skipped.jsonl", sources + eval_sources, share, write=is_main)
    if skips.counts:
        logger.warning("%s (see %s).", skips.summary(), skips.path)

    if config.data.cache_features:
        with explaining_out_of_memory():
            workers = usable_workers(config.data.num_workers)
            cache_features(config, model.encoder, sources + eval_sources, accelerator, workers)
    dataset = ClipDataset(sources, model.decoder.prompt.target_ids, config.data, augmenter)
    with explaining_out_of_memory():
        done = saved["state"]["step"] if saved is not None else 0
        preflight(config, model, plan, dataset, eval_sources, folder, done, accelerator)
        initialise_weights(config, model, saved, start, dataset, plan)
    state = RunState(**saved["state"]) if saved else RunState()
    evaluate = build_evaluation(config, model, eval_sources, accelerator, skips)
    description = describe(config, model, sources)
    if warmup_due(config, state, saved):
        with (
            closing(Trackers(config, output, state.ctc_step - training.ctc_warmup_steps - 1 if saved else NEVER, state.wandb_run_id, is_main)) as trackers,
            explaining_out_of_memory(),
        ):
            state.wandb_run_id = trackers.run_id
            on = saved["ctc_warmup"] if saved else None
            warmup = CTCWarmup(
                config, accelerator, model, plan, dataset, evaluate, folder, description, skips, trackers, state, on
            )
            finished = warmup.run()
        if not finished:
            logger.info("Saved at step %d of the warm-up; the same command goes on from there.", state.ctc_step)
            warmup.stop.leave()
    if model.ctc is not None:
        model.ctc_weight = training.ctc_loss_weight
        model.ctc.requires_grad_(model.ctc_weight > 0)
    prepared, optimizer = distribute(config, model, accelerator)
    if saved and saved["optimizer"] is not None:
        state = restore(saved, accelerator, optimizer, plan)
    if state.step >= training.max_steps and (not eval_sources or state.evaluated_step == state.step):
        logger.info("Step %d: nothing is left to train; raise training.max_steps to go on.", state.step)
        return finish(config, folder, state, skips, accelerator)
    state.plan_fingerprint = plan.fingerprint

    if is_main:
        folder.write_config(config.to_dict())
    per_step = training.batch_size * training.gradient_accumulation_steps * accelerator.num_processes
    epochs = plan.epoch(training.max_steps * per_step)
    with (
        closing(Trackers(config, output, state.step if saved or state.ctc_step else -1, state.wandb_run_id, is_main)) as trackers,
        closing(Console(training.max_steps, epochs, state.step, quiet=not is_main)) as console,
        explaining_out_of_memory(),
    ):
        state.wandb_run_id = trackers.run_id
        trainer = Trainer(
            config=config,
            accelerator=accelerator,
            model=prepared,
            optimizer=optimizer,
            batches=open_batches(config, plan, dataset, state, accelerator),
            plan=plan,
            evaluate=evaluate,
            folder=folder,
            description=description,
            skips=skips,
            trackers=trackers,
            console=console,
            state=state,
        )
        logger.info("Starting training...")
        finished = trainer.run()
    if not finished:
        logger.info("Saved at step %d; the same command goes on from there.", state.step)
        trainer.stop.leave()
    logger.info("Training completed!")
    logger.info("Total time: %s", format_time(state.train_seconds))
    logger.info("Trained on %s", state.heard())
    return finish(config, folder, state, skips, accelerator)


def check_named_checkpoints(config: Config) -> None:
    """Refuse a checkpoint to start from that is not there, before anything slow is loaded."""
    for key in ("checkpoint", "projector_checkpoint"):
        path = getattr(config.model, key)
        if path is not None and not Path(path).is_file():
            raise UserError(f"model.{key}={path}: there is no such file.")


def belongs_to_another_run(config: Config, saved: dict[str, Any], plan: SamplingPlan) -> bool:
    """Whether a checkpoint that was found, not named, ended a run on other data: a quick test before the real run."""
    finished = saved["state"]["step"] >= saved["config"]["training"]["max_steps"]
    other = saved["state"]["plan_fingerprint"] != plan.fingerprint
    return finished and other and config.training.resume_from_checkpoint is None


@contextmanager
def claim_folder(output: Path, accelerator: Accelerator) -> Iterator[CheckpointFolder]:
    """Make the output folder and hold it for this run, before anything slow is loaded.

    Raises:
        UserError: it cannot be made or written, or another run is writing to it.
    """
    folder = CheckpointFolder(output / "checkpoints")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise UserError(f"paths.output_dir: {folder.path} cannot be made or written ({error.strerror}).") from None
    with lock:
        if accelerator.is_main_process:
            if fcntl is not None:
                try:  # not flock: worker processes inherit it, and outlive a killed run by seconds
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise UserError(
                        f"another run is writing to {output}; wait for it, or set another paths.output_dir."
                    ) from None
            folder.sweep_temporaries()
        yield folder


def initialise_weights(
    config: Config,
    model: SpeechLLM,
    saved: dict[str, Any] | None,
    path: str,
    dataset: ClipDataset,
    plan: SamplingPlan,
) -> None:
    """Give what trains its weights: those of the run that goes on, of a named checkpoint, or new ones.

    A new projector is scaled so that the first batch comes out at the size of the decoder's own embeddings; new
    adapters have no effect yet.
    """
    given = config.model.checkpoint or config.model.projector_checkpoint
    if saved is not None:
        if given is not None:
            logger.info("%s is not read again: the run goes on from its own checkpoint.", given)
        logger.info("Loading model state...")
        load_weights(model, saved, config.model, path)
    elif given is not None:
        only_projector = config.model.checkpoint is None
        logger.info("Loading %s of %s...", "the projector" if only_projector else "all weights", given)
        load_weights(model, load_checkpoint(given), config.model, given, only_projector)
    else:
        calibrate(model, dataset, plan)
    training = config.training
    if model.ctc is None and saved is None and training.ctc_warmup_steps + training.ctc_loss_weight > 0:
        model.add_ctc(*learn_pieces(model, plan, dataset, training.ctc_min_count))


def warmup_due(config: Config, state: RunState, saved: dict[str, Any] | None) -> bool:
    """Whether steps of the CTC warm-up are left: a projector that comes from a checkpoint has learned already."""
    given = config.model.checkpoint or config.model.projector_checkpoint
    begun = saved is not None and saved.get("ctc_warmup") is not None
    return begun or (saved is None and given is None and config.training.ctc_warmup_steps > 0)


def finish(
    config: Config, folder: CheckpointFolder, state: RunState, skips: SkipLog, accelerator: Accelerator
) -> float | None:
    """Name the last checkpoint `final.pt`, say what came out, and return the best value."""
    if accelerator.is_main_process and folder.file(state.step).is_file():  # it may have been named from elsewhere
        folder.finish(state.step)
    if state.history:
        name = config.training.metric_for_best
        logger.info("Final WER: %.1f%%", 100 * state.history[-1]["wer"])
        if state.best is not None and folder.file(int(state.best["step"])).is_file():
            best = folder.file(int(state.best["step"]))
            value = format_metric(name, state.best["value"])
            logger.info("Best checkpoint: %s (%s: %s)", best, name.upper(), value)
    if skips.counts:
        logger.warning("%s (see %s).", skips.summary(), skips.path)
    logger.info("Transcribe with: ta infer checkpoint=%s audio=FILE", folder.path / "final.pt")
    return state.best["value"] if state.best else None
