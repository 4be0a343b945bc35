"""A report as a picture or as one page that opens without a network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from rich.table import Table

from ..plot.page import document, drawing, table
from ..plot.write import render
from .facts import Finding, Report
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

STYLE = """\
.finding { border-left: 4px solid #E69F00; padding: .1em 0 .1em .8em; margin: .8em 0; }
.finding.severe { border-color: #CC0000; }
.finding p { margin: .2em 0; }
.todo { color: var(--faint); }
.finding ul { margin: .2em 0; padding-left: 1.2em; }
code { font-size: .92em; overflow-wrap: anywhere; }
td { white-space: pre-line; }
"""


def render_report(report: Report, suffix: str) -> bytes:
    """Return a report as a .png, .svg or .html file."""
    form = "png" if suffix == ".png" else "svg"
    picture = render(draw_report(report), form)
    return build_page(report, picture.decode()).encode() if suffix == ".html" else picture


def build_page(report: Report, svg: str) -> str:
    """Return the page around the picture of a report."""
    severe = sum(finding.severe for finding in report.findings)
    heading = f"Look at ({severe} severe)" if severe else "Look at"
    findings = "\n".join(map(describe, report.findings)) or "<p>Nothing was found that a person should act on.</p>"
    built = [build(report.corpora) for build in (corpora_table, text_table, length_table)]
    rest = (recording_table(report.corpora), decoded_table(report.corpora), mixture_table(report))
    tables = "\n".join(to_html(one) for one in (*built, *rest) if one is not None)
    tables += "".join(f"\n<p>{escape(line)}</p>" for line in remarks(report))
    names = list(dict.fromkeys(facts.name for facts in report.corpora))
    title = "Data: " + ", ".join(names)
    return document(title, f"{drawing(svg)}\n<h2>{heading}</h2>\n{findings}\n{tables}", STYLE)


def describe(finding: Finding) -> str:
    """Return a finding as HTML."""
    where = f"<b>{escape(finding.corpus)}:</b> " if finding.corpus else ""
    clips = "".join(f"<li><code>{escape(name)}</code> {escape(note)}</li>" for name, note in finding.clips)
    return (
        f'<div class="finding{" severe" * finding.severe}"><p>{where}{escape(finding.what)}</p>'
        f'<p class="todo">{escape(sentence(finding.todo))}</p>{f"<ul>{clips}</ul>" if clips else ""}</div>'
    )


def to_html(shown: Table) -> str:
    """Return a table of the terminal as HTML."""
    columns = [list(column.cells) for column in shown.columns]
    rows: Iterable[tuple[object, ...]] = zip(*columns, strict=True)
    cells = ([escape(str(cell)) for cell in row] for row in rows)
    caption = f"<p class='todo'>{escape(str(shown.caption))}</p>" if shown.caption else ""
    head = [escape(str(column.header)) for column in shown.columns]
    numbers = [column.justify == "right" for column in shown.columns]
    return f"<h2>{escape(str(shown.title))}</h2>\n{table(head, cells, numbers)}{caption}"
