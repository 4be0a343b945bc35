"""A whole run, composed in order: device, models, data, optimizer, what it goes on from; then the loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from ..config import Config, DatasetConfig
from ..data.loader import Batch, ClipDataset, eval_loader, train_loader
from ..data.plan import SamplingPlan
from ..data.skips import SkipLog
from ..data.sources import Source, open_sources
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, evaluate
from ..model.attention import choose_attention
from ..model.checkpointed import describe_models, load_weights
from ..model.device import FROZEN_DTYPES, choose_device, choose_precision
from ..model.speech_llm import SpeechLLM, build_speech_llm
from .checkpoint import CheckpointFolder, load_checkpoint
from .console import Console, format_count, format_metric, format_time
from .feature_cache import cache_features
from .loop import Trainer
from .resume import find_start, pin_revisions, restore
from .state import RunState, seed_step
from .trackers import check_installed
from .tracking import Trackers

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs in one folder are not found out there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


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
    with claim_folder(output, accelerator) as folder:
        best = train_in(folder, output, config, accelerator)
    if accelerator.num_processes > 1:  # together: the threads of a group that is left to the interpreter may abort it
        accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()
    return best


def train_in(folder: CheckpointFolder, output: Path, config: Config, accelerator: Accelerator) -> float | None:
    """Train with the output folder in hand: see `train`."""
    training, hardware, is_main = config.training, config.hardware, accelerator.is_main_process
    with accelerator.main_process_first():  # it may move checkpoints
        start, saved = find_start(config, folder)
    if saved is None:
        check_named_checkpoints(config)
    else:
        pin_revisions(config, saved)
    model = load_models(config, accelerator)
    sources, eval_sources = load_data(config, accelerator)
    durations, weights = [source.durations for source in sources], [source.weight for source in sources]
    plan = SamplingPlan(durations, weights, training.batch_size, training.seed)
    if saved is not None and belongs_to_another_run(config, saved, plan):
        logger.warning("%s is of a finished run on other data: starting afresh, its checkpoints are moved away.", start)
        with accelerator.main_process_first():
            folder.set_aside(after=-1)
        start, saved = "", None
    share = config.data.max_skipped_share
    skips = SkipLog(output / "skipped.jsonl", sources + eval_sources, share, write=is_main)
    if skips.counts:
        logger.warning("%s (see %s).", skips.summary(), skips.path)

    model.to(accelerator.device)
    logger.info("Attention: %s%s", choose_attention(model, hardware.attention), ", compiled" * hardware.compile)
    if hardware.compile:
        model.compile_layers()
    if config.data.cache_features:
        with explaining_out_of_memory():
            workers = usable_workers(config.data.num_workers)
            cache_features(config, model.encoder, sources + eval_sources, accelerator, workers)
    dataset = ClipDataset(sources, model.decoder.prompt.target_ids, config.data)
    initialise_weights(config, model, saved, start, dataset, plan)
    optimizer = build_optimizer(config, model)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    state = restore(saved, accelerator, optimizer, plan) if saved else RunState()
    if state.step >= training.max_steps and (not eval_sources or state.evaluated_step == state.step):
        logger.info("Step %d: nothing is left to train; raise training.max_steps to go on.", state.step)
        return finish(config, folder, state, skips, accelerator)
    state.plan_fingerprint = plan.fingerprint

    if is_main:
        folder.write_config(config.to_dict())
    per_step = training.batch_size * training.gradient_accumulation_steps * accelerator.num_processes
    epochs = plan.epoch(training.max_steps * per_step)
    with (
        closing(Trackers(config, output, state.step if saved else -1, state.wandb_run_id, is_main)) as trackers,
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
            evaluate=build_evaluation(config, model, eval_sources, accelerator, skips),
            folder=folder,
            description={"config": config.to_dict(), "models": describe_models(model, config.model)},
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


@contextmanager
def explaining_out_of_memory() -> Iterator[None]:
    """Turn a device that is too small into one line that says what to make smaller."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "the memory of the device is too small. Halve training.batch_size and double "
            "training.gradient_accumulation_steps (if it happened in an evaluation: training.eval_batch_size), or "
            "lower data.max_audio_length; the same command goes on from the newest checkpoint."
        ) from None


