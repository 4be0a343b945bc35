"""What a corpus lists, before anything is left out: a `Table`, and the recordings that it lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..audio import AudioError, Segment
from ..errors import UserError
from .strings import Labels, Strings

AUDIO_COLUMNS = ("audio", "file_name", "audio_filepath", "wav", "path", "file")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk_id")
NAME_COLUMNS = ("id", "segment_id", "audio_id", "ID")


class Recordings(Protocol):
    """The recordings of a table: encoded files, as paths or as bytes, or parts of files."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Path | bytes | Segment:
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
        version: changes whenever the rows do; the key under which what is found out about them is cached.
        speakers: N names, empty where unknown; None where the corpus has no column for them.
        blocks: (N,) which rows are fetched together, where recordings are fetched when they are drawn; else None.
        whole: whether these are all rows of the corpus; else more can be fetched.
    """

    origin: str
    names: Sequence[str]
    texts: Iterable[str | None]
    durations: np.ndarray
    recordings: Recordings
    version: str
    speakers: Sequence[str] | None = None
    blocks: np.ndarray | None = None
    whole: bool = True


class FileRecordings:
    """Recordings as files, named relative to a folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Path:
        name = self.names[row]
        if not name:
            raise AudioError("missing", "the row names no recording")
        return self.folder / name

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        return file_versions([self.folder / self.names[row] for row in rows])


class SegmentRecordings:
    """Parts of longer files, which are read from the place where they begin.

    Args:
        folder: the paths start from it.
        paths: N files, of which few differ.
        starts: (N,) seconds.
        seconds: (N,) lengths; NaN: to the end of the file.
    """

    def __init__(self, folder: Path, paths: Labels, starts: np.ndarray, seconds: np.ndarray) -> None:
        self.folder = folder
        self.paths = paths
        self.starts = starts
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Segment:
        if not self.paths[row]:
            raise AudioError("missing", "the row names no recording")
        length = float(self.seconds[row])
        return Segment(self.folder / self.paths[row], float(self.starts[row]), None if math.isnan(length) else length)

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        files = file_versions([self.folder / path for path in self.paths.values])
        return [f"{files[self.paths.codes[row]]} {self.starts[row]} {self.seconds[row]}" for row in rows]


def file_versions(paths: Sequence[Path]) -> list[str]:
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


def find_column(columns: Iterable[str], asked: str | None, usual: Sequence[str], setting: str, origin: object) -> str:
    """Return the column that was asked for, or else the first of the usual ones.

    Raises:
        UserError: there is none, naming the `setting` that asks for one.
    """
    columns = list(columns)
    for name in [asked] if asked is not None else usual:
        if name in columns:
            return name
    wanted = asked if asked is not None else f"any of {', '.join(usual)}"
    raise UserError(
        f"data.datasets: {origin} has no column {wanted}; it has {', '.join(sorted(map(str, columns)))}: set {setting}."
    )


def find_speakers(columns: Iterable[str], read: Callable[[str], Iterable[Any]]) -> Labels | None:
    """Return who speaks, from the first of the usual columns, if there is one."""
    columns = set(columns)
    column = next((name for name in SPEAKER_COLUMNS if name in columns), None)
    return None if column is None else Labels("" if value is None else str(value) for value in read(column))


def to_seconds(value: Any) -> float:
    """Return a duration as written, NaN where it makes no sense; it is then read from the recording."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return math.nan
    return seconds if 0 < seconds < math.inf else math.nan


def compact(names: Iterable[str]) -> Strings:
    """Keep names as one piece of memory: as Python's own strings they would take three times as much."""
    return names if isinstance(names, Strings) else Strings(names)
