"""Prepare a new projector before the first step: scale it to the decoder, and warm it up by CTC.

In the CTC warm-up the projector learns, by CTC alone, where each word piece is said.

The decoder is not run; only its token embeddings are read: see `model.ctc`. The steps of the warm-up are counted
separately, and have numbers below 0 in the logs. With or without it, the run starts at the first draw.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from ..config import Config, TrainingConfig
from ..data.loader import Batch, ClipDataset
from ..data.plan import Draw, SamplingPlan
from ..data.skips import SkipLog
from ..evaluation.evaluate import Evaluation, Interrupted
from ..model.checkpointed import trained_weights
from ..model.ctc import CTCLoss
from ..model.speech_llm import SpeechLLM, Written
from . import metrics
from .build import open_batches
from .checkpoint import CheckpointFolder, save_checkpoint
from .console import Console, format_metric, format_rate
from .interrupt import StopRequest
from .optimizer import build_optimizer, must_skip, refuse_another
from .processes import Processes, StepInput
from .state import RunState, rng_state, seed_step
from .tracking import Trackers

logger = logging.getLogger(__name__)

CLIPS = 16  # for scaling a projector: some thousands of audio tokens, about as many as in a step

CONSISTENT_FROM = 0.4  # of the steps
LOOKS = 4  # evaluations; the last one is at the end
TOO_SHORT_SHARE = 0.5  # of the clips; above it, CTC has too little to learn from


def calibration_draws(plan: SamplingPlan) -> list[Draw]:
    """Return the draws that `calibrate` uses: the first ones, independent of the batch size."""
    return plan.draws(0, CLIPS)


def calibrate(model: SpeechLLM, plan: SamplingPlan, dataset: ClipDataset) -> float:
    """Scale a new projector so that its output has the size of the decoder's own embeddings.

    It reads the first clips of the run, in the order of the draws, one by one. The projector is thus the same for any
    batch size, accumulation and number of processes. If none of the clips can be read, it is not changed.

    Args:
        model: on its device.
        plan: of the run.
        dataset: the clips that the plan draws from.

    Returns:
        By what the output was multiplied.
    """
    return model.projector.calibrate(_frames_of_each(model, plan, dataset), model.decoder.embedding_rms)


def _frames_of_each(model: SpeechLLM, plan: SamplingPlan, dataset: ClipDataset) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the encoder frames (n, D) of each clip, and their number."""
    for draw in calibration_draws(plan):
        batch = dataset.__getitems__([draw])
        if len(batch):
            frames, lengths = model.encode(batch)
            yield frames.float(), lengths


def warmup_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a warm-up step, counted from 0: it rises for a tenth of them, then a cosine to 0."""
    total = config.num_ctc_steps
    rise = max(1, min(50, total // 10))
    return config.ctc_learning_rate * min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / total))


def consistency_weight(step: int, config: TrainingConfig) -> float:
    """Return the weight of the agreement between two versions of a clip in a warm-up step, counted from 0.

    It is 0 at first: while the projector still gives blank to every audio token, agreement only keeps it there.
    """
    return config.ctc_consistency_weight if step >= CONSISTENT_FROM * config.num_ctc_steps else 0.0


def warmup_batches(config: Config, done: int, processes: Processes) -> range:
    """Return the global batches of the plan that the warm-up reads after `done` of its steps."""
    each = config.training.gradient_accumulation_steps * processes.count
    return range(done * each, config.training.num_ctc_steps * each)


def warmup_due(config: Config, saved: dict[str, Any] | None) -> bool:
    """Whether steps of the CTC warm-up are left; a projector from a checkpoint needs none, since it is trained."""
    if saved is not None:
        return saved.get("ctc_warmup") is not None
    given = config.model.checkpoint or config.model.projector_checkpoint
    return given is None and config.training.num_ctc_steps > 0


def warmup_position(config: Config, state: RunState) -> int:
    """Return the number of the warm-up's last step in the logs; it is below 0, since the run itself starts at 0."""
    return state.ctc_step - config.training.num_ctc_steps - 1


