"""Writes curves into a file: a picture, or one page that also has figures and settings, and opens without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import write_whole
from ..pages import render
from ..training import metrics
from .figure import draw, render_figure, run_colors
from .runs import Run, differing_settings

COLUMNS = ("run", "steps", "last training loss", "best WER", "last WER", "best CER", "best evaluation loss")


def write(runs: Sequence[Run], output: Path) -> None:
    """Draw the runs into a .png, .svg or .html file.

    Raises:
        UserError: the file cannot be written.
    """
    content = render_figure(draw(runs), "png" if output.suffix == ".png" else "svg")
    if output.suffix == ".html":
        content = build_page(runs, content.decode()).encode()
    try:
        write_whole(output.resolve(), content)
    except OSError as error:
        raise UserError(f"output: cannot write {output}: {error.strerror}.") from None


def build_page(runs: Sequence[Run], svg: str) -> str:
    """Return the page around a picture of the runs."""
    return render(
        "plot/page.html",
        title=f"Curves of {runs[0].name}" if len(runs) == 1 else f"Curves of {len(runs)} runs",
        svg=svg,
        names=[run.name for run in runs],
        colors=run_colors(len(runs)),
        columns=COLUMNS,
        figures=[figures_of(run) for run in runs],
        settings=differing_settings(runs),
    )


def figures_of(run: Run) -> list[str]:
    """Return the cells of a run's row."""
    last_step = max(steps[-1] for steps, _ in run.curves.values())
    wer, cer, loss = (metrics.EVAL + name for name in ("wer", "cer", "loss"))
    return [
        f"{last_step:,}",
        last(run, metrics.TRAIN_LOSS, ".3f"),
        best(run, wer, ".1%"),
        last(run, wer, ".1%"),
        best(run, cer, ".1%"),
        best(run, loss, ".3f"),
    ]


def last(run: Run, metric: str, form: str) -> str:
    """Return the last value of a metric."""
    _, values = run.curves.get(metric, ([], []))
    return format(values[-1], form) if values else "-"


def best(run: Run, metric: str, form: str) -> str:
    """Return the lowest value of a metric, and its step."""
    steps, values = run.curves.get(metric, ([], []))
    found = [(value, step) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    return f"{min(found)[0]:{form}} (step {min(found)[1]:,})" if found else "-"
