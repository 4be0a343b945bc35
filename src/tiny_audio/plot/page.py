"""One page that opens without a network: the curves, the last and best figures, and what the runs differ in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from ..training import metrics
from .figure import run_colours
from .runs import Run, differing_settings

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #222; --paper: #fff; --line: #ddd; --faint: #666; }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #ddd; --paper: #181a1b; --line: #3a3d3f; --faint: #999; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--paper); max-width: 1300px;
       margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.4em; }}
h2 {{ font-size: 1.1em; margin-top: 2em; }}
.wide {{ overflow-x: auto; }}
svg {{ width: 100%; min-width: 800px; height: auto; background: #fff; border-radius: 6px; }}
@media (prefers-color-scheme: dark) {{ svg, .run {{ filter: invert(.9) hue-rotate(180deg); }} }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3em .9em .3em 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; }}
.number {{ text-align: right; }}
td.number {{ white-space: nowrap; }}
.run {{ display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a page that needs no other file, readable by day and by night, around a body of HTML."""
    return PAGE.format(title=escape(title), body=body, style=style)


def drawing(svg: str) -> str:
    """Return a picture as a part of a page."""
    return f'<div class="wide">\n{svg[svg.index("<svg") :]}\n</div>'  # without the declaration of an XML file


def build_page(runs: Sequence[Run], svg: str) -> str:
    """Return the page around a picture of the runs."""
    colours = run_colours(len(runs))
    heads = [
        f'<span class="run" style="background:{colour}"></span>{escape(run.name)}'
        for run, colour in zip(runs, colours, strict=True)
    ]
    settings = ""
    if differing := differing_settings(runs):
        rows = ([escape(key), *map(escape, values)] for key, values in differing.items())
        settings = "<h2>What they differ in</h2>\n" + table(["setting", *heads], rows)
    columns = ["run", "steps", "last training loss", "best WER", "last WER", "best CER", "best evaluation loss"]
    rows = ([head, *figures_of(run)] for head, run in zip(heads, runs, strict=True))
    figures = table(columns, rows, [False, *[True] * (len(columns) - 1)])
    title = f"Curves of {runs[0].name}" if len(runs) == 1 else f"Curves of {len(runs)} runs"
    return document(title, f"{drawing(svg)}\n<h2>Figures</h2>\n{figures}\n{settings}")


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[bool] | None = None) -> str:
    """Return a table of cells that are HTML already; `numbers` says of each column whether it holds numbers.

    A table that is too wide for a phone is moved to and fro: words are not broken.
    """
    right = [" class='number'" if number else "" for number in numbers or [False] * len(head)]

    def row(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for cell, kind in zip(cells, right, strict=True))}</tr>"

    lines = [row("th", head), *(row("td", cells) for cells in rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"
