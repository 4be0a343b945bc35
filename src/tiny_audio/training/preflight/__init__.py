"""Find problems before the first step that would otherwise end a run hours later, or make it useless.

Disk and data are checked in every run. Memory and speed need some passes through the model, so they are checked only if
the run is long enough. The checks change nothing: weights, gradients, random generators and the order of the data stay
as they were, so the run is the same without them.
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
from .memory import Verdict, evaluation_trial, judge, training_trial, trial_mode
from .readable import audio_per_second, check_readable, read_samples
from .speed import check_speed, local_processes, measure_throughput

logger = logging.getLogger(__name__)

MIN_STEPS = 100  # left to train; a shorter run reaches its longest batch soon enough

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
    """Check whether memory, disk and data are sufficient, and log it in a line or two.

    All processes do the same, and share their findings. The model is not wrapped for several processes yet, so nothing
    in it waits for another process: if one runs out of memory, no other one hangs.

    Args:
        config: the run's settings.
        model: on its device, before `accelerator.prepare`.
        plan: of the training data.
        dataset: the training clips.
        eval_sources: the evaluation clips; none if there is no evaluation.
        folder: where checkpoints will be written.
        step: the step that the run resumes from.
        accelerator: for mixed precision and processes.

    Raises:
        UserError: the run cannot finish with these settings; the message says what to change.
    """
    left = config.training.max_steps - step
    if not config.training.preflight or left <= 0:
        return
    findings = Findings()
    if accelerator.is_main_process:  # only it writes
        size = checkpoint_bytes(model)
        findings += check_disk(folder, config.training, step, bool(eval_sources), size)
    seed = config.training.seed
    samples = read_samples(dataset, seed)
    eval_dataset = ClipDataset(eval_sources, dataset.tokenize, config.data, contexts=dataset.contexts)
    eval_samples = read_samples(eval_dataset, seed)
    findings += check_readable(samples, eval_samples, plan.shares.tolist(), config.data.max_skipped_share)
    _report(_agree(findings))
    # A model that will be sharded is still whole here, so a trial would not measure the memory that it will take.
    if left < MIN_STEPS or (config.hardware.fsdp and accelerator.num_processes > 1):
        return
    _report(_try_out(config, model, dataset, eval_dataset, accelerator))
    if accelerator.device.type != "cpu":  # on a CPU, step and workers share the cores and slow each other down
        rate = audio_per_second(samples, plan.shares.tolist())
        with trial_mode(model):
            throughput = measure_throughput(model, plan, accelerator)
        cores = usable_workers(1 << 20) / local_processes()
        _report(_agree(check_speed(rate, throughput, config.data, cores)))


def _try_out(
    config: Config,
    model: SpeechLLM,
    dataset: ClipDataset,
    eval_dataset: ClipDataset,
    accelerator: Accelerator,
) -> Findings:
    """Run the model on the longest batches of the run: training, then evaluation."""
    trials = [training_trial(config.training, model, dataset, accelerator)]
    if eval_dataset.sources:
        trials.append(evaluation_trial(config.training, model, eval_dataset, accelerator))
    findings = Findings()
    with trial_mode(model):
        for trial in trials:
            verdicts = gather_object([judge(trial, accelerator.device)])
            verdict: Verdict = min(verdicts, key=lambda verdict: verdict.fits)  # the same for all processes
            findings += verdict.findings(trial, config.training)
    return findings


def _agree(findings: Findings) -> Findings:
    """Return the findings of all processes, in the same order on each; notes are only those of the first."""
    shared: list[Findings] = gather_object([findings])
    errors, warnings = ([line for one in shared for line in getattr(one, name)] for name in ("errors", "warnings"))
    return Findings(list(dict.fromkeys(errors)), list(dict.fromkeys(warnings)), shared[0].notes)


def _report(findings: Findings) -> None:
    """Raise errors, and log warnings and notes."""
    if findings.errors:
        raise UserError(" ".join(findings.errors))
    for line in findings.warnings:
        logger.warning("%s", line)
    if findings.notes:
        logger.info("Preflight: %s.", "; ".join(findings.notes))
