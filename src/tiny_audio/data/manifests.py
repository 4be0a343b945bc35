"""What a corpus lists, before anything is left out: manifests, folders, parquet files, as a `Table`."""

from __future__ import annotations

import csv
import difflib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..audio import AudioError
from ..errors import UserError
from .hub import select_files
from .strings import Labels

logger = logging.getLogger(__name__)

AUDIO_COLUMNS = ("audio", "file_name", "audio_filepath", "wav", "path", "file")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk_id")
NAME_COLUMNS = ("id", "segment_id", "audio_id", "ID")
MANIFEST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
MANIFEST_NAMES = ("manifest", "metadata")


class Recordings(Protocol):
    """The recordings of a table: encoded files, as paths or as bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Path | bytes:
        """Return one recording; raises AudioError if the table has none for that row."""

    def versions(self, rows: Sequence[int]) -> list[str]:
        """Return a text for each row that no other recording has, and that changes whenever this one does."""


@dataclass
class Table:
    """The rows of a corpus: N names, transcripts as written (None where there is none), seconds, recordings.

    Attributes:
        origin: what it was read from, for messages.
        names: N file paths or ids.
        texts: N raw transcripts.
        durations: (N,) float32 seconds, NaN where the corpus does not say.
        recordings: N recordings.
        version: changes whenever the rows do; the key under which durations are cached.
        speakers: N names, empty where unknown; None where the corpus has no column for them.
    """

    origin: str
    names: Sequence[str]
    texts: Iterable[str | None]
    durations: np.ndarray
    recordings: Recordings
    version: str
    speakers: Sequence[str] | None = None


class FileRecordings:
    """Recordings as files, named relative to a folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Path:
        if not self.names[row]:
            raise AudioError("missing", "the row names no recording")
        return self.folder / self.names[row]

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        return _file_versions([self.folder / self.names[row] for row in rows])


def _file_versions(paths: Sequence[Path]) -> list[str]:
    """Where files lie, how large they are, and when they were last written."""

    def versions(block: Sequence[Path]) -> list[str]:
        found = []
        for path in block:
            try:
                stat = path.stat()
                found.append(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}")
            except OSError:
                found.append(f"{path.absolute()} missing")
        return found

    # Threads: as for headers, each file costs a round trip on network disks.
    blocks = [paths[start : start + 512] for start in range(0, len(paths), 512)]
    with ThreadPoolExecutor(8) as pool:
        return list(chain.from_iterable(pool.map(versions, blocks)))


def open_path(path: Path, split: str | None, audio_column: str | None, text_column: str | None) -> Table:
    """Read a manifest, or what a folder holds: a manifest by one of the usual names, or parquet files.

    Raises:
        UserError: nothing is there, it cannot be read, or it lacks the column or the split.
    """
    if path.is_file():
        if path.suffix == ".parquet":
            return open_parquet([path], str(path), audio_column, text_column)
        return _open_manifest(path, split, audio_column, text_column)
    if not path.is_dir():
        raise UserError(f"data.datasets: there is no {path}{_nearest(path)}")
    for folder, stems, column_split in _manifest_places(path, split):
        for stem in stems:
            for suffix in MANIFEST_SUFFIXES:
                manifest = folder / (stem + suffix)
                if manifest.is_file():
                    return _open_manifest(manifest, column_split, audio_column, text_column)
    files = [file.relative_to(path).as_posix() for file in path.rglob("*.parquet")]
    chosen = select_files(files, None, split)
    if chosen:
        return open_parquet([path / name for name in chosen], str(path), audio_column, text_column)
    wanted = [f"{split}.jsonl"] if split else []
    raise UserError(
        f"data.datasets: {path} holds no {', '.join([*wanted, 'manifest.jsonl', 'metadata.csv'])} "
        "or parquet files" + (f" of the split {split}." if split else ".")
    )


