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

from ..text import is_unspaced
from .breakdown import by_duration, by_speaker
from .score import Difference, Result, Score, Tally, Transcript, difference, macro_average
from .scoring import RULES

ALL = "all sets"


def _columns(score: Score) -> list[tuple[str, str]]:
    """Return the columns of a table: the name, and the scoring rule."""
    rule = score.rule.name
    others = [("WER", name) for name in score.others]
    counts = [("sub", ""), ("ins", ""), ("del", "")]
    return [("WER", rule), ("95 % interval", rule), *counts, ("CER", rule), *others, ("RTFx", ""), ("loss", "")]


def _cells(score: Score) -> list[str]:
    words, (low, high) = score.words, score.interval
    counts = (words.substitutions, words.insertions, words.deletions)
    return [
        f"{words.rate:.1%}",
        f"{100 * low:.1f} to {high:.1%}",
        *(f"{count:,}" for count in counts),
        f"{score.characters.rate:.1%}",
        *(f"{other[0].rate:.1%}" for other in score.others.values()),
        "-" if score.rtfx is None else f"{score.rtfx:.1f}" if score.rtfx < 100 else f"{score.rtfx:,.0f}",
        f"{score.loss:.3f}" if math.isfinite(score.loss) else "-",
    ]


def table_of(results: Sequence[Result], scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Return the headings of figures, each with its scoring rule, and for each recognizer its name and its figures."""
    headings = [f"{column} ({rule})" if rule else column for column, rule in _columns(scores[0])]
    return headings, [[result.name, *_cells(score)] for result, score in zip(results, scores, strict=True)]


def blocks_of(results: Sequence[Result]) -> dict[str, list[Score]]:
    """Return the figures of each result by set; last those of all sets together, if there are several."""
    names = list(results[0].sets)
    blocks = {name: [result.sets[name] for result in results] for name in names}
    return blocks | {ALL: [result.total for result in results]} if len(names) > 1 else blocks


def _title(name: str, score: Score) -> str:
    return f"{name}: {len(score.lengths):,} clips, {score.words.length:,} words"


def print_tables(console: Console, results: Sequence[Result], ranked: Sequence[Result]) -> None:
    """Print a table for each set.

    Args:
        console: standard output.
        results: in the order of the rows.
        ranked: best first.
    """
    best = ranked[0] if len(results) > 1 and ranked else None
    for name, scores in blocks_of(results).items():
        console.print(Text(_title(name, scores[0]), "bold"))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))  # fits in 80 columns
        table.add_column("checkpoint", overflow="fold")
        for column, rule in _columns(scores[0]):
            table.add_column(f"{column}\n{rule}", justify="right", no_wrap=True)
        table.add_column("")
        for result, score in zip(results, scores, strict=True):
            style = "bold" if result is best else None
            table.add_row(Text(result.name), *_cells(score), "best" if result is best else "", style=style)
        console.print(table)
        for line in notes(name, results, scores):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print()


def print_statements(console: Console, results: Sequence[Result], ranked: Sequence[Result], metric: str) -> None:
    """Print what the figures mean, and whether the best differs from the next by more than chance.

    Args:
        console: standard output.
        results: as in `print_tables`.
        ranked: best first; in a comparison the two in their own order.
        metric: they are ranked by it.
    """
    for line in (*averages(results), *parts_of((ranked or results)[0]), *statements(ranked or results, metric)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def notes(name: str, results: Sequence[Result], scores: Sequence[Score]) -> list[str]:
    """Name the clips of a set that were not judged, or judged otherwise, and the faults of each checkpoint."""
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
                f"{tally.invented_words:,} words that {'' if score.rule.counts_empty else 'do not '}count as inserted"
            )
        if tally.cut_off:
            parts.append(f"{tally.cut_off:,} transcripts cut off by the limit of tokens")
        if tally.empty:
            parts.append(f"{tally.empty:,} empty")
        if tally.looped:
            parts.append(f"{tally.looped:,} with loops")
        if tally.runaway:
            parts.append(f"{tally.runaway:,} far longer than the reference")
        if parts:
            lines.append(f"{result.name}: {'; '.join(parts)}.")
    return lines


def _count(reasons: Counter[str]) -> str:
    """Write clips by reason: `3 clips (2 missing, 1 silent)`."""
    total = reasons.total()
    return f"{total:,} clip{'' if total == 1 else 's'} ({_each(reasons)})"


def _each(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())


def print_differing(
    console: Console, results: Sequence[Result], clips: Sequence[tuple[Transcript, Transcript, int]]
) -> None:
    """Print the clips on which two recognizers differ most.

    Args:
        console: standard output.
        results: the two.
        clips: both transcripts, and how many more errors the second has.
    """
    if clips:
        console.print(Text("Where they differ most", "bold"))
    width = max(len(result.name) for result in results)
    for first, second, more in clips:
        better = results[0 if more > 0 else 1].name
        console.print(Text(f"{first.name}: {better} by {abs(more)} error{'s' * (abs(more) > 1)}"), highlight=False)
        names = ("said", *(result.name for result in results))
        for name, text in zip(names, (first.reference, first.hypothesis, second.hypothesis), strict=True):
            console.print(Text(f"  {name:>{width}}  {text or ''}"), highlight=False, soft_wrap=True)
    console.print()


def averages(results: Sequence[Result]) -> list[str]:
    """Return each recognizer's mean over sets, if there are several: the figure that leaderboards rank by."""
    if len(results[0].sets) < 2:
        return []
    lines = []
    for result in results:
        rate, low, high = macro_average(list(result.sets.values()))
        lines.append(
            f"{result.name}: mean of {len(result.sets)} sets {rate:.1%} WER ({result.total.rule.name}), "
            f"95 % interval {100 * low:.1f} to {high:.1%}."
        )
    return lines


def parts_of(result: Result) -> list[str]:
    """Return a line on a recognizer's errors by length of clips, and one on its best and worst speaker."""
    durations = by_duration(result.transcripts, result.total)
    speakers = by_speaker(result.transcripts, result.total)
    rule = result.total.rule.name
    lines = []
    if len(durations) > 1:
        each = "; ".join(f"{part.name} {part.rate:.1%}" for part in durations)
        lines.append(f"{result.name}, WER ({rule}) by length: {each}.")
    if len(speakers) > 1:
        worst, best = speakers[0], speakers[-1]
        drawn = "drawn by speaker" if result.total.groups is not None else "drawn by clip"
        lines.append(
            f"{result.name}, WER ({rule}) by speaker, of {len(speakers):,}: from {best.rate:.1%} ({best.name}) to "
            f"{worst.rate:.1%} ({worst.name}). Intervals are {drawn}."
        )
    return lines


def statements(ranked: Sequence[Result], metric: str = "wer") -> list[str]:
    """Return a line on whether the best beats the next by more than chance, and lines on how it was scored."""
    lines = []
    if len(ranked) > 1 and metric == "wer":
        first, second = ranked[:2]
        lines.append(verdict(first, second, difference(first.total, second.total)))
    elif len(ranked) > 1:
        lines.append(f"The best is the best by {metric}.")
    return [*lines, *rules_of(ranked[0].total)]


def verdict(first: Result, second: Result, gap: Difference) -> str:
    """Return one line on whether the difference of two recognizers is real."""
    real = "more than chance" if gap.low > 0 or gap.high < 0 else "the difference may be chance"
    p_value = "p < 0.001" if gap.p_value < 0.001 else f"p = {gap.p_value:.2g}"
    lower = gap.points >= 0
    low, high = (gap.low, gap.high) if lower else (-gap.high, -gap.low)
    return (
        f"{first.name} against {second.name}: {100 * abs(gap.points):.1f} points of WER "
        f"{'lower' if lower else 'higher'} ({first.total.rule.name}), 95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}, {p_value}: {real}."
    )


def rules_of(score: Score) -> list[str]:
    """Return a description of each scoring rule of the figures."""
    rules = (score.rule, *(RULES[name] for name in score.others))
    return [f"Scored by {rule.name}: {rule.description}." for rule in rules]


def to_rows(results: Sequence[Result], ranked: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a plain row for each set and checkpoint; rates are fractions, not percentages."""
    rows = []
    for name, scores in blocks_of(results).items():
        for result, score in zip(results, scores, strict=True):
            words, (low, high) = score.words, score.interval
            rows.append(
                {
                    "checkpoint": str(result.path),
                    "step": result.step,
                    "weights": result.weights,
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
                    "scoring": score.rule.name,
                    **{f"wer_{name}": counts[0].rate for name, counts in score.others.items()},
                    **{f"cer_{name}": counts[1].rate for name, counts in score.others.items()},
                    "rtfx": score.rtfx,
                    "loss": score.loss if math.isfinite(score.loss) else None,  # JSON has no NaN
                    "best": bool(ranked) and result is ranked[0],
                    **{one.name: getattr(score.tally, one.name) for one in fields(Tally)},
                    "normalization": score.rule.description,
                }
            )
    return rows


def to_text(form: str, results: Sequence[Result], ranked: Sequence[Result]) -> str:
    """Return the rows as .json, .jsonl, .csv or .md."""
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
    for name, scores in blocks_of(results).items():
        headings, rows = table_of(results, scores)
        lines += [f"**{_title(name, scores[0])}**", "", "| checkpoint | " + " | ".join(headings) + " |"]
        lines.append("|---|" + "---:|" * len(headings))
        for result, (label, *cells) in zip(results, rows, strict=True):
            shown = f"**{label}**" if ranked and result is ranked[0] else label
            lines.append(f"| {shown} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {note}" for note in notes(name, results, scores)), ""]
    rest = [*averages(results), *rules_of(results[0].total)]
    return "\n".join([*lines, "Bold: the best.", "", *(f"- {line}" for line in rest), ""])