def start_accelerator(config: Config) -> Accelerator:
    """Choose device and precision, and say so; other processes than the first then stay silent."""
    hardware = config.hardware
    device = choose_device(hardware.device)
    precision = choose_precision(hardware.mixed_precision, device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if hardware.num_threads is not None:
        torch.set_num_threads(hardware.num_threads)
    if not torch.distributed.is_initialized():  # a second run in the same process (multirun) may differ
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    if not accelerator.is_main_process:
        logging.getLogger("tiny_audio").setLevel(logging.ERROR)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    logger.info("Device: %s, precision: %s", name, "fp32" if precision == "no" else precision)
    if precision == "fp16":
        logger.warning(
            "fp16: the gradient of LLMs of this family often overflows; such steps are left out. Prefer bf16."
        )
    return accelerator


def load_models(config: Config, accelerator: Accelerator) -> SpeechLLM:
    """Load the frozen models and make the projector, the same on all processes."""
    seed_step(config.training.seed, -1, 0)
    with accelerator.main_process_first():
        model = build_speech_llm(config.model, FROZEN_DTYPES[accelerator.mixed_precision])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    logger.info("Trainable parameters: %s", format_count(trainable))
    logger.info("Frozen parameters: %s", format_count(frozen))
    return model


def load_data(config: Config, accelerator: Accelerator) -> tuple[list[Source], list[Source]]:
    """Open the training and the evaluation sources."""
    data, seed = config.data, config.training.seed
    limit = "" if data.max_samples is None else f" (max {data.max_samples} samples)"
    logger.info("Loading dataset%s...", limit)

    def open_all(entries: list[DatasetConfig], limit: int | None) -> list[Source]:
        with accelerator.main_process_first():
            return open_sources(entries, data, Path(config.paths.cache_dir), limit=limit, seed=seed)

    sources = open_all(data.datasets, data.max_samples)
    eval_sources = open_all(data.eval_datasets, data.max_eval_samples) if data.eval_datasets else []
    for kind, opened in (("training", sources), ("evaluation", eval_sources)):
        for source in opened:
            hours = float(source.durations.sum()) / 3600
            logger.info("%s: %s clips, %.2f h for %s", source.name, f"{len(source):,}", hours, kind)
    return sources, eval_sources


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
        drawn = (dataset.__getitems__(plan.batch(number)) for number in range(10))  # whole batches may be unreadable
        batch = next((batch for batch in drawn if len(batch)), None)
        if batch is not None:
            frames, lengths = model.encode(batch)
            model.projector.calibrate(frames.float(), lengths, model.decoder.embedding_rms)


def open_batches(
    config: Config, plan: SamplingPlan, dataset: ClipDataset, state: RunState, accelerator: Accelerator
) -> Iterator[Batch]:
    """Return this process's batches, from where the run stands on."""
    loader = train_loader(
        plan,
        dataset,
        start_batch=state.batches,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=usable_workers(config.data.num_workers),
        prefetch_factor=config.data.prefetch_factor,
        pin_memory=accelerator.device.type == "cuda",
    )
    return iter(loader)


def usable_workers(num_workers: int) -> int:
    """Return `data.num_workers`, but no more than there are cores: they would only take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_workers, cores)


def build_optimizer(config: Config, model: SpeechLLM) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101) over the weights that train; biases and norms do not decay.

    Fused: one kernel for all weights, which leaves a step out where a flag on the device says so.
    """
    training = config.training
    scale = (training.decoder_learning_rate or training.learning_rate) / training.learning_rate
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            decays = weight.ndim > 1 and not name.endswith("bias")
            groups.setdefault((name.split(".")[0], decays), []).append(weight)
    described = [
        {
            "params": weights,
            "weight_decay": training.weight_decay if decays else 0.0,
            "lr_scale": scale if part == "decoder" else 1.0,
        }
        for (part, decays), weights in groups.items()
    ]
    betas = (training.adam_beta1, training.adam_beta2)
    return torch.optim.AdamW(described, training.learning_rate, betas, fused=True)


def build_evaluation(
    config: Config, model: SpeechLLM, sources: list[Source], accelerator: Accelerator, skips: SkipLog
) -> Callable[[Callable[[], bool]], Evaluation] | None:
    """Return what evaluates the model as it stands, or None where there is nothing to evaluate on."""
    if not sources:
        logger.warning("data.eval_datasets is empty: there will be no WER, and the last checkpoint counts as the best.")
        return None
    batches = eval_loader(
        ClipDataset(sources, model.decoder.prompt.target_ids, config.data),
        config.training.eval_batch_size,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=min(usable_workers(config.data.num_workers), 2),
        prefetch_factor=config.data.prefetch_factor,
    )
    references = [text for source in sources for text in source.texts]

    def run(should_stop: Callable[[], bool]) -> Evaluation:
        result = evaluate(model, batches, references, accelerator, config.training.max_new_tokens, should_stop)
        if result.skipped:
            skips.note(result.skipped)
            logger.warning("%d clips could not be read; what was said in them counts as wrong.", len(result.skipped))
        return result

    return run


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
