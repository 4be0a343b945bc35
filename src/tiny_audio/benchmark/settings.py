"""The settings of a benchmark: the options of `ta benchmark`, checked. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import ATTENTIONS, PROJECTORS, check_device
from ..config_errors import did_you_mean
from ..errors import UserError
from ..lengths import MAX_CLIP_SECONDS

PRECISIONS = ("auto", "bf16", "no")


@dataclass(frozen=True)
class Settings:
    """What to measure. None: a value that suits the device, see `run.choose_load`.

    Attributes:
        device, precision, attention: as in the `hardware` settings of a run.
        compile: compile the layers of our own step.
        encoder_layers, decoder_layers: depth of the random models; their widths are the published ones.
        batch_size: clips per step.
        seconds: mean length of a clip.
        projectors: model.projector_type of each model to measure.
        steps: timed steps of each variant.
        step: measure the training step.
        baseline: measure also the usual and the plain way to compute it.
        price: USD per hour of this machine; None: no cost is printed.
        run_steps: steps of the run whose hours and cost are printed.
        data: a manifest, a folder or `pocket`: measure the data pipeline on it.
        workers: numbers of worker processes to measure it with.
    """

    device: str = "auto"
    precision: str = "auto"
    attention: str = "auto"
    compile: bool = False
    encoder_layers: int | None = None
    decoder_layers: int | None = None
    batch_size: int | None = None
    seconds: float = 12.0
    projectors: tuple[str, ...] = ("mlp",)
    steps: int | None = None
    step: bool = True
    baseline: bool = True
    price: float | None = None
    run_steps: int = 50_000
    data: str | None = None
    workers: tuple[int, ...] = (0, 1, 2, 4)

    def __post_init__(self) -> None:
        check_device("--device", self.device)
        _choice("--precision", self.precision, PRECISIONS)
        _choice("--attention", self.attention, ATTENTIONS)
        for kind in self.projectors:
            _choice("--projector", kind, tuple(PROJECTORS))
        for name in ("encoder_layers", "decoder_layers", "batch_size", "steps", "run_steps"):
            _at_least(name, getattr(self, name), 1)
        _at_least("price", self.price, 0)
        for count in self.workers:
            _at_least("workers", count, 0)
        if not 1 <= self.seconds <= MAX_CLIP_SECONDS:
            raise UserError(f"--seconds must be between 1 and {MAX_CLIP_SECONDS:g}, got {self.seconds:g}.")
        if not self.projectors or not self.workers:
            raise UserError(f"--{'workers' if self.projectors else 'projector'} is empty.")
        if not self.step and self.data is None:
            raise UserError("--no-step leaves nothing to measure; name recordings: --data my/train.jsonl")


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{option} must be one of {', '.join(allowed)}, got {value}.{did_you_mean(value, allowed)}")


def _at_least(name: str, value: float | None, low: int) -> None:
    if value is not None and not low <= value < math.inf:  # NaN is refused too
        raise UserError(f"--{name.replace('_', '-')} must be at least {low}, got {value:g}.")
