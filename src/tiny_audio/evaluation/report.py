"""Tables of results: for the terminal, and as files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..text import NORMALIZER_NAME, is_unspaced
from .score import Result, Score, Tally, difference

FORMATS = (".json", ".jsonl", ".csv", ".md")
ALL = "all sets"
COLUMNS = ("WER", "95 % interval", "sub", "ins", "del", "CER", "loss")


def _cells(score: Score) -> list[str]:
    words, (low, high) = score.words, score.interval
    counts = (words.substitutions, words.insertions, words.deletions)
    return [
        f"{words.rate:.1%}",
        f"{100 * low:.1f} to {high:.1%}",
        *(f"{count:,}" for count in counts),
        f"{score.characters.rate:.1%}",
        f"{score.loss:.3f}",
    ]


def _blocks(results: Sequence[Result]) -> dict[str, list[Score]]:
    """Return each set's figures, of each result; last those of all sets together, where there are several."""
    names = list(results[0].sets)
    blocks = {name: [result.sets[name] for result in results] for name in names}
    return blocks | {ALL: [result.total for result in results]} if len(names) > 1 else blocks


def _title(name: str, score: Score) -> str:
    return f"{name}: {len(score.lengths):,} clips, {score.words.length:,} words"


def print_tables(console: Console, results: Sequence[Result], ranked: Sequence[Result], metric: str) -> None:
    """Print a table for each set, what the figures mean, and whether the best differs from the next by chance.

    Args:
        console: standard output.
        results: in the order of the rows.
        ranked: best first.
        metric: what they are ranked by.
    """
    best = ranked[0] if len(results) > 1 and ranked else None
    for name, scores in _blocks(results).items():
        console.print(Text(_title(name, scores[0]), "bold"))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))  # fits in 80 columns
        table.add_column("checkpoint", overflow="fold")
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("")
        for result, score in zip(results, scores, strict=True):
            style = "bold" if result is best else None
            table.add_row(Text(result.name), *_cells(score), "best" if result is best else "", style=style)
        console.print(table)
        for line in notes(name, results, scores):
            console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
        console.print()
    for line in statements(ranked, metric):
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def notes(name: str, results: Sequence[Result], scores: Sequence[Score]) -> list[str]:
    """Say of a set what was not judged, or not as the others; and of each checkpoint what was not as it should be."""
    first = scores[0].tally
    lines = []
    if first.left_out:
        lines.append(f"Not judged: {_count(first.left_out)}.")
    if first.in_pieces:
        lines.append(f"{first.in_pieces:,} judged in pieces, with the loop guard, as `ta infer` writes them.")
    if is_unspaced(row.reference for row in results[0].transcripts if name in (row.dataset, ALL)):
        lines.append("Written without spaces between words: CER is the figure, WER counts each character as a word.")
    for result, score in zip(results, scores, strict=True):
        tally, parts = score.tally, []
        if tally.unread:
            parts.append(f"{_count(tally.unread)} could not be read, all words count as deleted")
        if tally.without_speech:
            parts.append(
                f"text on {tally.invented_on:,} of {tally.without_speech:,} clips without speech, "
                f"{tally.invented_words:,} words that count as inserted"
            )
        if tally.cut_off:
            parts.append(f"{tally.cut_off:,} transcripts cut off by the limit of tokens")
        if tally.looped:
            parts.append(f"{tally.looped:,} with loops")
        if parts:
            lines.append(f"{result.name}: {'; '.join(parts)}.")
    return lines


def _count(reasons: Counter[str]) -> str:
    """Write clips by reason: `3 clips (2 missing, 1 silent)`."""
    total = reasons.total()
    return f"{total:,} clip{'' if total == 1 else 's'} ({_each(reasons)})"


def _each(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())


def statements(ranked: Sequence[Result], metric: str) -> list[str]:
    """Say in a line each whether the best beats the next by more than chance, and how it was scored."""
    lines = []
    if len(ranked) > 1 and metric == "wer":
        first, second = ranked[:2]
        gap, low, high = difference(first.total, second.total)
        verdict = "more than chance" if low > 0 else "these clips cannot tell the two apart"
        lines.append(
            f"{first.name} against {second.name}: {100 * gap:.1f} points of WER lower, 95 % interval {100 * low:.1f} "
            f"to {100 * high:.1f}: {verdict}."
        )
    elif len(ranked) > 1:
        lines.append(f"The best is the best by {metric}.")
    return [*lines, f"Scored after: {NORMALIZER_NAME}."]


def to_rows(results: Sequence[Result], ranked: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a plain row for each set and checkpoint; rates are shares of one."""
    rows = []
    for name, scores in _blocks(results).items():
        for result, score in zip(results, scores, strict=True):
            words, (low, high) = score.words, score.interval
            rows.append(
                {
                    "checkpoint": str(result.path),
                    "step": result.step,
                    "dataset": name,
                    "clips": len(score.lengths),
                    "words": words.length,
                    "wer": words.rate,
                    "wer_low": low,
                    "wer_high": high,
                    "substitutions": words.substitutions,
                    "insertions": words.insertions,
                    "deletions": words.deletions,
                    "cer": score.characters.rate,
                    "loss": score.loss if math.isfinite(score.loss) else None,  # JSON knows no NaN
                    "best": bool(ranked) and result is ranked[0],
                    **{one.name: getattr(score.tally, one.name) for one in fields(Tally)},
                    "scoring": NORMALIZER_NAME,
                }
            )
    return rows


def to_text(form: str, results: Sequence[Result], ranked: Sequence[Result]) -> str:
    """Return the rows as one of `FORMATS`."""
    if form == ".md":
        return _markdown(results, ranked)
    rows = to_rows(results, ranked)
    if form == ".json":
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    if form == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        counts = {key: _each(value) for key, value in row.items() if isinstance(value, Counter)}
        writer.writerow(row | counts)
    return table.getvalue()


def _markdown(results: Sequence[Result], ranked: Sequence[Result]) -> str:
    lines = []
    for name, scores in _blocks(results).items():
        lines += [f"**{_title(name, scores[0])}**", "", "| checkpoint | " + " | ".join(COLUMNS) + " |"]
        lines.append("|---|" + "---:|" * len(COLUMNS))
        for result, score in zip(results, scores, strict=True):
            label = f"**{result.name}**" if ranked and result is ranked[0] else result.name
            lines.append(f"| {label} | " + " | ".join(_cells(score)) + " |")
        lines += ["", *(f"- {note}" for note in notes(name, results, scores)), ""]
    return "\n".join([*lines, f"Bold: the best. Scored after: {NORMALIZER_NAME}.", ""])