class CTCWarmup:
    """Runs the steps of the warm-up, from the first or from a checkpoint's, to the last one.

    Args:
        config: the run's settings.
        accelerator: device and mixed precision.
        processes: of the run.
        model: not wrapped, the same on all processes; only its projector and `model.ctc` train.
        plan, dataset: which clips are drawn, and what reads them.
        evaluate: see `build_evaluation`; None if there is no evaluation set.
        folder: where checkpoints are written.
        description: what a checkpoint records of the models and the configuration.
        skips, trackers: where skipped clips and figures are recorded.
        state: of the run; `ctc_step` is the number of warm-up steps done.
        saved: what the checkpoint to resume from holds of the warm-up, or None.
    """

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        processes: Processes,
        model: SpeechLLM,
        plan: SamplingPlan,
        dataset: ClipDataset,
        evaluate: Callable[..., Evaluation] | None,
        folder: CheckpointFolder,
        description: dict[str, Any],
        skips: SkipLog,
        trackers: Trackers,
        state: RunState,
        saved: dict[str, Any] | None,
    ) -> None:
        assert model.ctc is not None
        self.ctc = model.ctc
        self.config, self.training = config, config.training
        self.accelerator, self.model, self.plan, self.dataset = accelerator, model, plan, dataset
        self.evaluate, self.folder, self.description = evaluate, folder, description
        self.skips, self.trackers, self.state = skips, trackers, state
        self.steps = config.training.num_ctc_steps
        self.processes = processes
        self.weights = [*model.projector.parameters(), *self.ctc.parameters()]
        self.optimizer = build_optimizer(
            model, self.training, self.training.ctc_learning_rate, accelerator.mixed_precision, ("projector", "ctc")
        )
        if saved is not None:
            refuse_another(saved["optimizer"], self.optimizer)
            self.optimizer.load_state_dict(saved["optimizer"])
        self.stop = StopRequest()
        self.clips_a_step = plan.batch_size * self.training.gradient_accumulation_steps * processes.count
        epochs = plan.epoch(self.steps * self.clips_a_step)
        self.console = Console(self.steps, epochs, state.ctc_step, quiet=not processes.is_main, title="CTC warm-up")
        self.looked = saved["looked"] if saved is not None else 0  # the last step that was evaluated
        # Since the last logged step: loss, word pieces, clips, clips too short for their transcripts, steps left out.
        self.sums = torch.zeros(5, device=accelerator.device)
        if saved is not None and processes.is_main:
            self.sums += torch.tensor(saved["sums"], device=accelerator.device)

    def run(self) -> bool:
        """Run the steps that are left; return True. If a signal stops them, save their state and return False."""
        state = self.state
        logger.info(
            "CTC warm-up: steps %d to %d, on %s word pieces...",
            state.ctc_step + 1,
            self.steps,
            f"{len(self.ctc.vocabulary):,}",
        )
        self.model.train()
        numbers = warmup_batches(self.config, state.ctc_step, self.processes)
        batches = open_batches(self.config, self.plan, self.dataset, numbers, self.accelerator)
        try:
            with self.stop:
                if self._look_due():  # missed by a run that was stopped
                    self.finish_step({})
                    if not self._finished():
                        self.save()  # so that it is not logged a third time
                while state.ctc_step < self.steps:
                    loaded = [next(batches) for _ in range(self.training.gradient_accumulation_steps)]
                    given = self.processes.share(loaded, self.stop())
                    if given.stop:
                        break
                    norm = self.step(given)
                    self.finish_step(self.log(norm) if self._log_due() else {})
        except Interrupted:
            logger.warning("The evaluation was interrupted; it is repeated on resuming.")
        finally:
            self.console.close()
        if self._finished():  # CTC reads cosines, which do not fix the size of the tokens
            gain = calibrate(self.model, self.plan, self.dataset)
            state.output_gain = self.processes.from_first(gain)
        self.save()
        return self._finished()

    def _finished(self) -> bool:
        return self.state.ctc_step >= self.steps and not self._look_due()

    def _look_due(self) -> bool:
        step = self.state.ctc_step
        due = step >= self.steps or step % max(1, self.steps // LOOKS) == 0
        return self.evaluate is not None and due and step > self.looked

    def _log_due(self) -> bool:
        step, each = self.state.ctc_step, min(self.config.logging.log_steps, max(1, self.steps // 10))
        return step >= self.steps or step % each == 0 or self._look_due()

    def step(self, given: StepInput) -> Tensor:
        """Run one step; return the gradient norm before clipping, on the device."""
        seed_step(self.training.seed, -2 - self.state.ctc_step, self.accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = warmup_rate(self.state.ctc_step, self.training)
        for batch in given.batches:
            if not len(batch):
                continue
            with self._autocast():
                loss, besides = self.loss(batch)
            ((loss.loss + besides) / max(given.num_tokens, 1)).backward()
            counts = torch.tensor([loss.num_pieces, len(batch), loss.too_short, 0.0])
            self.sums += torch.cat((loss.loss.detach()[None], counts.to(self.sums.device, non_blocking=True)))
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if self.processes.count > 1:
                dist.all_reduce(weight.grad)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.training.gradient_clip_norm or math.inf)
        nonfinite = (~torch.isfinite(norm)).float()
        self.sums[-1] += nonfinite / self.processes.count
        if not must_skip(self.optimizer, nonfinite):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.ctc_step += 1
        self.skips.note(given.skipped)
        return norm

    def _autocast(self) -> AbstractContextManager[Any]:
        """The run's precision, as in its steps; but fp32 in the place of fp16, which would need a loss scaler."""
        return nullcontext() if self.accelerator.mixed_precision == "fp16" else self.accelerator.autocast()

    def loss(self, batch: Batch) -> tuple[CTCLoss, Tensor]:
        """Compute the CTC loss of B clips, and what is minimized besides; the decoder is not run.

        Once their agreement has a weight, each clip is read in two versions, which differ by what `mask_frames` and
        dropout hide. The CTC loss is then the mean of the two.

        Returns:
            The loss; and the weighted `CTCHead.disagreement` of the versions, **summed** over audio tokens, with the
            projector's auxiliary loss, times the word pieces.
        """
        embed, weight = self.model.decoder.embed, consistency_weight(self.state.ctc_step, self.training)
        frames, lengths = self.model.encode(batch)
        pieces = self.model.pieces(batch.transcripts)
        if not weight:
            projected, counts = self.model.audio_tokens(frames, lengths)
            loss: CTCLoss = self.ctc(projected.tokens, counts, pieces, embed)
            return loss, loss.num_pieces * projected.auxiliary
        projected, counts = self.model.audio_tokens(frames.repeat(2, 1), 2 * lengths)
        both: CTCLoss = self.ctc(projected.tokens, counts, 2 * pieces, embed)
        loss = CTCLoss(both.loss / 2, both.num_pieces // 2, both.too_short // 2)
        disagreement = self.ctc.disagreement(projected.tokens, embed)
        return loss, weight * disagreement + loss.num_pieces * projected.auxiliary

    @torch.no_grad()
    def assess(self, batch: Batch) -> tuple[Tensor, list[Written]]:
        """Return the summed CTC loss of a batch, and the transcripts that CTC reads greedily from its audio tokens."""
        if not len(batch):
            return torch.zeros(()), []
        model = self.model
        frames, lengths = model.encode(batch)
        projected, counts = model.audio_tokens(frames, lengths)
        written = self.ctc.greedy(projected.tokens, counts, model.decoder.embed)
        loss = self.ctc(projected.tokens, counts, model.pieces(batch.transcripts), model.decoder.embed).loss
        return loss, [Written(model.decoder.prompt.decode(ids), looped=False, cut_off=False) for ids in written]

    def finish_step(self, shown: dict[str, str]) -> None:
        """Evaluate and save if it is due after a step, and print its line: `shown` and the evaluation's figures."""
        step = self.state.ctc_step
        self.console.progress(step, self.plan.epoch(step * self.clips_a_step))
        if self._look_due():
            shown = shown | self.evaluate_now()
            self.looked = step
        if shown:
            self.console.step(step, shown)
        if step < self.steps and step % self.training.save_steps == 0:
            self.save()

    def log(self, norm: Tensor) -> dict[str, str]:
        """Log the figures since the last time; return those that the console shows."""
        if self.processes.count > 1:
            dist.all_reduce(self.sums)
        loss, pieces, clips, too_short, left_out = self.sums.tolist()
        self.sums.zero_()
        loss /= max(pieces, 1)
        lr = warmup_rate(self.state.ctc_step - 1, self.training)
        self._log({"loss": loss, "learning_rate": lr, "grad_norm": float(norm), "too_short": too_short})
        if left_out:
            logger.warning("%d steps of the warm-up were skipped: their gradient was not finite.", round(left_out))
        if too_short > TOO_SHORT_SHARE * clips:
            logger.warning(
                "The warm-up learns nothing from %.0f %% of the clips: they have fewer audio tokens than word pieces. "
                "Make model.projector_config.frame_stack smaller, or set training.ctc_warmup_steps=0.",
                100 * too_short / clips,
            )
        return {"loss": f"{loss:.3f}", "lr": format_rate(lr)}

    def evaluate_now(self) -> dict[str, str]:
        """Read the evaluation set greedily from the audio tokens; log the error rates, and return those to show."""
        assert self.evaluate is not None
        should_stop = self.stop if self.processes.count == 1 else lambda: False
        found = self.evaluate(should_stop, self.assess).metrics
        self._log({f"eval_{key}": value for key, value in found.items()})
        return {f"greedy {key}": format_metric(key, found[key]) for key in ("wer", "cer")}

    def _log(self, values: dict[str, float]) -> None:
        named = {metrics.CTC_WARMUP + key: value for key, value in values.items()}
        self.trackers.log(named, warmup_position(self.config, self.state))

    def save(self) -> None:
        """Write the checkpoint of step 0; if the disk is full, there is none, and the run goes on."""
        sums = self.sums.clone()
        if self.processes.count > 1:
            dist.all_reduce(sums)
        if not self.processes.is_main:
            return
        warmup = {"optimizer": self.optimizer.state_dict(), "sums": sums.tolist(), "looked": self.looked}
        content = {
            **self.description,
            "weights": trained_weights(self.model),
            "ctc_warmup": None if self._finished() else warmup,
            "optimizer": None,
            "scheduler": None,
            "scaler": None,
            "rng": rng_state(),
            "state": self.state.to_dict(),
        }
        try:
            save_checkpoint(self.folder.file(0), content)
        except OSError as error:
            logger.error("The warm-up could not be saved in %s (%s).", self.folder.path, error.strerror or error)
