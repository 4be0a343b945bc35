"""A whole run, in order: device, models, data, optimizer, the checkpoint to resume from; then the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..config import Config
from ..data.access import check_reach
from ..data.augment import open_augmenter
from ..data.contexts import ContextReader
from ..data.loader import ClipDataset
from ..data.plan import SamplingPlan
from ..data.sentences import TextDataset
from ..data.skips import SkipLog
from ..errors import UserError
from ..evaluation.evaluate import Evaluation
from ..evaluation.evaluation_set import evaluation_fingerprint, write_evaluation_clips
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
    share_out_batch,
    start_accelerator,
    usable_workers,
)
from .checkpoint import FINAL_FILE, CheckpointFolder, load_checkpoint
from .console import Console, format_metric, run_log
from .ctc_warmup import CTCWarmup, calibrate, calibration_draws, warmup_batches, warmup_due, warmup_position
from .feature_cache import cache_features, clips_to_read
from .loop import Trainer
from .preflight import preflight
from .processes import Processes, leave_group
from .ranking import rank, rank_saved, summarize
from .resume import (
    batches_left,
    claim_folder,
    find_start,
    pin_revisions,
    restore,
    set_aside,
    starts_afresh,
    warn_of_another_plan,
)
from .state import RunState
from .texts import check_language_model, open_texts, prepare_search
from .tracking import Trackers, check_installed

logger = logging.getLogger(__name__)


def train(config: Config) -> float | None:
    """Train as `config` says, from the newest checkpoint if there is one.

    Returns:
        The best value of `training.metric_for_best`, for sweeps; None without an evaluation set.

    Raises:
        UserError: the user can correct something; the message says what.
        KeyboardInterrupt, SystemExit: a signal stopped the run; its state is saved.
    """
    check_installed(config.logging.trackers)
    accelerator = start_accelerator(config)
    processes = Processes(accelerator)
    output = Path(config.paths.output_dir) / config.experiment
    best, failure = None, None
    try:
        share_out_batch(config, processes.count)
        agree_on_settings(config, accelerator, processes)
        with claim_folder(output, processes) as folder, run_log(output / "train.log", write=processes.is_main):
            best = train_in(folder, output, config, accelerator, processes)
    except (UserError, KeyboardInterrupt, SystemExit) as error:
        if accelerator.num_processes == 1:
            raise
        # Without its frames: they hold the model, and freeing it after its process group would block forever.
        failure = error.with_traceback(None)
        failure.__context__ = None
    leave_group(accelerator, together=failure is None)
    if failure is not None:
        raise failure
    return best


@dataclass
class Parts:
    """The parts of a run before its first step.

    Attributes:
        config, accelerator, processes, folder, output: of the run.
        model: on its device, with the weights that the run starts or resumes with; not wrapped yet.
        plan, dataset: which clips are drawn, and what reads them.
        texts: what reads only their transcripts, for a decoder that reads no audio; None: it does, or has no steps.
        batches: the global batches of the plan that are left.
        evaluate: see `build_evaluation`.
        description: see `describe`.
        skips: clips that could not be used.
        state: where the run stands.
        saved: the checkpoint that the run resumes from, until everything is restored.
        warming: whether steps of the CTC warm-up are left.
    """

    config: Config
    accelerator: Accelerator
    processes: Processes
    folder: CheckpointFolder
    output: Path
    model: SpeechLLM
    plan: SamplingPlan
    dataset: ClipDataset
    texts: TextDataset | None
    batches: range
    evaluate: Callable[..., Evaluation] | None
    description: dict[str, Any]
    skips: SkipLog
    state: RunState
    saved: dict[str, Any] | None
    warming: bool


def train_in(
    folder: CheckpointFolder, output: Path, config: Config, accelerator: Accelerator, processes: Processes
) -> float | None:
    """Train in an output folder that this run has claimed: see `train`."""
    parts = open_parts(folder, output, config, accelerator, processes)
    state, position = parts.state, None
    if parts.saved is not None:
        position = warmup_position(config, state) if parts.warming else state.step
    with (
        closing(Trackers(config, output, position, state.wandb_run_id, processes.is_main)) as trackers,
        explaining_out_of_memory(),
    ):
        state.wandb_run_id = trackers.run_id
        if parts.warming:
            warm_up(parts, trackers)
        train_steps(parts, trackers)
    return finish(config, folder, state, parts.skips, accelerator)


def open_parts(
    folder: CheckpointFolder, output: Path, config: Config, accelerator: Accelerator, processes: Processes
) -> Parts:
    """Load and check everything that the run needs, and say what it resumes from."""
    training = config.training
    check_language_model(config)
    start, saved = find_start(config, folder, processes)
    if saved is None:
        check_named_checkpoints(config)
    else:
        pin_revisions(config, saved)
    with processes.first_ahead():
        if processes.is_main:
            check_reach(config)
    augmenter = open_augmenter(config.data, training.seed)
    model = load_models(config, accelerator, processes)
    sources, eval_sources = load_data(config, processes)
    plan = agree_on_plan(config, sources, processes)
    if saved is not None and starts_afresh(config, saved, start, plan, sources):
        set_aside(saved, start, folder, processes)
        start, saved = "", None
    share = config.data.max_skipped_share
    skips = SkipLog(output / "skipped.jsonl", sources + eval_sources, share, write=processes.is_main)
    if skips.counts:
        logger.warning("%s (see %s).", skips.summary(), skips.path)

    batches, warming = batches_left(training, saved, plan, processes.count), warmup_due(config, saved)
    prompt = model.decoder.prompt
    contexts = ContextReader(prompt.context_ids, config.data.context_dropout, training.seed)
    dataset = ClipDataset(sources, prompt.target_ids, config.data, augmenter, contexts)
    texts = open_texts(config, model, plan, dataset)
    if config.data.cache_features:
        heard = batches if texts is None else range(0)
        read = range(heard.start, max(heard.stop, warmup_batches(config, 0, processes).stop if warming else 0))
        with explaining_out_of_memory():
            first = calibration_draws(plan) if warming or saved is None else []
            wanted = clips_to_read(plan, read, eval_sources, first)
            workers = usable_workers(config.data.num_workers)
            cache_features(config, model.encoder, sources + eval_sources, wanted, accelerator, workers)
    state = RunState.load(saved["state"]) if saved is not None else RunState()
    with explaining_out_of_memory():
        preflight(config, model, plan, dataset, eval_sources, folder, state.step, accelerator)
        initialize_weights(config, model, saved, start, dataset, plan, state)
    state.evaluate_on(evaluation_fingerprint(eval_sources))
    with processes.first_ahead():
        if processes.is_main:
            folder.write_config(config.to_dict())
            write_evaluation_clips(eval_sources, output)
    evaluate = build_evaluation(config, model, eval_sources, accelerator, skips)
    description = describe(config, model, sources, accelerator)
    return Parts(
        *(config, accelerator, processes, folder, output, model, plan, dataset, texts, batches, evaluate, description),
        *(skips, state, saved, warming),
    )


def warm_up(parts: Parts, trackers: Trackers) -> None:
    """Run the steps of the CTC warm-up that are left.

    Raises:
        KeyboardInterrupt, SystemExit: a signal stopped it; its state is saved.
    """
    begun = parts.saved["ctc_warmup"] if parts.saved is not None else None
    warn_of_another_plan(parts.state, parts.plan)
    parts.state.plan_fingerprint = parts.plan.fingerprint
    parts.processes.start_training(parts.config.hardware.training_timeout_minutes)
    warmup = CTCWarmup(
        *(parts.config, parts.accelerator, parts.processes, parts.model, parts.plan, parts.dataset, parts.evaluate),
        *(parts.folder, parts.description, parts.skips, trackers, parts.state, begun),
    )
    if not warmup.run():
        logger.info("Saved in the warm-up (step %d); the same command continues from there.", parts.state.ctc_step)
        warmup.stop.leave()


def train_steps(parts: Parts, trackers: Trackers) -> None:
    """Run the steps that are left, and say that training is done.

    Raises:
        KeyboardInterrupt, SystemExit: a signal stopped the run; its state is saved.
    """
    config, accelerator, model, plan, state = parts.config, parts.accelerator, parts.model, parts.plan, parts.state
    training, processes = config.training, parts.processes
    if parts.texts is not None:
        model.projector.requires_grad_(False)
    if model.ctc is not None:
        projector_trains = parts.texts is None and not config.model.freeze_projector
        model.ctc_weight = training.ctc_loss_weight if projector_trains else 0.0
        model.ctc.requires_grad_(model.ctc_weight > 0)
    if state.step >= training.max_steps and (parts.evaluate is None or state.evaluated_step == state.step):
        logger.info("Step %d: nothing is left to train; raise training.max_steps to continue.", state.step)
        if processes.is_main:  # the metric may have changed
            skipped = parts.skips.counts.total()
            parts.folder.write_state(summarize(config, state, parts.folder, parts.description, skipped))
        return
    prepared, optimizer = distribute(config, model, accelerator, state.output_gain)
    if parts.saved is not None and parts.saved["optimizer"] is not None:
        restore(parts.saved, state, accelerator, optimizer, plan, parts.batches.start)
    elif not parts.warming:  # after the warm-up, before the first save
        warn_of_another_plan(state, plan)
    parts.saved = None  # releases the file
    state.plan_fingerprint = plan.fingerprint
    per_step = training.batch_size * training.gradient_accumulation_steps * processes.count
    epochs = plan.epoch(training.max_steps * per_step)
    with closing(Console(training.max_steps, epochs, state.step, quiet=not processes.is_main)) as console:
        trainer = Trainer(
            config=config,
            accelerator=accelerator,
            model=prepared,
            optimizer=optimizer,
            batches=open_batches(config, plan, parts.texts or parts.dataset, parts.batches, accelerator),
            plan=plan,
            evaluate=parts.evaluate,
            folder=parts.folder,
            description=parts.description,
            skips=parts.skips,
            trackers=trackers,
            console=console,
            state=state,
            processes=processes,
        )
        processes.start_training(config.hardware.training_timeout_minutes)
        logger.info("Starting training...")
        finished = trainer.run()
    if not finished:
        logger.info("Saved at step %d; the same command continues from there.", state.step)
        trainer.stop.leave()
    logger.info("Training completed!")
    logger.info("Total time: %s", format_time(state.train_seconds))
    if state.audio_seconds:
        logger.info("Trained on %s", state.corpora_line())


def agree_on_settings(config: Config, accelerator: Accelerator, processes: Processes) -> None:
    """Refuse to train if the processes were started with different settings, or chose different precisions.

    Paths, corpora and devices may differ: machines are not all alike.

    Raises:
        UserError: they differ; raised on all processes.
    """
    precision = f"hardware.mixed_precision={accelerator.mixed_precision} training={asdict(config.training)}"
    hint = "start all of them with the same training.* and hardware.mixed_precision, the latter not auto."
    processes.require_same(precision, "training settings and precision", hint)


def check_named_checkpoints(config: Config) -> None:
    """Refuse a checkpoint to start from that does not exist, or from which no step is left, before anything slow is
    loaded.
    """
    for key in ("checkpoint", "projector_checkpoint"):
        path = getattr(config.model, key)
        if path is None:
            continue
        if not Path(path).is_file():
            raise UserError(f"model.{key}={path}: there is no such file.")
        if not config.training.max_steps:
            raise UserError(
                f"model.{key}={path} trains nothing with training.max_steps=0: a projector that was trained gets no "
                "CTC warm-up. Set training.max_steps, or leave the checkpoint out."
            )


def initialize_weights(
    config: Config,
    model: SpeechLLM,
    saved: dict[str, Any] | None,
    path: str,
    dataset: ClipDataset,
    plan: SamplingPlan,
    state: RunState,
) -> None:
    """Load the weights that train: from the resumed run, from a named checkpoint, or new ones.

    A new projector is scaled to the decoder's own embeddings (see `calibrate`). New adapters have no effect yet.
    """
    given = config.model.checkpoint or config.model.projector_checkpoint
    if saved is not None:
        if given is not None:
            logger.info("%s is not read again: the run resumes from its own checkpoint.", given)
        logger.info("Loading model state...")
        load_weights(model, saved, config.model, path)
    elif given is not None:
        only_projector = config.model.checkpoint is None
        logger.info("Loading %s of %s...", "the projector" if only_projector else "all weights", given)
        origin = load_checkpoint(given)
        load_weights(model, origin, config.model, given, only_projector)
        state.output_gain = RunState.load(origin.get("state", {})).output_gain
    else:
        calibrate(model, plan, dataset)
    if saved is None:
        prepare_search(config, model, plan, dataset)
    model.check_search()


def finish(
    config: Config, folder: CheckpointFolder, state: RunState, skips: SkipLog, accelerator: Accelerator
) -> float | None:
    """Write `final.pt`, print the results, and return the best value.

    Raises:
        UserError: there is no room for `final.pt`.
    """
    last = folder.file(state.step)
    if accelerator.is_main_process and last.is_file():  # the run may have started from a checkpoint elsewhere
        try:
            folder.finish(state.step)
        except OSError as error:
            why = f"cannot be written ({error.strerror}); {last} holds more."
            raise UserError(f"{folder.path / FINAL_FILE} {why}") from None
    if state.history:
        name = config.training.metric_for_best
        logger.info("Final WER: %.1f%%", 100 * state.history[-1]["wer"])
        if saved := rank_saved(state.history, config.training, folder):
            value = format_metric(name, saved[0][name])
            logger.info("Best checkpoint: %s (%s: %s)", folder.file(int(saved[0]["step"])), name.upper(), value)
    if skips.counts:
        logger.warning("%s (see %s).", skips.summary(), skips.path)
    logger.info("Transcribe with: ta infer checkpoint=%s audio=FILE", folder.path / FINAL_FILE)
    ranked = rank(state.history, config.training)
    return ranked[0][config.training.metric_for_best] if ranked else None
