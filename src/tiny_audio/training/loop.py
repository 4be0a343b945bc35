"""The training loop. `Trainer.run` is the run, `Trainer.train_step` one step; the methods are in the order of a step.

batch     `next_input`     `data/loader.py` reads and decodes the clips that `data/plan.py` draws
forward   `train_step`     `model/speech_llm.py`: encode, project, splice into the prompt, decode, loss
learn     `train_step`     backward, clip, step
log       `log`            every `logging.log_steps` steps
evaluate  `evaluate_now`   every `training.eval_steps` steps
save      `save`           every `training.save_steps` steps
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import nn

from ..config import Config, TrainingConfig
from ..custom_metrics import CustomMetrics
from ..data.loader import Batch
from ..data.plan import SamplingPlan
from ..data.skips import SkipLog
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, Interrupted
from ..model.checkpointed import trained_weights
from ..model.device import peak_flops
from ..model.sharded import is_sharded, whole
from ..model.speech_llm import Loss, SpeechLLM
from . import metrics
from .checkpoint import CheckpointFolder
from .console import Console, format_metric, format_rate
from .interrupt import StopRequest
from .meter import Meter, StepProfiler
from .optimizer import must_skip
from .processes import Processes, StepInput
from .ranking import rank, rank_saved, summarize
from .state import RunState, rng_state, seed_step
from .tracking import Trackers

logger = logging.getLogger(__name__)

GIVE_UP_STEPS = 100  # steps in a row that are left out


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step, counted from 0: linear warmup, then `lr_schedule` down to its floor.

    The first step has 1 / warmup_steps of the peak; the last of max_steps is just above the floor.
    If the warmup would be as long as the run (a quick test of an experiment), it is cut to a tenth of the run.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if warmup >= config.max_steps:
        warmup = config.max_steps // 10
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, config.max_steps - warmup))
    shape = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[config.lr_schedule]
    return peak * (config.min_learning_rate_ratio + (1 - config.min_learning_rate_ratio) * shape)


class Trainer:
    """Runs the steps from `state.step` to `training.max_steps`.

    Args:
        config: the run's settings.
        accelerator: device, mixed precision, processes.
        model: as `accelerator.prepare` returned it; its forward is `SpeechLLM.forward`.
        optimizer: likewise, over the weights that train.
        batches: this process's batches from `state.batches` on.
        plan: the plan that they are drawn from.
        evaluate: decodes the evaluation set; takes a function that says whether to stop. None if there is no set.
        folder: where checkpoints are written.
        description: what a checkpoint records of the models and the configuration.
        skips: clips that could not be used.
        trackers, console: where figures are shown.
        state: where the run stands; changed in place.
        processes: of the run.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        batches: Iterator[Batch],
        plan: SamplingPlan,
        evaluate: Callable[[Callable[[], bool]], Evaluation] | None,
        folder: CheckpointFolder,
        description: dict[str, Any],
        skips: SkipLog,
        trackers: Trackers,
        console: Console,
        state: RunState,
        processes: Processes,
    ) -> None:
        self.config, self.training = config, config.training
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.speech_llm: SpeechLLM = accelerator.unwrap_model(model)
        self.weights = [p for p in self.speech_llm.parameters() if p.requires_grad]
        self.batches, self.plan, self.evaluate = batches, plan, evaluate
        self.folder, self.description, self.skips = folder, description, skips
        self.trackers, self.console, self.state = trackers, console, state
        self.log_steps = min(config.logging.log_steps, max(1, self.training.max_steps // 10))
        self.stop = StopRequest()
        self.processes = processes
        hardware, device = config.hardware, accelerator.device
        peak = peak_flops(hardware.peak_tflops, device, accelerator.mixed_precision)
        self.meter = Meter(self.speech_llm, device, peak, processes.count)
        traced = hardware.profile_steps if accelerator.is_main_process else None
        self.profiler = StepProfiler(traced, folder.path.parent)
        self._clock = time.monotonic()
        self._logged = (self._clock, state.draws, state.audio_seconds)
        # Added up on the device, since reading a number at every step would make the host wait for the GPU: summed
        # cross-entropy, auxiliary loss times target tokens, each expert's tokens, and summed CTC loss.
        self.sums = torch.zeros(3 + self.speech_llm.projector.num_experts, device=accelerator.device)
        if state.sums and accelerator.is_main_process:
            self.sums[: len(state.sums)] += torch.tensor(state.sums, device=accelerator.device)
        self._nonfinite = torch.zeros((), device=accelerator.device)  # steps left out, not reported yet
        self._learned_at, self._left_out_before = state.step, state.nonfinite_steps
        self.custom = CustomMetrics(state.custom)
        psutil.cpu_percent()  # the first call returns 0; later calls return the load since the call before

    def run(self) -> bool:
        """Train to the end; return True. If a signal stops the run before, save its state and return False."""
        self.model.train()
        with self.stop:
            try:
                if self._evaluation_due():  # before the first step, or missed by a run that was stopped
                    self.finish_step({})
                while not self._last and not (step_input := self.next_input()).stop:
                    self.profiler.before(self.state.step + 1)
                    with self.custom:
                        grad_norm = self.train_step(step_input)
                    self.profiler.after(self.state.step)
                    self.finish_step(self.log(grad_norm) if self._log_due() else {})
            except Interrupted:
                logger.warning(
                    "The evaluation at step %d was interrupted; it is repeated on resuming.", self.state.step
                )
            self.profiler.close()
            finished = self._last and not self._evaluation_due()
            if not finished:
                self.save(leaving=True)
            return finished

    def next_input(self) -> StepInput:
        """Return this process's batches of the next step, and what all processes know about the step."""
        if self.stop() and self.processes.count == 1:  # then it need not wait for the data
            return self.processes.share([], stop=True)
        with self.meter.waiting():
            batches = [next(self.batches) for _ in range(self.training.gradient_accumulation_steps)]
        return self.processes.share(batches, self.stop(), self.meter.work(batches))

    def train_step(self, given: StepInput) -> torch.Tensor:
        """Run one optimizer step; return the gradient norm before clipping, on the device."""
        state, accelerator = self.state, self.accelerator
        seed_step(self.training.seed, state.step, accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, self.training) * group["lr_scale"]

        for i, batch in enumerate(given.batches):
            last = i == len(given.batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    loss: Loss = self.model(batch)  # encode, project, splice, decode: `SpeechLLM.forward`
                # Every target token of the step has the same weight, in any batch and process.
                accelerator.backward(loss.objective * (accelerator.num_processes / max(given.num_tokens, 1)))
            self._add_up(loss)

        grad_norm = accelerator.clip_grad_norm_(self.weights, self.training.gradient_clip_norm or math.inf)
        if is_sharded(grad_norm):
            grad_norm = grad_norm.full_tensor()
        if given.num_tokens:  # without targets, momentum and weight decay would still change weights
            self._update(grad_norm)
        self.optimizer.zero_grad(set_to_none=True)

        state.step += 1
        state.batches += len(given.batches) * self.processes.count
        state.draws = state.batches * self.training.batch_size
        state.loss_tokens += given.num_tokens
        self.meter.add(given.positions, given.flops)
        for source, seconds in zip(given.sources, given.seconds, strict=False):  # a benchmark's clips have no source
            state.count_clip(self.skips.names[source], seconds)
        self.skips.add(given.skipped, given.sources)
        self.skips.check()
        return grad_norm

    def _add_up(self, loss: Loss) -> None:
        two = torch.stack((loss.cross_entropy, loss.auxiliary * loss.num_targets))
        self.sums += torch.cat((two, loss.expert_usage, loss.ctc[None])).detach()

    def _update(self, grad_norm: torch.Tensor) -> None:
        """Take the step; if the gradient is not finite, leave it out and count it.

        In fp16 the loss scaler leaves such steps out itself, and lowers its scale.
        """
        nonfinite = (~torch.isfinite(grad_norm)).float()
        self._nonfinite += nonfinite
        if self.accelerator.scaler is not None or not must_skip(self.optimizer.optimizer, nonfinite):
            self.optimizer.step()

    @property
    def _last(self) -> bool:
        return self.state.step >= self.training.max_steps

    def _evaluation_due(self) -> bool:
        step = self.state.step
        if self.evaluate is None or self.state.evaluated_step == step:
            return False
        return self._last or (step % self.training.eval_steps == 0 if step else self.training.eval_at_start)

    def _log_due(self) -> bool:
        return self._last or self.state.step % self.log_steps == 0 or self._evaluation_due()

    def finish_step(self, shown: dict[str, str]) -> None:
        """Evaluate and save if it is due after a step, and print its line: `shown` and the evaluation's figures."""
        self.console.progress(self.state.step, self.plan.epoch(self.state.draws))
        improved = False
        if self._evaluation_due():
            evaluated, improved = self.evaluate_now()
            shown = shown | evaluated
        if shown:
            self.console.step(self.state.step, shown)
        step = self.state.step
        if self._last or (step and (improved or step % self.training.save_steps == 0)):
            self.save(leaving=self._last)

    def log(self, grad_norm: torch.Tensor) -> dict[str, str]:
        """Log the figures since the last time; return those that the console shows."""
        state = self.state
        loss, auxiliary, *usage, ctc = self.read_sums()
        loss, auxiliary, ctc = (value / max(state.loss_tokens, 1) for value in (loss, auxiliary, ctc))
        self.sums.zero_()
        state.loss_tokens = 0
        self.check_progress()
        now = time.monotonic()
        seconds = max(now - self._logged[0], 1e-9)
        lr = learning_rate(state.step - 1, self.training)
        values = {
            metrics.TRAIN_LOSS: loss,
            metrics.TRAIN_PERPLEXITY: math.exp(min(loss, 50.0)),
            metrics.LEARNING_RATE: lr,
            metrics.GRAD_NORM: float(grad_norm),
            metrics.EPOCH: self.plan.epoch(state.draws),
            metrics.SAMPLES_PER_SECOND: (state.draws - self._logged[1]) / seconds,
            metrics.AUDIO_HOURS_PER_HOUR: (state.audio_seconds - self._logged[2]) / seconds,
            metrics.HOURS: state.audio_seconds / 3600,
            metrics.SKIPPED_CLIPS: self.skips.counts.total(),
            metrics.NONFINITE_STEPS: state.nonfinite_steps,
            metrics.CPU_PERCENT: psutil.cpu_percent(),
            **self.meter.read(seconds),
            **self.custom.take(),
        }
        clips = sum(seen[0] for seen in state.corpora.values())
        if len(self.plan.sizes) > 1:
            values |= {metrics.CORPUS_SHARE + name: seen[0] / clips for name, seen in state.corpora.items()}
        if self.speech_llm.ctc_weight:
            values[metrics.CTC_LOSS] = ctc
        if usage:
            values[metrics.AUXILIARY_LOSS] = auxiliary
            shares = (value / max(sum(usage), 1e-9) for value in usage)
            values |= {f"{metrics.EXPERT_SHARE}{expert}": share for expert, share in enumerate(shares)}
        if self.accelerator.device.type == "cuda":
            values[metrics.GPU_MEMORY_ALLOCATED] = torch.cuda.memory_allocated()
            values[metrics.GPU_MEMORY_RESERVED] = torch.cuda.memory_reserved()
        self.trackers.log(values, state.step)
        self._logged = (now, state.draws, state.audio_seconds)
        return {"loss": f"{loss:.3f}", "lr": format_rate(lr)}

    def check_progress(self) -> None:
        """End a run that does not learn.

        Raises:
            UserError: at least the last `GIVE_UP_STEPS` steps were left out, or the run has ended and all steps were.
        """
        step, left_out = self.state.step, self.state.nonfinite_steps
        if left_out - self._left_out_before < step - self._learned_at:  # a step was taken since then
            self._learned_at, self._left_out_before = step, left_out
        in_a_row = step - self._learned_at
        if in_a_row >= GIVE_UP_STEPS or (self._last and left_out >= step > 0):
            raise UserError(
                f"nothing is learned: the gradients of the last {in_a_row} steps were not finite (NaN or infinite). "
                "Lower training.learning_rate, or set hardware.mixed_precision=bf16 or no; if even the first loss "
                "is not finite, weights of the models or of the checkpoint to start from are damaged."
            )

    def read_sums(self) -> list[float]:
        """Return the sums of all processes since the last log, read from the device; warn of steps left out."""
        if found := int(self._nonfinite):
            self.state.nonfinite_steps += found
            self._nonfinite.zero_()
            logger.warning(
                "%d steps up to step %d were skipped: their gradient was not finite (%d so far).",
                found,
                self.state.step,
                self.state.nonfinite_steps,
            )
        several = self.processes.count > 1
        total: list[float] = (self.accelerator.reduce(self.sums, "sum") if several else self.sums).tolist()
        return total

    def evaluate_now(self) -> tuple[dict[str, str], bool]:
        """Decode the evaluation set; return the figures to show, and whether they are the best so far."""
        assert self.evaluate is not None
        state = self.state
        started = time.monotonic()
        # Several processes must stop together or not at all, so they do not stop within an evaluation.
        evaluation = self.evaluate(self.stop if self.processes.count == 1 else lambda: False)
        found = evaluation.metrics
        state.evaluated_step = state.step
        state.history.append({"step": state.step, **found})
        self.trackers.log({metrics.EVAL + key: value for key, value in found.items()}, state.step)
        self.trackers.log_transcripts(evaluation.transcripts, state.step)
        ranked = rank(state.history, self.training)
        improved = bool(ranked) and ranked[0] is state.history[-1]
        self._logged = (self._logged[0] + time.monotonic() - started, *self._logged[1:])  # not training time
        if evaluation.transcripts:  # a different clip each time
            _, reference, hypothesis = evaluation.transcripts[7 * len(state.history) % len(evaluation.transcripts)]
            self.console.line(f"    said:  {reference}\n    wrote: {' '.join(hypothesis.split())}")
        names = {"loss": "eval_loss"}
        return {names.get(key, key): format_metric(key, value) for key, value in found.items()}, improved

    def save(self, leaving: bool = False) -> None:
        """Write a checkpoint of this step. If the disk is full, the run continues and the earlier checkpoints stay.

        Args:
            leaving: no step follows.

        Raises:
            UserError: it could not be written and no step follows; raised on all processes.
        """
        state = self.state
        now = time.monotonic()
        state.train_seconds += now - self._clock
        self._clock = now
        state.sums, state.custom = self.read_sums(), self.custom.state()
        if self.accelerator.is_main_process or is_sharded(self.weights[0]):
            content = self.checkpoint()
        unsaved = ""
        if self.accelerator.is_main_process:
            try:
                self.folder.write(state.step, content, self.best_saved)
                self.folder.drop_final()
                keep = 1 if self.training.save_best_only else self.training.save_total_limit
                self.folder.prune(keep, newest=state.step, best=self.best_saved())
                skipped = self.skips.counts.total()
                self.folder.write_state(summarize(self.config, state, self.folder, self.description, skipped))
            except OSError as error:
                unsaved = self._describe_unsaved(error)
        if unsaved := self.processes.from_first(unsaved):
            if leaving:
                raise UserError(unsaved)
            logger.error("%s Training continues; make room before the next save.", unsaved[0].upper() + unsaved[1:])

    def best_saved(self) -> int | None:
        """Return the step of the best checkpoint, if one was evaluated."""
        ranked = rank_saved(self.state.history, self.training, self.folder)
        return int(ranked[0]["step"]) if ranked else None

    def checkpoint(self) -> dict[str, Any]:
        """Return what a checkpoint holds. For a sharded model all processes must call; only the first gets it all."""
        state, scaler, optimizer = self.state, self.accelerator.scaler, self.optimizer.state_dict()
        moments = {i: {name: whole(value) for name, value in kept.items()} for i, kept in optimizer["state"].items()}
        return {
            **self.description,
            "weights": trained_weights(self.speech_llm),
            "optimizer": optimizer | {"state": moments},
            "scheduler": {"step": state.step, "learning_rate": learning_rate(state.step, self.training)},
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": rng_state(),
            "state": state.to_dict(),
        }

    def _describe_unsaved(self, error: OSError) -> str:
        steps = self.folder.steps()
        kept = f"The newest checkpoint is {self.folder.file(steps[-1])}." if steps else "There is no checkpoint yet."
        return f"step {self.state.step} could not be saved in {self.folder.path} ({error.strerror or error}). {kept}"
