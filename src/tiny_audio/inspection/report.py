"""A report for the terminal, in 80 columns, as a page, and as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..pages import render
from ..training.console import format_number
from .facts import CorpusFacts, Finding, Histogram, Report

BARS = " ▁▂▃▄▅▆▇█"
BAR_WIDTH = 24  # characters of a histogram at most
MAX_KINDS = 4  # kinds of recordings that are named


def print_report(console: Console, report: Report) -> None:
    """Print all tables, then the findings."""
    for table in tables(report):
        console.print(table)
        console.print()
    for line in remarks(report):
        print_line(console, line)
    console.print()
    print_findings(console, report.findings)


def remarks(report: Report) -> list[str]:
    """Return the remarks after the tables."""
    mixture = report.mixture
    lines = [
        f"Padding: {mixture.padding:.1%} of a batch as planned, {mixture.padding_random:.0%} in random "
        f"batches, {mixture.padding_30s:.0%} with each clip padded to 30 s."
    ]
    if report.tokenizer is not None:
        lines.append(f"No tokens were counted: {report.tokenizer}")
    return lines


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print a line of text unchanged."""
    console.print(Text(line, style), soft_wrap=True)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print a line for each finding, what to do, and the clips by name."""
    severe = sum(finding.severe for finding in findings)
    if not findings:
        print_line(console, "No findings.", "bold green")
        return
    print_line(console, f"Findings{f' ({severe} severe, marked !!)' if severe else ''}", "bold")
    for finding in findings:
        mark, style = ("!!", "bold red") if finding.severe else (" -", "yellow")
        where = f"{finding.corpus}: " if finding.corpus else ""
        line = Text.assemble((where, "bold"), finding.what, " ", (sentence(finding.todo), "dim"))
        _hang(console, Text(mark, style), line)
        for name, note in finding.clips:
            _hang(console, Text("    "), Text.assemble((name, "cyan"), f"  {note}" if note else ""))


def _hang(console: Console, mark: Text, line: Text) -> None:
    """Print a line after a mark; if it is too wide for a terminal, its further lines are indented as well."""
    if console.is_terminal:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(mark, line)
        console.print(grid)
    else:
        console.print(Text.assemble(mark, " ", line), soft_wrap=True)


def sentence(text: str) -> str:
    """Return a text as a sentence; names of settings stay as they are typed."""
    return text if text.startswith(("data.", "training.")) else text[:1].upper() + text[1:]


def _table(title: str, *columns: str) -> Table:
    """Return a table whose first column is wide and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.title_style = "bold"
    for i, column in enumerate(columns):
        number = i > 0 and column  # columns without a heading do not hold numbers
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def tables(report: Report) -> list[Table]:
    """Return the tables, without those that there are no facts for."""
    of_corpora = (corpora_table, text_table, length_table, recording_table, decoded_table)
    built = [*(build(report.corpora) for build in of_corpora), mixture_table(report)]
    return [table for table in built if table is not None]


def corpora_table(corpora: Sequence[CorpusFacts]) -> Table:
    """Corpora, and the clips that were left out at indexing."""
    with_contexts = any(facts.contexts for facts in corpora)
    headings = ["contexts"] if with_contexts else []
    table = _table("Corpora", "corpus", "clips", "hours", "speakers", *headings, "left out")
    for facts in corpora:
        speakers = "?" if facts.speakers is None else f"{facts.speakers:,}"
        left_out = ", ".join(f"{named.count:,} {reason}" for reason, named in facts.left_out.items())
        contexts = [f"{facts.contexts:,}"] if with_contexts else []
        table.add_row(facts.title, f"{facts.clips:,}", f"{facts.hours:,.2f}", speakers, *contexts, left_out or "0")
    return table


def text_table(corpora: Sequence[CorpusFacts]) -> Table:
    """Facts about the transcripts."""
    has_tokens = any(facts.tokens is not None for facts in corpora)
    tokens = ["tokens", "most"] if has_tokens else []
    table = _table("Transcripts", "corpus", "words", "vocabulary", "words/s", "range", "unique", *tokens)
    for facts in corpora:
        text, rate = facts.text, facts.text.words_per_second
        counted = [f"{facts.tokens.tokens.median:.0f}", f"{facts.tokens.tokens.max:.0f}"] if facts.tokens else []
        table.add_row(
            *(facts.title, f"{text.words:,}", f"{text.vocabulary:,}", f"{rate.median:.2f}"),
            *(f"{rate.min:.1f} to {rate.max:.1f}", f"{text.distinct / facts.clips:.0%}", *counted),
        )
    return table


