"""The results of the trials: a table of the best, `results.csv`, and the command that trains the best again."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..evaluation.ranking import best_first
from .file import Sweep, merge

if TYPE_CHECKING:
    from optuna import Study

STATES = {"COMPLETE": "trained", "PRUNED": "stopped early", "FAIL": "failed"}


@dataclass(frozen=True)
class Result:
    """A trial that is done.

    Attributes:
        trial: its number, from 1.
        state: trained, stopped early, or failed.
        value: its best evaluation; for a trial that was stopped early, the last one.
        step: of that evaluation.
        values: its settings, by the name of the parameter.
        error: why it failed.
    """

    trial: int
    state: str
    value: float | None
    step: int | None
    values: dict[str, str]
    error: str


def results(study: Study, sweep: Sweep) -> list[Result]:
    """Return the trials that are done, in their order."""
    return [
        Result(
            trial.number + 1,
            STATES[trial.state.name],
            trial.value,
            trial.user_attrs.get("step"),
            {parameter.name: parameter.typed(trial.params[parameter.name]) for parameter in sweep.parameters},
            trial.user_attrs.get("error", ""),
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]


def ranked(done: Sequence[Result], sweep: Sweep) -> list[Result]:
    """Return the trials that were trained to the end, best first."""
    trained = [result for result in done if result.state == "trained"]
    return best_first(trained, lambda result: math.nan if result.value is None else result.value, not sweep.minimize)


def format_value(metric: str, value: float) -> str:
    """Write a metric's value: error rates as percentages."""
    return f"{value:.1%}" if metric in ("eval/wer", "eval/cer") else f"{value:.4g}"


def print_best(done: Sequence[Result], sweep: Sweep, count: int, file: TextIO) -> None:
    """Print the best trials as a table, and how many there are of each kind."""
    from rich.console import Console
    from rich.table import Table

    names = [parameter.name for parameter in sweep.parameters]
    short = [name.rpartition(".")[2] for name in names]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("trial", sweep.metric, "step"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, last in zip(names, short, strict=True):
        table.add_column(name if short.count(last) > 1 else last, justify="right", overflow="fold")
    for result in ranked(done, sweep)[:count]:
        shown = [_short(value) for value in result.values.values()]
        assert result.value is not None
        table.add_row(str(result.trial), format_value(sweep.metric, result.value), str(result.step), *shown)
    # Outside of a terminal, which has a width, no row is broken.
    console = Console(file=file, width=None if file.isatty() else 200, highlight=False)
    if table.rows:
        console.print(table)
    states = [result.state for result in done]
    console.print(", ".join(f"{states.count(state)} {state}" for state in STATES.values() if state in states))


def _short(value: str) -> str:
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.3g}"
    except ValueError:
        return value


def write_csv(path: Path, done: Sequence[Result], sweep: Sweep) -> None:
    """Write every trial that is done, with its values in full."""
    names = [parameter.name for parameter in sweep.parameters]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["trial", "state", sweep.metric, "step", *names, "error"])
        for result in done:
            values = (result.values[name] for name in names)
            rows.writerow([result.trial, result.state, result.value, result.step, *values, result.error])


def command_of(result: Result, settings: Sequence[str], options: Sequence[str], folder: Path) -> str:
    """Return the command that trains a trial again, in a separate folder."""
    chosen = [f"{name}={value}" for name, value in result.values.items()]
    again = [f"paths.output_dir={folder / f'best-{result.trial}'}"]
    return shlex.join(["ta", "train", *options, *merge(settings, chosen, again)])
