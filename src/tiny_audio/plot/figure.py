"""The curves of runs as one matplotlib figure, a panel for each metric."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..custom_metrics import OWN_GROUPS
from ..training import metrics
from ..training.console import format_rate
from .runs import Curve, Run

logger = logging.getLogger(__name__)

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's
COLUMNS = 3
WIDTH = 13.0  # inches
LOG_FROM = 15.0  # ratio of largest and smallest value, above which an axis is logarithmic
SMOOTHED_SHARE = 1 / 25  # share of a curve's values that a smoothed value averages
ASIAN_FONTS = ("Noto Sans CJK KR", "Noto Sans CJK JP", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic")


@dataclass(frozen=True)
class Panel:
    """What one panel shows: a metric as a line, a second one dashed.

    Attributes:
        title: the text above it.
        metric: the metric of the line.
        dashed: another metric on the same axis, with the legend's words for both.
        noisy: draw a smoothed line over the faint values.
        log: use a logarithmic axis where values span a wide range; false: never.
        written: the format of the numbers of its axis.
    """

    title: str
    metric: str
    dashed: tuple[str, str, str] | None = None
    noisy: bool = False
    log: bool = True
    written: Callable[[float], str] = "{:.6g}".format


PANELS = (
    Panel("Training loss", metrics.TRAIN_LOSS, noisy=True),
    Panel("Evaluation loss", metrics.EVAL + "loss"),
    Panel(
        "Error rate",
        metrics.EVAL + "wer",
        (metrics.EVAL + "cer", "WER, of words", "CER, of characters"),
        written=lambda share: f"{100 * share:.4g}%",
    ),
    Panel("Learning rate", metrics.LEARNING_RATE, log=False, written=format_rate),
    Panel("Gradient norm, before clipping", metrics.GRAD_NORM, noisy=True),
    Panel("Speed, clips a second", metrics.SAMPLES_PER_SECOND, noisy=True, log=False),
)


def draw(runs: Sequence[Run]) -> Figure:
    """Draw the curves of runs, custom metrics after those of the toolkit."""
    own = dict.fromkeys(name for run in runs for name in run.curves if name.split("/")[0] not in OWN_GROUPS)
    panels = [*PANELS, *(Panel(name, name, noisy=True) for name in own)]
    colors = run_colors(len(runs))
    rows = math.ceil(len(panels) / COLUMNS)
    longest = max(len(run.name) for run in runs)
    ncols = max(1, min(4, int(WIDTH / (0.8 + 0.1 * longest))))  # inches: a line and its gap, and a letter
    with matplotlib.rc_context(style()):
        height = 3.0 * rows + 0.35 + 0.25 * math.ceil(len(runs) / ncols)
        figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        handles = [Line2D([], [], color=color, linewidth=2) for color in colors]
        labels = [label(run.name) for run in runs]
        figure.legend(handles, labels, loc="outside upper left", ncols=ncols, frameon=False, fontsize=11)
        axes = figure.subplots(rows, COLUMNS, squeeze=False, gridspec_kw={"hspace": 0.06}).flat
        for ax, panel in zip(axes, panels, strict=False):
            draw_panel(ax, panel, runs, colors)
        for ax in axes[len(panels) :]:  # the last row may not be full
            ax.remove()
    return figure


def draw_panel(ax: Axes, panel: Panel, runs: Sequence[Run], colors: Sequence[str]) -> None:
    """Draw one metric of all runs."""
    names = [panel.metric] + ([panel.dashed[0]] if panel.dashed else [])
    values = []
    for run, color in zip(runs, colors, strict=True):
        for name, style in zip(names, ("-", "--"), strict=False):
            if name in run.curves:
                draw_curve(ax, run.curves[name], color, style, panel.noisy)
                values += [value for value in run.curves[name][1] if math.isfinite(value)]
    ax.set_title(label(panel.title), loc="left")
    end = max(steps[-1] for run in runs for steps, _ in run.curves.values()) or 1
    ax.set_xlim(-0.01 * end, 1.02 * end)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    ax.set_xlabel("step")
    if not values:
        ax.text(0.5, 0.5, "nothing was logged", transform=ax.transAxes, ha="center", color="0.5")
        ax.set_yticks([])
        return
    scale(ax, panel, values)
    if panel.dashed and panel.dashed[0] in {name for run in runs for name in run.curves}:
        handles = [Line2D([], [], color="0.3", linestyle=style) for style in ("-", "--")]
        ax.legend(handles, panel.dashed[1:], frameon=False, fontsize=9)


def draw_curve(ax: Axes, curve: Curve, color: str, style: str, noisy: bool) -> None:
    """Draw a curve; a noisy one faintly, with a smoothed line over it."""
    steps, values = curve
    marker = "o" if len(steps) == 1 else None
    if noisy and len(steps) >= 20:
        ax.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        values = smooth(values, max(1, round(len(values) * SMOOTHED_SHARE / 2)))
    ax.plot(steps, values, color=color, linestyle=style, linewidth=1.8, marker=marker, markersize=4)


def scale(ax: Axes, panel: Panel, values: Sequence[float]) -> None:
    """Choose the axis: logarithmic where values span a wide range, else from zero where zero is near."""
    low, high = min(values), max(values)
    if panel.log and low > 0 and high / low > LOG_FROM:
        ax.set_yscale("log")
        wide = high / low > 1e3
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12))
        ax.yaxis.set_minor_locator(NullLocator())
    elif 0 <= low < high / 2:
        ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.written(value)))


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and `reach` values on either side; fewer near the start, where curves are steep."""
    found = []
    for i in range(len(values)):
        near = min(reach, i)
        finite = [value for value in values[i - near : i + near + 1] if math.isfinite(value)]
        found.append(sum(finite) / len(finite) if finite else math.nan)
    return found


def run_colors(count: int) -> list[str]:
    """Return a color for each run that color-blind people can tell from the others."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    shades = matplotlib.colormaps["viridis"]  # without the end that is too light for lines
    return [matplotlib.colors.to_hex(shades(0.9 * i / (count - 1))) for i in range(count)]


def style() -> dict[Any, Any]:
    """Return the settings of all figures, with fonts for Korean, Chinese and Japanese names if there are any."""
    installed = set(font_manager.get_font_names())
    return {
        "font.family": ["DejaVu Sans", *(name for name in ASIAN_FONTS if name in installed), "sans-serif"],
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.9",
        "svg.fonttype": "none",  # text stays text: small, and searchable
        "svg.hashsalt": "tiny-audio",  # the same runs give the same file
    }


def render_figure(figure: Figure, form: str) -> bytes:
    """Return a figure as `png` or `svg`."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(style()), warnings.catch_warnings():
        if form == "png":
            warnings.filterwarnings("error", "Glyph .* missing")
            try:
                figure.savefig(buffer, format="png", dpi=150)
            except UserWarning:
                logger.warning("No installed font has all letters of the names; an .html output shows them.")
                warnings.filterwarnings("ignore", "Glyph .* missing")
                figure.savefig(buffer, format="png", dpi=150)
        else:  # the viewer's own fonts are used
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def label(text: str) -> str:
    """Return text that matplotlib shows unchanged, without formulas between dollar signs."""
    return text.replace("$", r"\$")