def _manifest_places(path: Path, split: str | None) -> Iterator[tuple[Path, tuple[str, ...], str | None]]:
    """Where a folder's manifest may lie: the folder, names to try, and the split still to be chosen in it."""
    if split is not None:
        yield path, (split,), None
        yield path / split, MANIFEST_NAMES, None
    yield path, MANIFEST_NAMES, split


def _nearest(path: Path) -> str:
    """The entry of the nearest existing folder that a misspelt path most resembles."""
    parent, missing = path.absolute().parent, path.name
    while not parent.is_dir():
        parent, missing = parent.parent, parent.name
    near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir()], 1, 0.5)
    return f"; did you mean {parent / near[0]}?" if near else f"; {parent} has no {missing}."


def _open_manifest(path: Path, split: str | None, audio_column: str | None, text_column: str | None) -> Table:
    rows = _read_rows(path)
    if not rows:
        raise UserError(f"data.datasets: {path} has no rows.")
    columns = {key for row in rows for key in row}
    if split is not None:
        rows = _of_split(rows, columns, split, path)
    audio = _column(columns, audio_column, AUDIO_COLUMNS, "audio_column", path)
    text = _column(columns, text_column, TEXT_COLUMNS, "text_column", path)
    names = [str(row.get(audio) or "") for row in rows]
    stat = path.stat()
    return Table(
        origin=str(path),
        names=names,
        texts=[None if row.get(text) is None else str(row[text]) for row in rows],
        durations=np.array([_seconds(row.get("duration")) for row in rows], dtype=np.float32),
        recordings=FileRecordings(_audio_folder(path, names), names),
        version=f"{path.absolute()} {stat.st_mtime_ns} {stat.st_size} {split} {audio}",
        speakers=_speakers(columns, lambda column: (row.get(column) for row in rows)),
    )


def _audio_folder(manifest: Path, names: Sequence[str]) -> Path:
    """The folder that a manifest's paths start from: its own, or `clips` in it as Common Voice has it."""
    folder = manifest.parent
    first = next(filter(None, names), "")
    in_clips = (folder / "clips" / first).is_file() and not (folder / first).is_file()
    return folder / "clips" if in_clips else folder


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL, CSV or TSV file."""
    if path.suffix not in MANIFEST_SUFFIXES:
        raise UserError(f"data.datasets: {path} is no manifest; use {', '.join(MANIFEST_SUFFIXES)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            if path.suffix == ".tsv":
                return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            return [_parse_line(path, number, line) for number, line in enumerate(file, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"data.datasets: {path} is not UTF-8 text ({error.reason}).") from None
    except csv.Error as error:
        raise UserError(f"data.datasets: {path} cannot be read as CSV ({error}).") from None


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"data.datasets: {path} line {number} is not JSON ({error.msg}).") from None
    if not isinstance(row, dict):
        raise UserError(f"data.datasets: {path} line {number} is not a JSON object.")
    return row


def _of_split(rows: list[dict[str, Any]], columns: set[str], split: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a split, by the `split` column; a file named after the split is that split as a whole."""
    if "split" not in columns:
        if path.stem == split:
            return rows
        raise UserError(f"data.datasets: {path} has no column split to choose {split} by; leave split out.")
    chosen = [row for row in rows if row.get("split") == split]
    if not chosen:
        counts = Counter(str(row.get("split")) for row in rows)
        there = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(8))
        raise UserError(f"data.datasets: {path} has no rows of the split {split}; it has {there}.")
    return chosen


def _column(columns: Iterable[str], asked: str | None, usual: Sequence[str], setting: str, origin: object) -> str:
    """The column that was asked for, or else the first of the usual ones."""
    columns = list(columns)
    for name in [asked] if asked is not None else usual:
        if name in columns:
            return name
    wanted = asked if asked is not None else f"any of {', '.join(usual)}"
    raise UserError(
        f"data.datasets: {origin} has no column {wanted}; it has {', '.join(sorted(map(str, columns)))}: set {setting}."
    )


