"""Manifests: files of rows, each naming a recording and what is said in it."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError
from .lhotse import is_lhotse, open_lhotse
from .strings import Labels
from .tables import (
    AUDIO_COLUMNS,
    TEXT_COLUMNS,
    FileRecordings,
    SegmentRecordings,
    Table,
    compact,
    find_column,
    find_speakers,
    to_seconds,
)

MANIFEST_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv")
SAMPLED_PATHS = 50  # looked at to find the folder that they start from: the first one may be the one that is missing
START_COLUMNS = ("offset", "start")


def kind_of(path: Path) -> str:
    """Return the suffix of a manifest, `.jsonl.gz` in one piece."""
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def open_manifest(path: Path, split: str | None, audio_column: str | None, text_column: str | None) -> Table:
    """Read a manifest: JSON lines, CSV or TSV, or lhotse's cuts.

    A column `offset` (or `start`) gives the place in the recording, in seconds, where a row begins; `duration` then
    is how long it goes on.

    Raises:
        UserError: it cannot be read, has no rows, or lacks the column or the split.
    """
    if is_lhotse(path):
        return open_lhotse(path)
    rows = read_rows(path)
    if not rows:
        raise UserError(f"data.datasets: {path} has no rows.")
    columns = {key for row in rows for key in row}
    if split is not None:
        rows = _of_split(rows, columns, split, path)
    audio = find_column(columns, audio_column, AUDIO_COLUMNS, "audio_column", path)
    text = find_column(columns, text_column, TEXT_COLUMNS, "text_column", path)
    start = next((name for name in START_COLUMNS if name in columns), None)
    paths = [str(row.get(audio) or "") for row in rows]
    durations = np.array([to_seconds(row.get("duration")) for row in rows], dtype=np.float32)
    folder, names, recordings = audio_folder(path, paths), compact(paths), None
    if start is not None:
        starts = np.array([to_seconds(row.get(start)) for row in rows], dtype=np.float64)
        starts = np.nan_to_num(starts)
        names = compact(f"{name}@{begin:g}" for name, begin in zip(paths, starts, strict=True))
        recordings = SegmentRecordings(folder, Labels(paths), starts, durations)
    if path.suffix == ".tsv" and np.isnan(durations).all():
        durations = _common_voice_durations(path.parent, paths)
    stat = path.stat()
    return Table(
        origin=str(path),
        names=names,
        texts=[None if row.get(text) is None else str(row[text]) for row in rows],
        durations=durations,
        recordings=recordings or FileRecordings(folder, names),
        version=f"{path.absolute()} {stat.st_mtime_ns} {stat.st_size} {split} {audio} {text}",
        speakers=find_speakers(columns, lambda column: (row.get(column) for row in rows)),
    )


def _common_voice_durations(folder: Path, paths: Sequence[str]) -> np.ndarray:
    """Durations as Common Voice lists them, in milliseconds, in a file beside its splits."""
    listed: dict[str, float] = {}
    file = folder / "clip_durations.tsv"
    if file.is_file():
        listed = {row["clip"]: to_seconds(row["duration[ms]"]) / 1000 for row in read_rows(file)}
    return np.array([listed.get(path, np.nan) for path in paths], dtype=np.float32)


def audio_folder(manifest: Path, names: Sequence[str]) -> Path:
    """Return the folder that a manifest's paths start from: its own, or `clips` in it as Common Voice has it."""
    folder = manifest.parent
    some = [name for name in names[:SAMPLED_PATHS] if name]
    in_clips = any((folder / "clips" / name).is_file() for name in some)
    return folder / "clips" if in_clips and not any((folder / name).is_file() for name in some) else folder


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8-sig", newline="")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL, CSV or TSV file."""
    if kind_of(path) not in MANIFEST_SUFFIXES:
        raise UserError(f"data.datasets: {path} is no manifest; use {', '.join(MANIFEST_SUFFIXES)}.")
    try:
        with _open_text(path) as file:
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            if path.suffix == ".tsv":
                return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            return [_parse_line(path, number, line) for number, line in enumerate(file, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"data.datasets: {path} is not UTF-8 text ({error.reason}).") from None
    except csv.Error as error:
        raise UserError(f"data.datasets: {path} cannot be read as CSV ({error}).") from None
    except (OSError, EOFError) as error:
        raise UserError(f"data.datasets: {path} cannot be read ({error}).") from None


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
