"""Settings of the training steps."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .checks import above, at_least, choice, fraction

SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw", "muon")
METRICS = ("wer", "cer", "loss")
CTC_WARMUP_STEPS = 500


@dataclass
class TrainingConfig:
    """The training steps. A step is an optimizer step; batch_size is clips per step, process and accumulation."""

    max_steps: int = 50_000
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    total_batch_size: int | None = None  # clips per step over all processes; sets the accumulation
    learning_rate: float = 5e-4
    decoder_learning_rate: float | None = None  # of LoRA or of the decoder itself; null: learning_rate
    min_learning_rate_ratio: float = 0.0  # the schedule ends at this share of learning_rate
    lr_schedule: str = "cosine"
    warmup_steps: int = 1000  # until learning_rate is reached
    ctc_warmup_steps: int | None = None  # CTC steps on the projector alone, at the start; None: 500 or less
    ctc_learning_rate: float = 1e-3  # the peak of the warm-up
    ctc_consistency_weight: float = 0.0  # of the agreement between two masked versions of each clip, in the warm-up
    ctc_min_count: int = 30  # of a word piece; one that is rarer, also than once in 400 characters, is split
    ctc_loss_weight: float = 0.3  # of the CTC loss that is added to the decoder's, after the CTC warm-up
    optimizer: str = "adamw"  # muon: for the projector's matrices, and AdamW for all other weights
    weight_decay: float = 0.01  # of all weights but biases and norms
    adam_beta1: float = 0.9  # decay of AdamW's mean of gradients
    adam_beta2: float = 0.95  # decay of AdamW's mean of squared gradients
    gradient_clip_norm: float | None = 1.0
    eval_at_start: bool = False  # also evaluate before the first step
    eval_steps: int = 500
    eval_batch_size: int = 32
    max_new_tokens: int = 200  # of a transcript, at evaluation
    save_steps: int = 5000
    save_total_limit: int | None = 5  # the newest and the best are never deleted
    save_best_only: bool = False
    metric_for_best: str = "wer"
    greater_is_better: bool = False
    resume_from_checkpoint: str | None = None  # null: the newest in the output folder, if any
    preflight: bool = True  # check before the first step whether memory, disk and data are sufficient
    seed: int = 42  # of first weights, order of the data, and dropout

    def __post_init__(self) -> None:
        for name in (
            *("batch_size", "gradient_accumulation_steps", "total_batch_size", "eval_steps"),
            *("eval_batch_size", "max_new_tokens", "save_steps", "save_total_limit", "ctc_min_count"),
        ):
            at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("max_steps", "warmup_steps", "ctc_warmup_steps", "weight_decay", "seed"):
            at_least(f"training.{name}", getattr(self, name), 0)
        for name in ("ctc_loss_weight", "ctc_consistency_weight"):
            at_least(f"training.{name}", getattr(self, name), 0)
        if not self.max_steps and not self.ctc_warmup_steps:
            raise ConfigError(
                "training.max_steps=0 trains nothing; only a run of the CTC warm-up alone has no steps: set "
                "training.ctc_warmup_steps."
            )
        above("training.learning_rate", self.learning_rate, 0)
        if self.learning_rate > 1:
            raise ConfigError(f"training.learning_rate must be at most 1, got {self.learning_rate:g}.")
        above("training.ctc_learning_rate", self.ctc_learning_rate, 0)
        above("training.decoder_learning_rate", self.decoder_learning_rate, 0)
        above("training.gradient_clip_norm", self.gradient_clip_norm, 0)
        fraction("training.adam_beta1", self.adam_beta1)
        fraction("training.adam_beta2", self.adam_beta2)
        if not 0 <= self.min_learning_rate_ratio <= 1:
            ratio = self.min_learning_rate_ratio
            raise ConfigError(f"training.min_learning_rate_ratio must be between 0 and 1, got {ratio:g}.")
        choice("training.optimizer", self.optimizer, OPTIMIZERS)
        choice("training.lr_schedule", self.lr_schedule, SCHEDULES)
        choice("training.metric_for_best", self.metric_for_best, METRICS)

    @property
    def num_ctc_steps(self) -> int:
        """Steps of the CTC warm-up; if not set, they depend on `max_steps`, so that a short test has few of them."""
        return min(CTC_WARMUP_STEPS, self.max_steps) if self.ctc_warmup_steps is None else self.ctc_warmup_steps
