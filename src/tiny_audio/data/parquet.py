"""Parquet files as a `Table`, through `datasets`, which keeps them as memory-mapped Arrow in its own cache."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import AudioError
from ..errors import UserError, printable
from ..progress import is_terminal
from .arrays import ArrayRecordings, check_parts, form_of, sample_columns
from .contexts import read_contexts
from .files import file_versions
from .manifests import table_of
from .rows import Rows
from .strings import Strings, shown
from .tables import LAYOUT, NAME_COLUMNS, Columns, Recordings, Table, find_columns, find_speakers
from .times import to_seconds

logger = logging.getLogger(__name__)

LOGGED_BYTES = 5e8  # smaller files open within a second, without a message


@dataclass(eq=False)
class ArrowRecordings:
    """Recordings in a memory-mapped Arrow table, as Hugging Face's `Audio` stores them: bytes, or a path."""

    dataset: Any  # datasets.Dataset with the single column `audio`
    folder: Path
    version: str  # of the table

    def __getitem__(self, row: int) -> Path | bytes:
        return unpack_audio(self.dataset[int(row)]["audio"], self.folder)

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`. Bytes change with the table that they are in; they need not be read for this."""
        outside: list[str | None] = []
        for chunk in self.dataset.data.column("audio").chunks:
            inside = chunk.field("bytes").is_valid().to_pylist()
            paths = chunk.field("path").to_pylist()
            outside += [None if here else path for here, path in zip(inside, paths, strict=True)]
        files = [row for row in rows if outside[row] is not None]
        found = dict(zip(files, file_versions([self.folder / str(outside[row]) for row in files]), strict=True))
        return [found.get(row, f"{self.version} {row}") for row in rows]


def unpack_audio(recording: Any, folder: Path | None) -> Path | bytes:
    """Return the bytes or the path that Hugging Face's `Audio` stores for a recording.

    Raises:
        AudioError: it holds neither.
    """
    if recording is not None and recording["bytes"] is not None:
        return bytes(recording["bytes"])
    if recording is None or not recording["path"] or folder is None:
        raise AudioError("missing", "the row holds no recording")
    return folder / recording["path"]


def open_parquet(files: Sequence[Path], origin: str, columns: Columns) -> Table:
    """Open parquet files.

    Args:
        files: of one split, in order.
        origin: where they come from, for messages.
        columns: the columns to read.

    Raises:
        UserError: they cannot be read, or lack a column.
    """
    import datasets

    size = sum(file.stat().st_size for file in files)
    if size > LOGGED_BYTES:
        logger.info("Opening %s, %.1f GB in %d files; the first time takes minutes...", origin, size / 1e9, len(files))
    if not is_terminal():  # each update of a bar would add a line to a log file
        datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"data.datasets: {origin} cannot be read as parquet ({shown(cause, 200)}).") from None
    return open_dataset(rows, origin, files[0].parent, rows._fingerprint, columns)


def open_saved(path: Path, split: str | None, columns: Columns) -> Table | None:
    """Open a folder that `save_to_disk` of `datasets` wrote (one dataset or several splits); None for any other.

    Raises:
        UserError: it cannot be read, or lacks the column or the split.
    """
    import datasets

    if (path / "dataset_dict.json").is_file():
        there = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").is_file())
        chosen = there[0] if split is None and len(there) == 1 else split
        if chosen not in there:
            raise UserError(f"data.datasets: {path} holds {', '.join(there) or 'no split'}; choose one by split.")
        path = path / str(chosen)
    elif not ((path / "state.json").is_file() and (path / "dataset_info.json").is_file()):
        return None
    elif split is not None and path.name != split:
        raise UserError(f"data.datasets: {path} is one dataset without splits; leave split={split} out.")
    try:
        rows = datasets.load_from_disk(str(path))
        rows = rows if rows._indices is None else rows.flatten_indices()
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"data.datasets: {path} cannot be read by datasets ({shown(error, 200)}).") from None
    version = " ".join(file_versions(sorted(path.iterdir())))
    return open_dataset(rows, str(path), path, f"{rows._fingerprint} {version}", columns)


def open_dataset(rows: Any, origin: str, folder: Path, version: str, columns: Columns) -> Table:
    """Make a table of a `datasets.Dataset`, whose recordings are encoded bytes, samples, or paths below `folder`.

    Raises:
        UserError: it lacks a column, or its recordings are none of these.
    """
    import datasets

    audio, text, context = find_columns(rows.column_names, columns, origin)
    form = form_of(rows.data.column(audio))
    version = f"{LAYOUT} {version} {audio}"
    recordings: Recordings
    if form == "paths":
        values = rows.data.to_pylist()
        listed = Rows(values, list(range(1, len(values) + 1)), "row")
        return table_of(listed, folder / Path(origin).name, version, None, Columns(audio, text, context))
    if form == "encoded":
        encoded = rows.select_columns([audio]).cast_column(audio, datasets.Audio(decode=False))
        encoded = encoded if audio == "audio" else encoded.rename_column(audio, "audio")
        recordings, paths = ArrowRecordings(encoded, folder, version), encoded.data.column("audio").chunks
        check_parts(rows.data, audio, recordings, origin)
    elif form == "samples":
        recordings, paths = ArrayRecordings(rows, *sample_columns(rows.data, audio, origin), version), None
    else:
        raise UserError(
            f"data.datasets: {origin} holds {form} in its column {audio}: recordings are paths, bytes, or samples with "
            "their rate."
        )
    return Table(
        origin=origin,
        names=_names(rows, paths),
        texts=iterate(rows.data, text),
        durations=listed_durations(rows.data),
        recordings=recordings,
        version=f"{version} {text}",
        speakers=find_speakers(rows.column_names, lambda column: iterate(rows.data, column)),
        contexts=contexts_of(rows.data, context, origin) if context else None,
    )


def contexts_of(table: Any, column: str, origin: object, first: int = 0) -> Strings:
    """Return the contexts in a column of an Arrow table, whose first row has the number `first` in the corpus.

    Raises:
        UserError: they are not texts.
    """
    values = (value for chunk in table.column(column).chunks for value in chunk.to_pylist())
    return read_contexts(values, lambda row: f"row {first + row:,}", origin)


def iterate(table: Any, column: str) -> Iterator[str | None]:
    """Read a column of an Arrow table as text, a chunk at a time, so that memory never holds millions of rows."""
    for chunk in table.column(column).chunks:
        for value in chunk.to_pylist():
            yield None if value is None else str(value)


def name_column(columns: Iterable[str]) -> str | None:
    """Return the column that names the rows, if there is one."""
    columns = set(columns)
    return next((name for name in NAME_COLUMNS if name in columns), None)


def listed_durations(table: Any) -> np.ndarray:
    """Return the (N,) float32 seconds that an Arrow table lists, NaN if it lists none: see `DURATION_COLUMNS`."""
    columns = set(table.column_names)
    if "duration" in columns:
        return np.array([to_seconds(value) for value in table.column("duration").to_pylist()], dtype=np.float32)
    if {"begin_time", "end_time"} <= columns:  # GigaSpeech: the segment's place in its source
        begins, ends = (table.column(name).to_pylist() for name in ("begin_time", "end_time"))
        pairs = zip(begins, ends, strict=True)
        return np.array([to_seconds(e - b) if None not in (b, e) else math.nan for b, e in pairs], dtype=np.float32)
    return np.full(table.num_rows, np.nan, dtype=np.float32)


#: The columns that `listed_durations` reads.
DURATION_COLUMNS = ("duration", "begin_time", "end_time")


def _names(rows: Any, recordings: Any) -> Strings:
    """Ids if there are any, else the paths stored with the recordings (Arrow chunks), else row numbers."""
    if column := name_column(rows.column_names):
        return Strings(printable(str(name)) for name in iterate(rows.data, column))
    names: list[str] = []
    for chunk in recordings or ():
        names += [printable(path) if path else "" for path in chunk.field("path").to_pylist()]
    return Strings(name or f"row {i}" for i, name in enumerate(names or [""] * len(rows)))
