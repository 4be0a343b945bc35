"""What `projectors.py` and `warmup.py` share: error rates of runs that were repeated with several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiny_audio.evaluation.wer import bootstrap_interval


class Rates(NamedTuple):
    """Error rates in percent; intervals are a bootstrap over clips, of the mean over seeds.

    Attributes:
        seeds: of each seed.
        interval: 95 % interval of their mean.
        difference: 95 % interval of the difference to the baseline, paired by clip; None for the baseline itself.
    """

    seeds: list[float]
    interval: tuple[float, float]
    difference: tuple[float, float] | None

    @property
    def mean(self) -> float:
        """Of all seeds."""
        return float(np.mean(self.seeds))

    def cells(self) -> tuple[str, str, str]:
        """Return each seed, the mean with its interval, and the difference, for a table."""
        each = ", ".join(f"{rate:.1f}" for rate in self.seeds)
        mean = f"{self.mean:.1f} % ({self.interval[0]:.1f} to {self.interval[1]:.1f})"
        return each, mean, "{:+.1f} to {:+.1f} points".format(*self.difference) if self.difference else ""


def rates_of(runs: Mapping[str, Mapping[str, Any]], baseline: str) -> dict[str, Rates]:
    """Return the rates of each variant, given the `errors` and `words` of each clip, by variant and seed."""
    words = np.array(next(iter(runs[baseline].values()))["words"])
    errors = {name: np.array([run["errors"] for run in seeds.values()]) for name, seeds in runs.items()}

    def interval(wrong: np.ndarray) -> tuple[float, float]:
        low, high = bootstrap_interval(wrong, words)
        return 100 * low, 100 * high

    return {
        name: Rates(
            (100 * wrong.sum(1) / words.sum()).tolist(),
            interval(wrong),
            None if name == baseline else interval(wrong.mean(0) - errors[baseline].mean(0)),
        )
        for name, wrong in errors.items()
    }


class Curves(NamedTuple):
    """How one variant's runs went: x (points,), and y (seeds, points)."""

    x: np.ndarray
    y: np.ndarray


def draw(
    path: Path, curves: Mapping[str, Curves], rates: Mapping[str, Rates], colors: Mapping[str, str], **labels: Any
) -> None:
    """Draw mean and range of the curves, and beside them the final rates with their intervals.

    Args:
        path: of the picture.
        curves, rates, colors: of each variant.
        labels: of the curves' axes, as `matplotlib.axes.Axes.set` takes them.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), width_ratios=(3, 2), layout="constrained")
    for place, (name, curve) in enumerate(curves.items()):
        color, rate = colors[name], rates[name]
        left.plot(curve.x, curve.y.mean(0), color=color, label=name)
        left.fill_between(curve.x, curve.y.min(0), curve.y.max(0), color=color, alpha=0.15, linewidth=0)
        right.plot(rate.interval, [place, place], color=color)
        right.plot(rate.mean, place, "o", color=color)
        right.plot(rate.seeds, [place + 0.2] * len(rate.seeds), "|", color=color)
    left.set(title="Mean and range of the seeds", **labels)
    left.legend(frameon=False)
    right.set(xlabel="WER, %", title="95 % interval, seeds below", ylim=(len(curves) - 0.5, -0.5))
    right.set_yticks(range(len(curves)), list(curves))
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
