"""A report as a picture or as one page that opens without a network."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..pages import render as render_template
from ..plot.write import render
from .facts import Report
from .figure import draw_report
from .report import (
    corpora_table,
    decoded_table,
    length_table,
    mixture_table,
    recording_table,
    remarks,
    sentence,
    text_table,
)


def render_report(report: Report, suffix: str) -> bytes:
    """Return a report as a .png, .svg or .html file."""
    form = "png" if suffix == ".png" else "svg"
    picture = render(draw_report(report), form)
    return build_page(report, picture.decode()).encode() if suffix == ".html" else picture


def build_page(report: Report, svg: str) -> str:
    """Return the page around the picture of a report."""
    severe = sum(finding.severe for finding in report.findings)
    built = [build(report.corpora) for build in (corpora_table, text_table, length_table)]
    rest = (recording_table(report.corpora), decoded_table(report.corpora), mixture_table(report))
    return render_template(
        "inspection/report.html",
        title="Data: " + ", ".join(dict.fromkeys(facts.name for facts in report.corpora)),
        heading=f"Findings ({severe} severe)" if severe else "Findings",
        svg=svg,
        findings=report.findings,
        sentence=sentence,
        tables=[plain(one) for one in (*built, *rest) if one is not None],
        remarks=remarks(report),
    )


def plain(shown: Table) -> dict[str, Any]:
    """Return a table of the terminal as texts."""
    return {
        "title": str(shown.title),
        "head": [str(column.header) for column in shown.columns],
        "rows": list(zip(*([str(cell) for cell in column.cells] for column in shown.columns), strict=True)),
        "numbers": [column.justify == "right" for column in shown.columns],
        "caption": str(shown.caption) if shown.caption else "",
    }
