"""What would end or spoil a run hours after its start, found out before its first step.

Disk and data are looked at in every run; memory and speed, which cost some passes through the model, only where a run
is long enough for that not to matter. Nothing of it leaves a trace: weights, gradients, generators and the order of the
data are as they were, so that the run is the one without.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from ...config import Config
from ...data.loader import ClipDataset
from ...data.plan import SamplingPlan
from ...data.sources import Source
from ...errors import UserError
from ...model.speech_llm import SpeechLLM
from ..build import usable_workers
from ..checkpoint import CheckpointFolder
from .disk import check_disk, checkpoint_bytes
from .findings import Findings
from .memory import Verdict, evaluation_trial, judge, leaving_no_trace, training_trial
from .readable import audio_per_second, check_readable, read_samples
from .speed import check_speed, local_processes, measure_throughput

logger = logging.getLogger(__name__)

MIN_STEPS = 100  # left to train; a shorter run meets its longest batch soon enough

T = TypeVar("T")


def preflight(
    config: Config,
    model: SpeechLLM,
    plan: SamplingPlan,
    dataset: ClipDataset,
    eval_sources: Sequence[Source],
    folder: CheckpointFolder,
    step: int,
    accelerator: Accelerator,
) -> None:
    """Find out whether memory, disk and data will do, and say so in a line or two.

    All processes do the same, and learn of each other's findings. The model is not wrapped for them yet, so that
    nothing in it waits for another process: one that runs out of memory leaves no other hanging.

    Args:
        config: the run's settings.
        model: on its device, before `accelerator.prepare`.
        plan: of the training data.
        dataset: the training clips.
        eval_sources: the evaluation clips; none, where there is no evaluation.
        folder: where checkpoints will go.
        step: that the run goes on from.
        accelerator: for mixed precision and processes.

    Raises:
        UserError: the run cannot come to its end like this; the message says what will do.
    """
    left = config.training.max_steps - step
    if not config.training.preflight or left <= 0:
        return
    findings = Findings()
    if accelerator.is_main_process:  # it alone writes
        size = checkpoint_bytes(model)
        findings += check_disk(folder, config.training, step, bool(eval_sources), size)
    seed = config.training.seed
    samples = read_samples(dataset, seed)
    eval_dataset = ClipDataset(eval_sources, dataset.tokenize, config.data, contexts=dataset.contexts)
    eval_samples = read_samples(eval_dataset, seed)
    findings += check_readable(samples, eval_samples, plan.shares.tolist(), config.data.max_skipped_share)
    _tell(_agree(findings))
    # A model that is to be sharded is still whole here; what it will take is not what a trial would.
    if left < MIN_STEPS or (config.hardware.fsdp and accelerator.num_processes > 1):
        return
    _tell(_try_out(config, model, dataset, eval_dataset, accelerator))
    if accelerator.device.type != "cpu":  # there, step and workers share the cores: neither's speed is its own
        rate = audio_per_second(samples, plan.shares.tolist())
        with leaving_no_trace(model):
            throughput = measure_throughput(model, plan, accelerator)
        cores = usable_workers(1 << 20) / local_processes()
        _tell(_agree(check_speed(rate, throughput, config.data, cores)))


def _try_out(
    config: Config,
    model: SpeechLLM,
    dataset: ClipDataset,
    eval_dataset: ClipDataset,
    accelerator: Accelerator,
) -> Findings:
    """Pass the longest batches of the run through the model: training, then evaluation."""
    trials = [training_trial(config.training, model, dataset, accelerator)]
    if eval_dataset.sources:
        trials.append(evaluation_trial(config.training, model, eval_dataset, accelerator))
    findings = Findings()
    with leaving_no_trace(model):
        for trial in trials:
            verdicts = gather_object([judge(trial, accelerator.device)])
            verdict: Verdict = min(verdicts, key=lambda verdict: verdict.fits)  # the same for all processes
            findings += verdict.findings(trial, config.training)
    return findings


def _agree(findings: Findings) -> Findings:
    """Return what any of the processes found, in an order that all of them share; notes are the first one's."""
    shared: list[Findings] = gather_object([findings])
    errors, warnings = ([line for one in shared for line in getattr(one, name)] for name in ("errors", "warnings"))
    return Findings(list(dict.fromkeys(errors)), list(dict.fromkeys(warnings)), shared[0].notes)


def _tell(findings: Findings) -> None:
    """Raise what ends the run, log what does not."""
    if findings.errors:
        raise UserError(" ".join(findings.errors))
    for line in findings.warnings:
        logger.warning("%s", line)
    if findings.notes:
        logger.info("Preflight: %s.", "; ".join(findings.notes))
