"""Manifests: files of rows, each with a recording and its transcript."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from . import labelstudio
from .contexts import read_contexts
from .files import Files
from .lhotse import is_lhotse, open_lhotse
from .rows import Rows, first_row, kind_of, read_rows
from .strings import shown
from .tables import LAYOUT, Columns, Table, find_columns, find_speakers, make_table
from .times import read_times, to_seconds


def open_manifest(path: Path, split: str | None, columns: Columns) -> Table:
    """Read a manifest: JSON, JSON lines, CSV, TSV, lhotse's cuts, or what Label Studio exports.

    Columns of times (`start` or `offset`, `end`, `duration`, see `times`) make a row a part of its recording.

    Raises:
        UserError: it cannot be read, has no rows, or lacks the column or the split.
    """
    if is_lhotse(first := first_row(path)):
        return open_lhotse(path, first, columns.context)
    rows = read_rows(path, [name for name in columns if name])
    if rows.values and is_lhotse(rows.values[0]):  # an array
        return open_lhotse(path, rows.values[0], columns.context)
    stat = path.stat()
    version = f"{LAYOUT} {path.absolute()} {stat.st_mtime_ns} {stat.st_size}"
    table = table_of(labelstudio.flatten(rows, path), path, version, split, columns)
    if kind_of(path) == ".tsv" and np.isnan(table.durations).all():
        table.durations = _common_voice_durations(path.parent, table.names)
    return table


def table_of(rows: Rows, path: Path, version: str, split: str | None, columns: Columns) -> Table:
    """Make a table of rows with an audio column of paths, which start from the folder of `path`.

    Raises:
        UserError: there are no rows, or they lack the column or the split.
    """
    if not rows.values:
        raise UserError(f"data.datasets: {path} has no rows.")
    there = {key: None for row in rows.values for key in row}
    if split is not None:
        rows = _of_split(rows, split, path)
    audio, text, context = find_columns(there, columns, path)
    faults = dict(rows.faults)
    paths = [_read(_path_of, row.get(audio), index, faults) or "" for index, row in enumerate(rows.values)]
    texts = [_read(_text_of, row.get(text), index, faults) for index, row in enumerate(rows.values)]
    starts, seconds = read_times(there, rows, path)
    return make_table(
        path,
        f"{version} {split} {audio} {text}",
        Files.of(path, [name for name in paths if name]),
        [name or rows.where(index) if index in faults else name for index, name in enumerate(paths)],
        texts,
        starts,
        seconds,
        speakers=find_speakers(there, lambda column: (row.get(column) for row in rows.values)),
        faults=faults,
        contexts=read_contexts((row.get(context) for row in rows.values), rows.where, path) if context else None,
    )


def _read(understand: Any, value: Any, row: int, faults: dict[int, str]) -> str | None:
    """The value of a cell; a cell that cannot be parsed becomes the row's fault."""
    try:
        return understand(value)
    except ValueError as error:
        faults.setdefault(row, str(error))
        return None


def _path_of(value: Any) -> str:
    """The path in a cell: plain, or as Hugging Face's `Audio` writes it."""
    if isinstance(value, dict):
        if not value.get("path") and (value.get("bytes") or value.get("array")):
            raise ValueError("its audio is a list of numbers: write it to a file, or use parquet")
        value = value.get("path")
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise ValueError(f"its audio is {shown(value, 30)}, which is not a path")
    return value.strip()


def _text_of(value: Any) -> str | None:
    """The transcript in a cell: text, a list of texts, or a number that was not quoted."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = " ".join(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"its transcript is {shown(value, 30)}, which is not a text")
    return str(value)


def _common_voice_durations(folder: Path, paths: Sequence[str]) -> np.ndarray:
    """Durations that Common Voice lists, in milliseconds, in a file beside its splits."""
    listed: dict[str, float] = {}
    file = folder / "clip_durations.tsv"
    if file.is_file():
        rows = read_rows(file).values
        listed = {row.get("clip", ""): to_seconds(row.get("duration[ms]")) / 1000 for row in rows}
    return np.array([listed.get(path, np.nan) for path in paths], dtype=np.float32)


def _of_split(rows: Rows, split: str, path: Path) -> Rows:
    """The rows of a split, by the `split` column; a file that is named after the split holds only that split."""
    if not any("split" in row for row in rows.values):
        if path.stem == split:
            return rows
        raise UserError(f"data.datasets: {path} has no column split to choose {split} by; leave split out.")
    chosen = [index for index, row in enumerate(rows.values) if row.get("split") == split]
    if not chosen:
        counts = Counter(shown(row.get("split"), 30) for row in rows.values)
        there = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(8))
        raise UserError(f"data.datasets: {path} has no rows of the split {split}; it has {there}.")
    return rows.chosen(chosen)
