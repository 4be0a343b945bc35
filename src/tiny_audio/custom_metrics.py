"""Custom metrics: `log_metric("custom/name", value)`, called from anywhere inside a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

OWN_GROUPS = ("train", "eval", "system")  # groups of the toolkit's own metrics

_collecting: CustomMetrics | None = None  # of the current step; None outside of a step


def log_metric(name: str, value: float | Tensor) -> None:
    """Log a custom metric together with the other metrics of the step.

    A line of metrics holds the mean of the values since the previous line. A tensor stays on its device until then, so
    that the host does not wait for it earlier. Outside of a training step (at evaluation, at inference) nothing
    happens. With several processes, only the values of the main process are logged.

    Args:
        name: such as `custom/gate_entropy`: any group but `train/`, `eval/` and `system/`.
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
    """Sums of the values of `log_metric` since the last line; as a context manager it receives the values.

    Args:
        state: the result of an earlier `state`.
    """

    def __init__(self, state: dict[str, list[float]]) -> None:
        self._sums: dict[str, tuple[float | Tensor, int]] = {
            name: (total, int(count)) for name, (total, count) in state.items()
        }

    def add(self, name: str, value: float | Tensor) -> None:
        """Add a value to its sum."""
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)

    def take(self) -> dict[str, float]:
        """Return the means, and reset the sums."""
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means

    def state(self) -> dict[str, list[float]]:
        """Return sum and count of each, for the run's state."""
        return {name: [float(total), count] for name, (total, count) in self._sums.items()}

    def __enter__(self) -> None:
        # Not a ContextVar: the backward pass runs on other threads, and a gradient hook may log too.
        global _collecting
        _collecting = self

    def __exit__(self, *error: object) -> None:
        global _collecting
        _collecting = None