def length_table(corpora: Sequence[CorpusFacts]) -> Table:
    """How long the clips are, with a histogram."""
    table = _table("Durations, s", "corpus", "min", "median", "mean", "max", "")
    for facts in corpora:
        spread = facts.durations
        numbers = (f"{value:.2f}" for value in (spread.min, spread.median, spread.mean, spread.max))
        table.add_row(facts.title, *numbers, Text(bars(facts.duration_histogram), "cyan"))
    histogram = corpora[0].duration_histogram  # all corpora have the same edges
    each = histogram.joined(BAR_WIDTH).edges[1]
    table.caption = f"bars from 0 to {histogram.edges[-1]:g} s, {each:g} s each"
    table.caption_justify = "left"
    return table


def bars(histogram: Histogram) -> str:
    """Draw a histogram as one line; every count above 0 is visible."""
    counts = histogram.joined(BAR_WIDTH).counts
    most = max(counts)
    return "".join(BARS[math.ceil(8 * count / most)] if count else BARS[0] for count in counts)


def recording_table(corpora: Sequence[CorpusFacts]) -> Table | None:
    """Facts from headers."""
    table = _table("Recordings, by their headers", "corpus", "looked at", "")
    for facts in corpora:
        if facts.headers is not None:
            kinds = list(facts.headers.kinds.items())
            lines = [f"{count:,} {kind}" for kind, count in kinds[:MAX_KINDS]]
            if rest := kinds[MAX_KINDS:]:
                lines.append(f"{sum(count for _, count in rest):,} of {len(rest)} other kinds")
            table.add_row(facts.title, f"{facts.headers.looked:,}", "\n".join(lines))
    return table if table.row_count else None


def decoded_table(corpora: Sequence[CorpusFacts]) -> Table | None:
    """Facts from decoded clips."""
    table = _table("Decoded, as training does", "corpus", "clips", "skipped", "level, dBFS", "peak", "reach, kHz")
    for facts in corpora:
        found = facts.decoded
        if found is None:
            continue
        row = ["-"] * 3
        if found.rms is not None and found.peak is not None and found.bandwidth_khz is not None:
            row = [
                f"{found.rms.median:.0f} ({found.rms.min:.0f} to {found.rms.max:.0f})",
                f"{found.peak.max:.1f}",
                f"{found.bandwidth_khz.median:g}",
            ]
        skipped = sum(named.count for named in found.skipped.values())
        table.add_row(facts.title, f"{found.looked:,}", f"{skipped:,}", *row)
    return table if table.row_count else None


def mixture_table(report: Report) -> Table:
    """How often each corpus is drawn."""
    mixture = report.mixture
    title = (
        f"Mixture: {mixture.steps:,} steps of {mixture.clips_per_step:,} clips are {mixture.drawn_hours:,.1f} h, "
        f"{format_number(mixture.epochs)} epochs"
    )
    table = _table(title, "corpus", "of the draws", "of the clips", "of the hours", "passes in the run")
    for share in mixture.shares:
        shares = (f"{part:.1%}" for part in (share.draws, share.clips, share.hours))
        table.add_row(share.name, *shares, format_number(share.passes))
    return table


def to_json(report: Report) -> str:
    """Return all numbers as JSON."""
    plain = asdict(report) | {"severe": report.severe}
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def to_page(report: Report, svg: str) -> str:
    """Return one page, which opens without a network, around the picture of a report."""
    severe = sum(finding.severe for finding in report.findings)
    return render(
        "inspection/report.html",
        title="Data: " + ", ".join(dict.fromkeys(facts.name for facts in report.corpora)),
        heading=f"Findings ({severe} severe)" if severe else "Findings",
        svg=svg,
        findings=report.findings,
        sentence=sentence,
        tables=[plain(table) for table in tables(report)],
        remarks=remarks(report),
    )


def plain(table: Table) -> dict[str, Any]:
    """Return a table of the terminal as texts."""
    return {
        "title": str(table.title),
        "head": [str(column.header) for column in table.columns],
        "rows": list(zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)),
        "numbers": [column.justify == "right" for column in table.columns],
        "caption": str(table.caption) if table.caption else "",
    }
