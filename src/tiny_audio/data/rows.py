"""Reads the rows of a manifest file of any program: JSON, JSON lines, or a table with delimiters."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from .delimited import read_table
from .strings import shown
from .textfiles import MAX_LINE, numbered_lines, open_text

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".psv", ".txt")
MANIFEST_SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES)


@dataclass
class Rows:
    """The rows of a file. N counts them.

    Attributes:
        values: N rows, {column: value}.
        numbers: N numbers, from 1: the line where each begins, or its place in an array.
        word: the unit of the numbers, for messages: `line` or `item`.
        faults: {row: what is wrong}; such a row is empty, the others are not affected.
    """

    values: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    word: str = "line"
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, value: dict[str, Any], fault: str | None = None) -> None:
        """Append a row; a row with a fault keeps its number."""
        if fault is not None:
            self.faults[len(self.values)] = fault
        self.values.append(value)
        self.numbers.append(number)

    def where(self, row: int) -> str:
        """Return a row's place in words: `line 7`."""
        return f"{self.word} {self.numbers[row]:,}"

    def chosen(self, rows: Iterable[int]) -> Rows:
        """Return some of the rows."""
        kept = Rows(word=self.word)
        for row in rows:
            kept.add(self.numbers[row], self.values[row], self.faults.get(row))
        return kept


def kind_of(path: Path) -> str:
    """Return the suffix of a manifest in lower case, `.jsonl.gz` in one piece."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def read_rows(path: Path, columns: Iterable[str] = ()) -> Rows:
    """Read a manifest.

    Args:
        path: of one of `MANIFEST_SUFFIXES`.
        columns: names that the heading of a table may have, beside the usual ones.

    Raises:
        UserError: the file is of another kind, cannot be read, or has a row that does not fit.
    """
    kind = kind_of(path)
    if kind not in MANIFEST_SUFFIXES:
        raise UserError(f"data.datasets: {path} is not a manifest; use {', '.join(MANIFEST_SUFFIXES)}.")
    with open_text(path) as file:
        if kind in TABLE_SUFFIXES:
            rows = Rows()
            for number, row, fault in read_table(path, kind, file, columns):
                rows.add(number, row, fault)
            return rows
        return _read_json(path, kind, file)


def first_row(path: Path) -> dict[str, Any]:
    """Return the first row of a file of JSON lines, without reading the others; {} for any other file."""
    if kind_of(path) not in JSON_SUFFIXES:
        return {}
    with open_text(path, tell=False) as file:
        line = next((line for _, line in numbered_lines(file) if line is None or line.strip()), None)
    try:
        row = json.loads(line or "")
    except (ValueError, RecursionError):  # reported when the whole file is read
        return {}
    return row if isinstance(row, dict) else {}


def _read_json(path: Path, kind: str, file: IO[str]) -> Rows:
    start = file.read(1000).lstrip()
    file.seek(0)
    if start.startswith("["):
        return _items(path, _parse_document(path, file.read()))
    if kind == ".json" and not _is_json_lines(file):
        return _items(path, _unwrap(path, _parse_document(path, file.read())))
    rows = Rows()
    for number, line in numbered_lines(file):
        if line is None:
            rows.add(number, {}, f"the line is longer than {MAX_LINE:,} characters")
        elif line.strip():
            _add_line(path, rows, number, line)
    return rows


def _is_json_lines(file: IO[str]) -> bool:
    """Whether the first line is a whole object, and either another object follows or it does not hold a table."""
    lines = (line for _, line in numbered_lines(file) if line is None or line.strip())
    first, second = next(lines, None), next(lines, None)
    file.seek(0)
    try:
        value = json.loads(first or "")
    except (ValueError, RecursionError):
        return first is None
    return second is not None or (isinstance(value, dict) and any(isinstance(one, str) for one in value.values()))


def _add_line(path: Path, rows: Rows, number: int, line: str) -> None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"data.datasets: {path} line {number} is not JSON ({error.msg}).") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"data.datasets: {path} line {number} is not JSON ({error}).") from None
    except RecursionError:
        rows.add(number, {}, "its JSON is nested too deep to be read")
        return
    if not isinstance(row, dict):
        raise UserError(f"data.datasets: {path} line {number} is not a JSON object.")
    rows.add(number, row)


def _parse_document(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"data.datasets: {path} line {error.lineno} is not JSON ({error.msg}).") from None
    except ValueError as error:
        raise UserError(f"data.datasets: {path} is not JSON ({error}).") from None
    except RecursionError:
        raise UserError(f"data.datasets: {path} is nested too deep to be read; use a row per line (.jsonl).") from None


def _unwrap(path: Path, document: Any) -> list[Any]:
    """The rows of a document that is one object: under one key, by their ids, or column by column."""
    if not isinstance(document, dict) or "utts" in document:
        what = "lists features, not recordings (ESPnet's data.json)" if isinstance(document, dict) else "holds no rows"
        raise UserError(f"data.datasets: {path} {what}; use a manifest of rows with audio and text, or a Kaldi folder.")
    values = list(document.values())
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(row, dict) for row in values[0]):
        return list(values[0])
    if values and all(isinstance(column, list) for column in values):
        if len({len(column) for column in values}) > 1:
            raise UserError(f"data.datasets: {path} holds columns of different lengths.")
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    if values and all(isinstance(value, dict) for value in values):
        alike = len(values) > 1 and all(list(value) == list(values[0]) for value in values)
        if alike and all(map(str.isdecimal, values[0])):  # row numbers, as pandas writes them
            return [{column: value[row] for column, value in document.items()} for row in values[0]]
        return [{"id": name, **row} for name, row in document.items()]
    return [document]


def _items(path: Path, document: list[Any]) -> Rows:
    rows = Rows(word="item")
    for number, row in enumerate(document, 1):
        if not isinstance(row, dict):
            raise UserError(f"data.datasets: {path} item {number} is not a JSON object ({shown(row, 30)}).")
        rows.add(number, row)
    return rows
