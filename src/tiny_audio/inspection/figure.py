"""The data in one figure: lengths, transcripts against lengths, rates, mixture, levels, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..plot.figure import WIDTH, label, render_figure, run_colors, style
from ..training.console import format_number
from .facts import CorpusFacts, Histogram, Report
from .report import to_page
from .texts import OUTLIER_FACTOR

OUTLIER_COLOR = "#CC0000"
MAX_STAIRS = 40  # bars of a histogram
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%")
ABOVE: dict[str, Any] = {  # a legend between title and panel, where it hides nothing
    **{"frameon": False, "fontsize": 9, "ncols": 3, "loc": "lower left", "bbox_to_anchor": (-0.02, 0.96)},
    **{"handlelength": 1, "columnspacing": 1},
}
STYLES: dict[str, Any] = {"train": "-", "eval": "--"}


def render_report(report: Report, suffix: str) -> bytes:
    """Return a report as a .png, .svg or .html file, which is a page around the picture."""
    picture = render_figure(draw_report(report), "png" if suffix == ".png" else "svg")
    return to_page(report, picture.decode()).encode() if suffix == ".html" else picture


def draw_report(report: Report) -> Figure:
    """Draw a report, with a color for each name; evaluation corpora are dashed and darker."""
    corpora = report.corpora
    names = list(dict.fromkeys(facts.name for facts in corpora))
    by_name = dict(zip(names, run_colors(len(names)), strict=True))
    colors = [by_name[facts.name] if facts.role == "train" else darken(by_name[facts.name]) for facts in corpora]
    with matplotlib.rc_context(style() | {"axes.axisbelow": True}):
        figure = Figure(figsize=(WIDTH, 7.4), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        lines = [
            Line2D([], [], color=color, linestyle=STYLES[facts.role], linewidth=2)
            for facts, color in zip(corpora, colors, strict=True)
        ]
        titles = [label(facts.title) for facts in corpora]
        figure.legend(lines, titles, loc="outside upper left", ncols=4, frameon=False, fontsize=11)
        axes = figure.subplots(2, 3, gridspec_kw={"hspace": 0.06}).flat
        draw_histograms(next(axes), "Durations, s", corpora, colors, [f.duration_histogram for f in corpora])
        draw_lengths(next(axes), corpora, colors)
        draw_histograms(next(axes), "Words a second", corpora, colors, [f.text.rate_histogram for f in corpora])
        draw_mixture(next(axes), report)
        levels = [None if f.decoded is None else f.decoded.rms_histogram for f in corpora]
        draw_histograms(next(axes), "Level of decoded clips, dBFS", corpora, colors, levels)
        draw_padding(next(axes), report)
    return figure


def draw_histograms(
    ax: Axes,
    title: str,
    corpora: Sequence[CorpusFacts],
    colors: Sequence[str],
    histograms: Sequence[Histogram | None],
) -> None:
    """Draw a histogram of each corpus, as shares of its clips, so that small and large corpora can be compared."""
    ax.set_title(title, loc="left")
    drawn = [one.joined(MAX_STAIRS) for one in histograms if one is not None]
    if not drawn:
        nothing(ax, "no clip was decoded")
        return
    counted = [one for one in zip(corpora, colors, histograms, strict=True) if one[2] is not None]
    for (facts, color, _), histogram in zip(counted, drawn, strict=True):
        shares = np.array(histogram.counts) / max(sum(histogram.counts), 1)
        ax.stairs(shares, histogram.edges, color=color, linestyle=STYLES[facts.role], linewidth=1.8)
        if facts.role == "train":
            ax.stairs(shares, histogram.edges, color=color, fill=True, alpha=0.15)
    full = np.flatnonzero(np.sum([one.counts for one in drawn], axis=0))
    edges = drawn[0].edges
    ax.set_xlim(edges[max(int(full[0]) - 1, 0)], edges[min(int(full[-1]) + 2, len(edges) - 1)])
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(PERCENT)
    ax.set_ylabel("of the clips")


def draw_lengths(ax: Axes, corpora: Sequence[CorpusFacts], colors: Sequence[str]) -> None:
    """Draw characters against seconds: right transcripts lie along a line, and wrong ones stand out."""
    ax.set_title("Transcript against seconds", loc="left", pad=20)
    size = float(np.clip(6000 / max(sum(len(facts.points) for facts in corpora), 1), 4, 16))
    outliers = 0
    most = max(characters for facts in corpora for _, characters, _ in facts.points)
    for facts, color in zip(corpora, colors, strict=True):
        seconds, characters, wrong = (np.array(column) for column in zip(*facts.points, strict=True))
        marker = "o" if facts.role == "train" else "x"
        ax.scatter(seconds, characters, s=size, color=color, alpha=0.4, linewidths=0.8, marker=marker)
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": OUTLIER_COLOR, "linewidths": 1.5}
        ax.scatter(seconds[wrong], characters[wrong], s=60, **ring)
        outliers += facts.text.num_outliers
        for one in facts.text.outliers[:2]:
            name = label(one.name.rsplit("/", 1)[-1])
            place = (one.seconds, one.characters)
            ax.annotate(name, place, xytext=(6, 4), textcoords="offset points", fontsize=8, color=OUTLIER_COLOR)
        if facts.role == "train" and facts.text.seconds_per_character is not None:
            line = np.array([0, most])
            expected = (facts.text.seconds_around or 0) + facts.text.seconds_per_character * line
            ax.plot(expected, line, color=color, linewidth=1)
            for factor in (1 / OUTLIER_FACTOR, OUTLIER_FACTOR):
                ax.plot(factor * expected, line, color=color, linewidth=1, linestyle=":")
    handles = [Line2D([], [], color="0.3", linewidth=1), Line2D([], [], color="0.3", linewidth=1, linestyle=":")]
    words = ["usual length", "half and twice of it"]
    if outliers:
        handles.append(Line2D([], [], color=OUTLIER_COLOR, marker="o", markerfacecolor="none", linestyle="none"))
        words.append(f"does not fit: {outliers:,}")
    ax.legend(handles, words, **ABOVE)
    ax.set_xlim(0, 1.03 * max(seconds for facts in corpora for seconds, _, _ in facts.points))
    ax.set_ylim(0, 1.05 * most)
    ax.set_xlabel("seconds")
    ax.set_ylabel("characters")


def draw_mixture(ax: Axes, report: Report) -> None:
    """Draw each training corpus's share of draws, of clips and of hours."""
    shares = report.mixture.shares
    ax.set_title("Mixture", loc="left", pad=20)
    places = np.arange(len(shares))[::-1]
    kinds = (("of the draws", "draws", "0.25"), ("of the clips", "clips", "0.55"), ("of the hours", "hours", "0.8"))
    for i, (title, attribute, gray) in enumerate(kinds):
        values = [getattr(share, attribute) for share in shares]
        drawn = ax.barh(places + 0.27 * (1 - i), values, height=0.25, color=gray, label=title)
        ax.bar_label(drawn, [f"{value:.1%}" for value in values], padding=3, fontsize=8)
    names = [f"{label(share.name)}\n{format_number(share.passes)} passes" for share in shares]
    ax.set_yticks(places, names)
    ax.set_xlim(0, 1.15 * max(max(share.draws, share.clips, share.hours) for share in shares))
    ax.xaxis.set_major_formatter(PERCENT)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-0.6, max(len(shares), 2) - 0.4)
    ax.legend(**ABOVE)


def draw_padding(ax: Axes, report: Report) -> None:
    """Draw the share of padding in planned, random and 30 s batches."""
    mixture = report.mixture
    ax.set_title("Padding in a batch", loc="left")
    values = [mixture.padding, mixture.padding_random, mixture.padding_30s]
    drawn = ax.barh([2, 1, 0], values, height=0.55, color=["#0072B2", "0.7", "0.7"])
    ax.bar_label(drawn, [f"{value:.1%}" for value in values], padding=4)
    ax.set_yticks([2, 1, 0], ["as planned", "at random", "all to 30 s"])
    ax.set_xlim(0, 1.12)
    ax.set_xticks(np.arange(0, 1.1, 0.2))
    ax.xaxis.set_major_formatter(PERCENT)
    ax.grid(axis="y", visible=False)


def darken(color: str) -> str:
    """Return a darker tone of a color."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    return str(matplotlib.colors.to_hex((0.5 * red, 0.5 * green, 0.5 * blue)))


def nothing(ax: Axes, text: str) -> None:
    """Write into a panel that there is nothing to draw."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color="0.5")
    ax.set_xticks([])
    ax.set_yticks([])
