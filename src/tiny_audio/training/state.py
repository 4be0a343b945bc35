"""The state of a run in one typed object; the weights and the optimizer hold the only other state."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        ctc_step: steps of the CTC warm-up done; they come before step 1.
        output_gain: by what the warm-up's end multiplied the projector's output; the learning rate of its output layer
            follows: see `training.optimizer.build_optimizer`.
        batches: global batches of the sampling plan that all processes together have used.
        plan_fingerprint: of the plan whose batches are counted.
        evaluated_step: the last step that was evaluated; -1 before the first.
        evaluation_set: the clips of `history`: see `evaluation.evaluation_set.evaluation_fingerprint`.
        sums: the sums since the last logged step, so that a resumed run logs the same means: see `Trainer.sums`.
        loss_tokens: target tokens since then.
        custom: sum and count of each of the user's own metrics since then.
        draws, audio_seconds: used so far; the seconds exclude skipped clips.
        corpora: clips and seconds used of each corpus, by its name.
        nonfinite_steps: steps that were left out because their gradient was not finite.
        train_seconds: wall time spent, evaluation included, over all parts of the run.
        history: `{"step", "loss", "wer", "cer"}` of each evaluation.
        resumed_from: the checkpoint that was named to resume from, in this run or before; None if none was named.
        wandb_run_id: so that a resumed run logs to the same W&B run.
    """

    step: int = 0
    ctc_step: int = 0
    output_gain: float = 1.0
    batches: int = 0
    plan_fingerprint: str = ""
    evaluated_step: int = -1
    evaluation_set: str = ""
    sums: list[float] = field(default_factory=list)
    loss_tokens: int = 0
    custom: dict[str, list[float]] = field(default_factory=dict)
    draws: int = 0
    audio_seconds: float = 0.0
    corpora: dict[str, list[float]] = field(default_factory=dict)
    nonfinite_steps: int = 0
    train_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    resumed_from: str | None = None
    wandb_run_id: str | None = None

    @classmethod
    def load(cls, saved: dict[str, Any]) -> RunState:
        """Return the state that a checkpoint holds, without fields that only an older version had."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in saved.items() if name in known})

    def evaluate_on(self, evaluation_set: str) -> None:
        """Start a new history if the evaluation set has changed: a history is of one set."""
        if not evaluation_set:  # nothing will be added to the history
            return
        if self.history and self.evaluation_set != evaluation_set:
            logger.warning(
                "The evaluation set is not the one that this run was evaluated on so far (%s, now %s): its history "
                "and its best checkpoint start again; the figures up to step %d stay in metrics.jsonl.",
                self.evaluation_set or "not recorded",
                evaluation_set,
                self.step,
            )
            self.history, self.evaluated_step = [], -1
        self.evaluation_set = evaluation_set

    def count_clip(self, corpus: str, seconds: float) -> None:
        """Count a clip that was trained on."""
        self.audio_seconds += seconds
        clips, total = self.corpora.get(corpus, (0, 0.0))
        self.corpora[corpus] = [clips + 1, total + seconds]

    def corpora_line(self) -> str:
        """One line, such as `861.2 h: librispeech 362.1 h (30.0 % of the clips), tedlium ...`."""
        clips = sum(seen[0] for seen in self.corpora.values())
        parts = [
            f"{name} {seen[1] / 3600:,.1f} h ({seen[0] / clips:.1%} of the clips)"
            for name, seen in sorted(self.corpora.items(), key=lambda item: -item[1][0])
        ]
        total = f"{self.audio_seconds / 3600:,.1f} h"
        return f"{total}: {', '.join(parts)}" if len(parts) > 1 else total

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only."""
        return asdict(self)


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Seed all random generators of this process as a function of the step.

    A resumed run then draws the same numbers for dropout and the like, no matter what an evaluation drew in between.
    """
    digest = hashlib.sha256(f"{seed} {step} {process_index}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def rng_state() -> dict[str, Any]:
    """Return the state of the random generators, as tensors and plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the random generators; those of CUDA only if the number of devices is the same."""
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
