"""Tables with delimiters: CSV as spreadsheets write it, TSV, pipes; with a heading, or with columns that are known."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from ..decoding import AUDIO_SUFFIXES
from ..errors import UserError
from .files import Files
from .strings import shown
from .tables import AUDIO_COLUMNS, SPEAKER_COLUMNS, TEXT_COLUMNS, plain_name
from .textfiles import MAX_LINE, numbered_lines

#: By suffix, the likeliest first.
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".psv": "|;\t,", ".txt": "|\t;,"}
KNOWN_COLUMNS = frozenset((*AUDIO_COLUMNS, *TEXT_COLUMNS, *SPEAKER_COLUMNS, "split", "duration", "clip", "id"))
MAX_TOLD = 5
_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_DECLARED = re.compile(r"sep=([,;|\t:^~])\s*")  # Excel's own

Record = tuple[int, dict[str, Any], str | None]


def read_table(path: Path, kind: str, file: IO[str], columns: Iterable[str]) -> Iterator[Record]:
    """Yield the line number, the row, and what is wrong with it (or None) of each record of a table.

    Args:
        path: for messages.
        kind: its suffix: one of `DELIMITERS`, with or without `.gz`.
        file: open, at its beginning.
        columns: names that the heading may have, beside `KNOWN_COLUMNS`.

    Raises:
        UserError: rows do not fit the heading, or there is no heading and the columns cannot be identified.
    """
    known = {plain_name(name) for name in (*KNOWN_COLUMNS, *columns)}
    delimiters, first, declared = _first_line(file, DELIMITERS[kind.removesuffix(".gz")])
    if first is None:
        return
    delimiter = max(delimiters, key=lambda one: _fitness(first, one, known))  # of equal ones the likeliest
    plain = delimiter == "\t"  # Common Voice and similar corpora do not escape quotation marks
    heading = None
    if not any(plain_name(name) in known for name in _split(first, delimiter, plain)):
        heading = _without_heading(path, _split(first, delimiter, delimiter in "|\t"), delimiter)
        plain = plain or (heading is not None and delimiter == "|")  # LJSpeech
    yield from _rows(path, file, delimiter, plain, declared, heading)


def _first_line(file: IO[str], delimiters: str) -> tuple[str, str | None, int]:
    """Which delimiters are possible, the first line that is not empty, and how many lines declare the delimiter.

    The file is then read from behind these lines on.
    """
    first, declared = None, 0
    for _, line in numbered_lines(file):
        if line is not None and (match := _DECLARED.fullmatch(line)):
            delimiters, declared = match[1], 1
        elif line is None or line.strip():
            first = line
            break
    file.seek(0)
    for _ in range(declared):
        file.readline()
    return delimiters, first, declared


def _split(line: str, delimiter: str, plain: bool) -> list[str]:
    line = line.rstrip("\r\n")
    return line.split(delimiter) if plain else next(csv.reader([line], delimiter=delimiter), [])


def _fitness(line: str, delimiter: str, known: set[str]) -> tuple[int, bool, bool, int]:
    """How well a line splits: known names, a field that names a recording, a delimiter rare in text, many fields."""
    rare = delimiter in "|\t"
    fields = _split(line, delimiter, rare)
    names = sum(plain_name(name) in known for name in fields)
    several = len(fields) > 1
    return names, several and any(_is_recording(field) for field in fields), several and rare, len(fields)


def _is_recording(field: str) -> bool:
    return PurePosixPath(field.strip()).suffix.lower() in AUDIO_SUFFIXES


def _without_heading(path: Path, fields: Sequence[str], delimiter: str) -> list[str] | None:
    """The columns of a table without a heading: recording and transcript, or LJSpeech's; None if it has a heading."""
    first = fields[0].strip() if fields else ""
    named = _is_recording(first) or (len(fields) > 1 and Files.of(path, [first]).has(first))
    if not named and not any(_is_recording(field) for field in fields):
        return None
    if named and len(fields) == 2:
        return ["audio", "text"]
    if named and len(fields) == 3 and delimiter == "|" and path.stem == "metadata":
        return ["audio", "raw_text", "text"]  # LJSpeech: as written, then with numbers and abbreviations spelled out
    raise UserError(
        f"data.datasets: {path} has no heading, and {len(fields)} columns; let its first line name them, such as "
        f"{delimiter.join(['audio', 'speaker', 'text'])}."
    )


def _rows(
    path: Path, file: IO[str], delimiter: str, plain: bool, declared: int, heading: list[str] | None
) -> Iterator[Record]:
    """The rows of a table, one after another; at its end, refuse the lines that do not fit.

    Args:
        path: for messages.
        file: behind the lines that declare the delimiter.
        delimiter: between the fields.
        plain: whether quotation marks are characters like any other.
        declared: how many lines of the file were read before.
        heading: the columns; None: the first record names them.
    """
    lines: list[str | None] = []  # of the current record; None: it is too long

    def feed() -> Iterator[str]:
        for _, line in numbered_lines(file):
            lines.append(line)
            yield line or "\n"

    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True)
    misfits: list[tuple[int, str]] = []
    while True:
        lines.clear()
        first = declared + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            quoted = "unexpected end" in str(error) or "expected after" in str(error)
            misfits.append((first, "a quotation mark is in the wrong place" if quoted else str(error)))
            continue
        if None in lines:
            yield first + lines.index(None), {}, f"the line is longer than {MAX_LINE:,} characters"
        elif not any(field.strip() for field in fields):
            continue
        elif heading is None:
            heading = _heading(path, fields)
        elif (wrong := _misfit(fields, heading, first, lines, delimiter)) is not None:
            misfits.append((first, wrong))
        elif not misfits:
            yield first, {name: field for name, field in zip(heading, fields, strict=False) if name}, None
    if misfits:
        raise _refusal(path, misfits, delimiter)


def _heading(path: Path, fields: Sequence[str]) -> list[str]:
    heading = [field.strip() for field in fields]
    twice = [name for name, count in Counter(heading).items() if name and count > 1]
    if twice:
        raise UserError(f"data.datasets: {path} has two columns {shown(twice[0])}; leave one of them out.")
    return heading


def _misfit(
    fields: Sequence[str], heading: Sequence[str], first: int, lines: Sequence[str | None], delimiter: str
) -> str | None:
    """Why a record is not a row: another number of fields, or other rows within its quotation marks."""
    if len(fields) < len(heading) or any(field.strip() for field in fields[len(heading) :]):
        return f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
    for line in lines[1:]:
        inner = _split(line or "", delimiter, True)
        if len(inner) == len(heading) and any(_is_recording(field) for field in inner):
            last = first + len(lines) - 1
            return f"a quotation mark that is closed only on line {last:,}, with other rows in between"
    return None


def _refusal(path: Path, misfits: Sequence[tuple[int, str]], delimiter: str) -> UserError:
    named = "; ".join(f"line {number:,}: {what}" for number, what in misfits[:MAX_TOLD])
    more = f"; and {len(misfits) - MAX_TOLD:,} more" if len(misfits) > MAX_TOLD else ""
    return UserError(
        f"data.datasets: {path}: lines that do not fit the heading: {named}{more}. "
        f'A field with a {_DELIMITER_NAMES.get(delimiter, delimiter)} or a line break in it must be in "...", and a '
        'quotation mark in it is written twice ("").'
    )
