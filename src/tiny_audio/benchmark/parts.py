"""The time of each part of our step, measured inside the real step.

Hooks on the modules of the model, on two gradients and on the optimizer mark when a part has been given to the device.
The time between two marks belongs to the later one, so the parts add up to the step. Hooks cost microseconds each;
the whole step is timed without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from .measure import Timeline
from .variants import Ours

PARTS = (
    "mel",
    "encoder",
    "projector",
    "decoder forward",
    "decoder backward",
    "head and loss",
    "clipping and optimizer",
    "the rest",
)


def measure_parts(ours: Ours, steps: int) -> dict[str, float]:
    """Return the mean seconds of each of `PARTS`, over `steps` steps after a warm-up step.

    Forward and backward of the projector are one part, and so are those of head and loss. `the rest` is the time
    before the spectrogram (the copy to the device) and after the optimizer.
    """
    ours.step()
    timeline = Timeline(ours.device)
    with watched(ours, timeline.mark):
        timeline.mark("the rest")
        for _ in range(steps):
            ours.step()
            timeline.mark("the rest")
    total: Counter[str] = Counter()
    for name, seconds in timeline.intervals():
        total[name] += seconds  # type: ignore[assignment]
    return {part: total[part] / steps for part in PARTS}


@contextmanager
def watched(ours: Ours, mark: Callable[[str], None]) -> Iterator[None]:
    """Call `mark(part)` whenever a part of the step has been given to the device."""
    model, optimizer = ours.model, ours.trainer.optimizer.optimizer
    language_model: Any = model.decoder.module

    def before(part: str) -> Callable[..., None]:
        return lambda *_: mark(part)

    def projected(module: Any, arguments: Any, output: Any) -> None:
        mark("projector")
        on_gradient(output.tokens, "decoder backward")

    def read(module: Any, arguments: Any, output: Any) -> None:
        mark("decoder forward")
        on_gradient(output.last_hidden_state, "head and loss")

    def on_gradient(tensor: Tensor, part: str) -> None:
        tensor.register_hook(lambda gradient: mark(part))

    with ExitStack() as stack:
        handles = [
            model.encoder.log_mel.register_forward_pre_hook(before("the rest")),
            model.encoder.log_mel.register_forward_hook(before("mel")),
            model.encoder.register_forward_hook(before("encoder")),
            model.projector.register_forward_hook(projected),
            language_model.base_model.register_forward_hook(read),
            model.register_forward_hook(before("head and loss")),
            *(weight.register_post_accumulate_grad_hook(before("projector")) for weight in ours.trainer.weights),
            optimizer.register_step_post_hook(before("clipping and optimizer")),
        ]
        for handle in handles:
            stack.callback(handle.remove)
        yield