def _speakers(columns: Iterable[str], read: Callable[[str], Iterable[Any]]) -> Labels | None:
    """Who speaks, from the first of the usual columns, if there is one."""
    columns = set(columns)
    column = next((name for name in SPEAKER_COLUMNS if name in columns), None)
    return None if column is None else Labels("" if value is None else str(value) for value in read(column))


def _seconds(value: Any) -> float:
    """A duration as written, NaN where it makes no sense; it is then read from the recording."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return math.nan
    return seconds if 0 < seconds < math.inf else math.nan


class ArrowRecordings:
    """Recordings in a memory-mapped Arrow table, as Hugging Face's `Audio` stores them: bytes, or a path."""

    def __init__(self, dataset: Any, folder: Path, version: str) -> None:
        self.dataset = dataset  # datasets.Dataset with the single column `audio`
        self.folder = folder
        self.version = version  # of the table

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Path | bytes:
        recording = self.dataset[int(row)]["audio"]
        if recording is None or (recording["bytes"] is None and not recording["path"]):
            raise AudioError("missing", "the row holds no recording")
        if recording["bytes"] is not None:
            return bytes(recording["bytes"])
        return self.folder / recording["path"]

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`. Bytes change with the table that they are in; they need not be read for this."""
        outside: list[str | None] = []
        for chunk in self.dataset.data.column("audio").chunks:
            inside = chunk.field("bytes").is_valid().to_pylist()
            paths = chunk.field("path").to_pylist()
            outside += [None if here else path for here, path in zip(inside, paths, strict=True)]
        files = [row for row in rows if outside[row] is not None]
        found = dict(zip(files, _file_versions([self.folder / str(outside[row]) for row in files]), strict=True))
        return [found.get(row, f"{self.version} {row}") for row in rows]


def open_parquet(files: Sequence[Path], origin: str, audio_column: str | None, text_column: str | None) -> Table:
    """Open parquet files through `datasets`, which keeps them as memory-mapped Arrow in its own cache.

    Raises:
        UserError: they cannot be read, or lack a column.
    """
    import datasets

    logger.info("Opening %d parquet file%s of %s...", len(files), "s" if len(files) > 1 else "", origin)
    try:
        rows = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"data.datasets: {origin} cannot be read as parquet ({cause}).") from None
    audio = _column(rows.column_names, audio_column, AUDIO_COLUMNS, "audio_column", origin)
    text = _column(rows.column_names, text_column, TEXT_COLUMNS, "text_column", origin)
    recordings = rows.select_columns([audio]).cast_column(audio, datasets.Audio(decode=False))
    if audio != "audio":
        recordings = recordings.rename_column(audio, "audio")
    version = f"{rows._fingerprint} {audio}"
    return Table(
        origin=origin,
        names=_arrow_names(rows, recordings),
        texts=_iterate(rows, text),
        durations=_arrow_durations(rows),
        recordings=ArrowRecordings(recordings, files[0].parent, version),
        version=version,
        speakers=_speakers(rows.column_names, lambda column: _iterate(rows, column)),
    )


def _iterate(rows: Any, column: str) -> Iterator[str | None]:
    """A text column, a chunk at a time: millions of rows need not be in memory at once."""
    for chunk in rows.data.column(column).chunks:
        for value in chunk.to_pylist():
            yield None if value is None else str(value)


def _arrow_names(rows: Any, recordings: Any) -> Sequence[str]:
    """Ids if there are any, else the paths stored with the recordings, else row numbers."""
    for column in NAME_COLUMNS:
        if column in rows.column_names:
            return [str(name) for name in _iterate(rows, column)]
    names: list[str] = []
    for chunk in recordings.data.column("audio").chunks:
        names += [path or f"row {len(names) + i}" for i, path in enumerate(chunk.field("path").to_pylist())]
    return names


def _arrow_durations(rows: Any) -> np.ndarray:
    if "duration" not in rows.column_names:
        return np.full(len(rows), np.nan, dtype=np.float32)
    return np.array([_seconds(value) for value in rows["duration"]], dtype=np.float32)
