"""Columns of times: where a row begins in its recording, where it ends, and how long it is; in seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import UserError
from .rows import Rows
from .strings import shown

#: The parts of a column's name: item, kind of time, unit; `start`, `start_time`, `segment_start_ms`, `duration[ms]`.
_COLUMN = re.compile(
    r"(?:(?:segment|seg|audio|clip|utterance|utt|speech|time|timestamp|t)[ _-]?)?"
    r"(start|begin|onset|offset|tmin|xmin|end|stop|tmax|xmax|duration|dur)"
    r"(?:[ _-]?(?:time|position|timestamp))?"
    r"[ _-]?[(\[]?(s|secs?|seconds?|ms|msecs?|milliseconds?|samples?|frames?)?[)\]]?",
    re.IGNORECASE,
)
_ROLES = dict.fromkeys(("begin", "onset", "offset", "tmin", "xmin"), "start") | {"dur": "duration"}
_ROLES |= dict.fromkeys(("stop", "tmax", "xmax"), "end")
#: Parts of the names of other columns that may say where a row begins.
_START_WORD = re.compile(r"(?<![a-z])(?:start|begin|onset|offset)(?![a-z])", re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?\d*[.,]?\d*(?:[eE][+-]?\d+)?)\s*(?:s|secs?|seconds?)?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d*)?)")


def parse_time(value: Any) -> float:
    """Return seconds as written: a number, `1,5`, `1.5 s`, or a time of day `[hours:]minutes:seconds`; empty is NaN.

    Raises:
        ValueError: it is none of these.
    """
    if value is None:
        return math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < 1e300 else math.inf
    else:
        text = str(value).strip() if isinstance(value, str) else "?"
        if not text or text.lower() in ("nan", "none", "null"):
            return math.nan
        if clock := _CLOCK.fullmatch(text):
            if (int(clock[2]) > 59 and clock[1]) or float(clock[3].replace(",", ".")) >= 60:
                raise ValueError(text)
            seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3].replace(",", "."))
        elif number := _NUMBER.fullmatch(text):
            seconds = float(number[1].replace(",", "."))
        else:
            raise ValueError(text)
    if math.isinf(seconds):
        raise ValueError(value)
    return seconds


def to_seconds(value: Any) -> float:
    """Return the seconds of a duration, NaN if it makes no sense; it is then read from the recording."""
    try:
        seconds = parse_time(value)
    except ValueError:
        return math.nan
    return seconds if seconds > 0 else math.nan


def read_times(columns: Iterable[str], rows: Rows, origin: object) -> tuple[np.ndarray | None, np.ndarray]:
    """Find where the rows are in their recordings.

    Returns:
        starts: (N,) float64 seconds, or None if each row is a whole recording.
        seconds: (N,) float32, NaN if a row's length is not given. Less than 0 if a row ends before it begins.

    Raises:
        UserError: a time cannot be read, or a column of times lacks the one that it needs.
    """
    columns = list(columns)
    found = _time_columns(columns, rows, origin)
    _refuse_unknown(columns, rows, origin)
    start, end, duration = (found.get(role) for role in ("start", "end", "duration"))
    if end is not None and start is None:
        raise UserError(f"data.datasets: {origin} has a column {end[0]}, but no column start; add it.")
    if start is None:
        if duration is None:
            return None, np.full(len(rows.values), np.nan, dtype=np.float32)
        column, unit = duration
        return None, np.array([to_seconds(row.get(column)) * unit for row in rows.values], dtype=np.float32)
    starts, seconds = _strictly(*start, rows, origin), np.full(len(rows.values), np.nan)
    if duration is not None:
        seconds = _strictly(*duration, rows, origin)
    if end is not None:
        ends = _strictly(*end, rows, origin)
        alone = np.flatnonzero(np.isnan(starts) & ~np.isnan(ends))
        if len(alone):
            raise UserError(f"data.datasets: {origin} {rows.where(int(alone[0]))} has {end[0]}, but no {start[0]}.")
        seconds = np.where(np.isnan(ends), seconds, ends - starts)
    if not np.isnan(starts).all() and end is None and duration is None and np.nan_to_num(starts).any():
        raise UserError(
            f"data.datasets: {origin} says by {start[0]} where its rows begin, but not where they end: "
            "add a column end or duration, in seconds."
        )
    return np.nan_to_num(starts), seconds.astype(np.float32)


def _time_columns(columns: Iterable[str], rows: Rows, origin: object) -> dict[str, tuple[str, float]]:
    """The columns for `start`, `end` and `duration`, each with its unit in seconds."""
    found: dict[str, tuple[str, float]] = {}
    columns = sorted(columns, key=lambda name: (len(name), name))
    matches = [(name, match) for name in columns if (match := _COLUMN.fullmatch(name.strip()))]
    onset = any(match[1].lower() == "onset" for _, match in matches)
    for name, match in matches:
        word, unit = match[1].lower(), (match[2] or "s").lower()
        role = "end" if word == "offset" and onset else _ROLES.get(word, word)
        if unit[0] == "f" or unit.startswith("sa"):
            if role == "duration":  # the recording gives it too
                continue
            raise UserError(f"data.datasets: {origin} counts {name} in {unit}, not in time: give it in seconds.")
        scale = 1e-3 if unit.startswith("m") else 1.0
        if role not in found:
            found[role] = (name, scale)
        elif role != "duration" and not _agree(rows, found[role], (name, scale), origin):
            raise UserError(
                f"data.datasets: {origin} has both {found[role][0]} and {name}, which differ; leave one of them out."
            )
    return found


def _refuse_unknown(columns: Iterable[str], rows: Rows, origin: object) -> None:
    """Refuse a column of numbers with an unknown name that may say where rows begin."""
    for name in columns:
        if _COLUMN.fullmatch(name.strip()) or not _START_WORD.search(name):
            continue
        try:
            times = [parse_time(row.get(name)) for row in rows.values]
        except ValueError:
            continue
        if any(time > 0 for time in times):
            raise UserError(
                f"data.datasets: {origin} has a column {shown(name)}, which may say where its rows begin: "
                "name it start, in seconds, or leave it out."
            )


def _agree(rows: Rows, one: tuple[str, float], other: tuple[str, float], origin: object) -> bool:
    """Whether two columns are equal, to the millisecond."""
    first, second = _strictly(*one, rows, origin), _strictly(*other, rows, origin)
    return bool(np.allclose(first, second, rtol=0, atol=2e-3, equal_nan=True))


def _strictly(column: str, unit: float, rows: Rows, origin: object) -> np.ndarray:
    """A column of times (N,) float64 in seconds, NaN if it is empty; refuse a wrong time, which teaches nonsense."""
    times = np.full(len(rows.values), np.nan)
    for index, row in enumerate(rows.values):
        try:
            times[index] = parse_time(row.get(column)) * unit
            if times[index] < 0:
                raise ValueError
        except ValueError:
            raise UserError(
                f"data.datasets: {origin} {rows.where(index)}: {column} is {shown(row.get(column))}, which is not a "
                "time; write seconds (1.5) or hours:minutes:seconds (0:00:01.5)."
            ) from None
    return times
