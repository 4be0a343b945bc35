"""Metrics of one's own: `log_metric("custom/name", value)`, called from anywhere inside a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

OWN_GROUPS = ("train", "eval", "system")  # of the toolkit's own metrics

_collecting: CustomMetrics | None = None  # of the step that is being made; None outside of one


def log_metric(name: str, value: float | Tensor) -> None:
    """Log a metric of one's own together with the step's others.

    A line of metrics holds the mean of the values since the line before. A tensor stays on its device until then, so
    that the host never waits for it. Outside of a training step (at evaluation, at inference) nothing happens, and of
    several processes only the main one's values are logged.

    Args:
        name: `custom/gate_entropy`, say: any group but `train/`, `eval/` and `system/`.
        value: a number or a tensor of one element; it is detached.

    Raises:
        UserError: the name is one of the toolkit's own, or has no group; the tensor has more than one element.
    """
    group, slash, rest = name.partition("/")
    if not (group and slash and rest):
        raise UserError(f"log_metric: a name is written group/name, such as custom/{name.strip('/')}, got {name}.")
    if group in OWN_GROUPS:
        raise UserError(f"log_metric: {group}/ is for Tiny Audio's own metrics; write custom/{rest}, not {name}.")
    if not isinstance(value, int | float):
        if value.numel() != 1:
            raise UserError(f"log_metric: {name} must be one number, got a tensor of shape {tuple(value.shape)}.")
        value = value.detach().reshape(()).float()
    if _collecting is not None:
        _collecting.add(name, value)


class CustomMetrics:
    """What `log_metric` was given since the last line; as a context manager it is where the values go.

    Args:
        state: what an earlier `state` returned.
    """

    def __init__(self, state: dict[str, list[float]]) -> None:
        self._sums: dict[str, tuple[float | Tensor, int]] = {
            name: (total, int(count)) for name, (total, count) in state.items()
        }

    def add(self, name: str, value: float | Tensor) -> None:
        """Add a value up."""
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)

    def take(self) -> dict[str, float]:
        """Return the means, and begin anew."""
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means

    def state(self) -> dict[str, list[float]]:
        """Return sum and count of each, for the run's state."""
        return {name: [float(total), count] for name, (total, count) in self._sums.items()}

    def __enter__(self) -> None:
        # Not a ContextVar: the backward pass runs on threads of its own, and a gradient hook may log too.
        global _collecting
        _collecting = self

    def __exit__(self, *error: object) -> None:
        global _collecting
        _collecting = None
