"""Build each part of a run from the configuration: accelerator, models, data, batches, optimizer, evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, TorchDynamoPlugin
from torch import nn

from ..config import Config, DatasetConfig
from ..data.contexts import ContextReader
from ..data.loader import Batch, ClipDataset, eval_loader, train_loader
from ..data.no_speech import no_speech_source
from ..data.plan import SamplingPlan
from ..data.skips import SkipLog
from ..data.sources import Source, at_speeds, open_sources
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, evaluate
from ..model.attention import choose_attention
from ..model.build import build_speech_llm
from ..model.checkpointed import describe_models
from ..model.device import FROZEN_DTYPES, choose_device, choose_precision
from ..model.sharded import shard
from ..model.speech_llm import SpeechLLM
from ..progress import Progress
from ..text import is_unspaced
from .console import format_count
from .memory import is_out_of_memory
from .optimizer import build_optimizer
from .processes import Processes
from .provenance import describe_run
from .state import seed_step

logger = logging.getLogger(__name__)

# Environment variables of a launcher that are ignored, and our setting that applies instead.
LAUNCHER = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "training.gradient_accumulation_steps",
    "ACCELERATE_GRADIENT_CLIPPING": "training.gradient_clip_norm",
    "ACCELERATE_DYNAMO_BACKEND": "hardware.compile",
}
REFUSED = {  # variables for options that would replace the run's own step, and the options
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
}


def start_accelerator(config: Config) -> Accelerator:
    """Choose and log device and precision; then only the first process logs more than errors."""
    hardware = config.hardware
    for name, option in REFUSED.items():
        if os.environ.get(name, "false").lower() in ("1", "true", "yes"):
            raise UserError(f"accelerate launch {option} is not supported; leave it out and set hardware.fsdp=true.")
    ignore_launcher()
    device = choose_device(hardware.device)
    precision = choose_precision(hardware.mixed_precision, device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if hardware.num_threads is not None:
        torch.set_num_threads(hardware.num_threads)
    if not torch.distributed.is_initialized():  # a second run in the same process (multirun) may differ
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=device.type == "cpu",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # `Trainer` accumulates itself
        dynamo_plugin=TorchDynamoPlugin(backend="no"),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=hardware.setup_timeout_minutes))],
    )
    if hardware.fsdp and accelerator.num_processes > 1 and config.training.optimizer == "muon":
        raise UserError("training.optimizer=muon needs whole matrices, which hardware.fsdp=true divides; use adamw.")
    if not accelerator.is_main_process:
        logging.getLogger("tiny_audio").setLevel(logging.ERROR)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    native = (device.type, precision, hardware.mixed_precision) == ("cpu", "bf16", "auto")
    why = " (which this CPU multiplies natively)" * native
    logger.info("Device: %s, precision: %s%s", name, "fp32" if precision == "no" else precision, why)
    if precision == "fp16":
        logger.warning(
            "fp16: the gradient of LLMs of this family often overflows; such steps are skipped. Prefer bf16."
        )
    return accelerator


def ignore_launcher() -> None:
    """Warn of settings of `accelerate launch` and of its configuration file that have no effect."""
    neutral = ("", "1", "no", "none", "false", "default")
    for name, setting in LAUNCHER.items():
        if os.environ.get(name, "").lower() not in neutral:
            logger.warning("%s=%s of the launcher is ignored; set %s instead.", name, os.environ[name], setting)


def share_out_batch(config: Config, num_processes: int) -> None:
    """Log how many clips a step has. If `training.total_batch_size` is given, set the accumulation to match it.

    Raises:
        UserError: that number is not a multiple of `batch_size` times the number of processes.
    """
    training = config.training
    at_once, total = training.batch_size * num_processes, training.total_batch_size
    if total is not None:
        if total % at_once:
            each = f"{num_processes} processes x training.batch_size={training.batch_size}"
            raise UserError(
                f"training.total_batch_size={total} is not a multiple of {each} = {at_once}; change one of them."
            )
        if training.gradient_accumulation_steps not in (1, total // at_once):
            raise UserError(
                f"training.total_batch_size={total} asks for {total // at_once} accumulations, and "
                f"training.gradient_accumulation_steps={training.gradient_accumulation_steps}; leave the latter out."
            )
        training.gradient_accumulation_steps = total // at_once
    accumulated = training.gradient_accumulation_steps
    logger.info(
        "Clips per step: %d (%d process%s x batch of %d x %d accumulated)",
        at_once * accumulated,
        num_processes,
        "es" * (num_processes > 1),
        training.batch_size,
        accumulated,
    )


def load_models(config: Config, accelerator: Accelerator, processes: Processes) -> SpeechLLM:
    """Load the frozen models and make the projector, the same on all processes, on their device, ready to run."""
    seed_step(config.training.seed, -1, 0)
    with processes.first_ahead():
        model = build_speech_llm(config.model, FROZEN_DTYPES[accelerator.mixed_precision])
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    logger.info("Trainable parameters: %s", format_count(trainable))
    logger.info("Frozen parameters: %s", format_count(frozen))
    hardware = config.hardware
    model.to(accelerator.device)
    with accelerator.autocast():  # as in training: a kernel does not support every precision
        attention = choose_attention(model, hardware.attention)
        model.decoder.use_cuda_graph(hardware.cuda_graph)
    logger.info("Attention: %s%s", attention, ", compiled" * hardware.compile)
    if hardware.compile:
        model.compile_layers()
    return model


def load_data(config: Config, processes: Processes) -> tuple[list[Source], list[Source]]:
    """Open the training and the evaluation sources."""
    data, seed = config.data, config.training.seed
    limit = "" if data.max_samples is None else f" (max {data.max_samples} samples)"
    logger.info("Loading dataset%s...", limit)

    def open_all(entries: list[DatasetConfig], limit: int | None, evaluation: bool = False) -> list[Source]:
        with processes.first_ahead():
            cache_dir, data_dir = Path(config.paths.cache_dir), Path(config.paths.data_dir)
            return open_sources(
                entries,
                data,
                cache_dir,
                limit=limit,
                seed=seed,
                data_dir=data_dir,
                evaluation=evaluation,
                as_drawn=not evaluation,
            )

    sources = at_speeds(open_all(data.datasets, data.max_samples), data)
    if data.no_speech_share:
        sources.append(no_speech_source(sources, data, seed))
    elif lets_speech_through(config):
        logger.warning(
            "model.search.speech_nats tells speech from noise only for a model that has heard noise, and "
            "data.no_speech_share is 0: text may be written from noise. Set model.search.speech_nats=null."
        )
    eval_sources = open_all(data.eval_datasets, data.max_eval_samples, True) if data.eval_datasets else []
    for kind, opened in (("training", sources), ("evaluation", eval_sources)):
        for source in opened:
            hours = "read as they are drawn," if source.hours is None else f"{source.hours:.2f} h"
            known = source.num_contexts
            text = "" if known == 0 else f", {'a column' if known is None else format(known, ',')} of contexts"
            logger.info("%s: %s clips, %s for %s%s", source.name, f"{len(source):,}", hours, kind, text)
    return sources, eval_sources


def lets_speech_through(config: Config) -> bool:
    """Whether `search.speech_nats` decides what a new model writes."""
    model, search = config.model, config.model.search
    given = model.checkpoint or model.projector_checkpoint or config.training.resume_from_checkpoint
    return given is None and search.beams > 1 and search.max_nats is not None and search.speech_nats is not None


def describe(config: Config, model: SpeechLLM, sources: Sequence[Source], accelerator: Accelerator) -> dict[str, Any]:
    """Return what a checkpoint records of its run: settings, models, machine, origin and size of each corpus."""
    corpora = {
        source.name: {
            "origin": source.origin,
            "clips": len(source),
            "hours": None if source.hours is None else round(source.hours, 3),
            "weight": source.weight,
            "left_out": len(source.skipped),
        }
        for source in sources
    }
    return {
        "config": config.to_dict(),
        "models": describe_models(model, config.model),
        "corpora": corpora,
        "clip_seconds": clip_seconds(sources, config.data.temperature),
        "contexts": contexts_read(config, sources),
        "run": describe_run(accelerator.device, accelerator.mixed_precision, accelerator.num_processes),
    }


def contexts_read(config: Config, sources: Sequence[Source]) -> int | None:
    """Return how many clips have a context that is read; None if this is not known before they are drawn."""
    counts = [source.num_contexts for source in sources]
    if config.data.context_dropout == 1:
        return 0
    return None if None in counts else sum(count for count in counts if count is not None)


def clip_seconds(sources: Sequence[Source], temperature: float) -> dict[str, float] | None:
    """Return the lengths in seconds of the drawn clips with speech: `median`, `p95` (95 of 100 are no longer), `max`.

    None if the lengths in some corpus are not known before its clips are drawn.
    """
    spoken = [source for source in sources if source.has_speech]
    if any(source.estimated or not isinstance(source.durations, np.ndarray) for source in spoken):
        return None
    seconds = np.concatenate([source.durations for source in spoken])
    chances = np.concatenate(
        [np.full(len(source), source.weight ** (1 / temperature) / len(source)) for source in spoken]
    )
    order = np.argsort(seconds)
    below = chances[order].cumsum() / chances.sum()
    places = np.searchsorted(below, (0.5, 0.95)).clip(max=len(order) - 1)
    median, p95 = seconds[order][places].tolist()
    return {"median": round(median, 3), "p95": round(p95, 3), "max": round(float(seconds.max()), 3)}


def build_plan(config: Config, sources: Sequence[Source]) -> SamplingPlan:
    """Return the plan of the clips that the run draws from its training sources."""
    return SamplingPlan(
        [source.durations for source in sources],
        [source.weight for source in sources],
        config.training.batch_size,
        config.training.seed,
        config.data.temperature,
        [source.blocks for source in sources],
    )


def agree_on_plan(config: Config, sources: Sequence[Source], processes: Processes) -> SamplingPlan:
    """Return the plan of `build_plan`, and log what it mixes.

    Raises:
        UserError: the processes have different plans.
    """
    plan = build_plan(config, sources)
    if len(sources) > 1:
        shares = (f"{source.name} {share:.1%}" for source, share in zip(sources, plan.shares, strict=True))
        logger.info("Mixture, shares of the clips drawn: %s", ", ".join(shares))
    hint = (
        "the same files have to be readable by all of them (skipped.jsonl and `ta data check` name those that are not)."
    )
    processes.require_same(plan.fingerprint, "training clips", hint)
    return plan


def open_batches(
    config: Config, plan: SamplingPlan, dataset: ClipDataset, batches: range, accelerator: Accelerator
) -> Iterator[Batch]:
    """Return this process's share of some global batches of the plan."""
    loader = train_loader(
        plan,
        dataset,
        start_batch=batches.start,
        stop_batch=batches.stop,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=usable_workers(config.data.num_workers),
        prefetch_factor=config.data.prefetch_factor,
        pin_memory=accelerator.device.type == "cuda",
    )
    return iter(loader)


def usable_workers(num_workers: int) -> int:
    """Return `data.num_workers`, at most one for each core: more would only take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_workers, cores)


def distribute(config: Config, model: SpeechLLM, accelerator: Accelerator, output_gain: float) -> tuple[nn.Module, Any]:
    """Copy or shard the model over the processes, and make the optimizer for this process's weights."""
    several, training = accelerator.num_processes > 1, config.training

    def optimizer() -> torch.optim.Optimizer:
        precision = accelerator.mixed_precision
        return build_optimizer(model, training, training.learning_rate, precision, output_gain=output_gain)

    if config.hardware.fsdp and several:
        shard(model)
        return model, accelerator.prepare(optimizer())
    if config.hardware.fsdp:
        logger.warning("hardware.fsdp=true: with one process there is nothing to shard; start several with torchrun.")
    prepared: tuple[nn.Module, Any] = accelerator.prepare(model, optimizer())
    return prepared


def build_evaluation(
    config: Config, model: SpeechLLM, sources: list[Source], accelerator: Accelerator, skips: SkipLog
) -> Callable[..., Evaluation] | None:
    """Return a function that evaluates the current model, or None if there is no evaluation set."""
    if not sources:
        logger.warning("data.eval_datasets is empty: there will be no WER, and the last checkpoint counts as the best.")
        return None
    prompt = model.decoder.prompt
    batches = eval_loader(
        ClipDataset(sources, model.tokenize, config.data, contexts=ContextReader(prompt.context_ids)),
        config.training.eval_batch_size,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=min(usable_workers(config.data.num_workers), 2),
        prefetch_factor=config.data.prefetch_factor,
    )
    references = [text for source in sources for text in source.texts]
    for source in sources:
        if is_unspaced(source.texts):
            text = (
                "%s is written without spaces between words: CER is the figure; choose by training.metric_for_best=cer."
            )
            logger.warning(text, source.name)

    def run(should_stop: Callable[[], bool], assess: Any = None) -> Evaluation:
        limit = config.training.max_new_tokens
        quiet = not accelerator.is_main_process
        progress = Progress("Evaluating", -(-len(references) // accelerator.num_processes), "clips", quiet)
        with closing(progress):
            counted = progress.over(batches, lambda batch: len(batch) + len(batch.skipped))
            result = evaluate(model, counted, references, accelerator, limit, should_stop, assess)
        if result.skipped:
            skips.note(result.skipped)
            logger.warning("%d clips could not be read; all their words count as errors.", len(result.skipped))
        if result.num_cut_off:
            text = "%d of %d transcripts were cut off by the limit of tokens (training.max_new_tokens, 25 a second)."
            logger.info(text, result.num_cut_off, len(references))
        return result

    return run


@contextmanager
def explaining_out_of_memory() -> Iterator[None]:
    """Turn an out-of-memory error into one line that says what to make smaller."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the memory of the device is too small. Halve training.batch_size and double "
            "training.gradient_accumulation_steps (if it happened in an evaluation: training.eval_batch_size), or "
            "lower data.max_audio_length; the same command resumes from the newest checkpoint."
        ) from None
