"""All rows that a corpus lists (`Table`), before any are left out, and their recordings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..audio import Segment
from ..errors import UserError, printable
from .files import Files, archive_of, file_versions
from .packed import PackedRecordings
from .strings import Labels, Strings, shown

AUDIO_COLUMNS = (
    *("audio", "file_name", "audio_filepath", "wav", "path", "file", "audio_path", "audio_file", "wav_filename"),
    *("filename", "file_path", "filepath", "wav_path"),
)
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text", "wrd", "words")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk_id")
NAME_COLUMNS = ("id", "segment_id", "audio_id", "ID")
CONTEXT_COLUMN = "context"
MAX_COLUMNS = 20  # in a message
LAYOUT = "2"  # version of how rows are read: another one makes caches of earlier versions invalid


class Columns(NamedTuple):
    """The columns of a corpus to read; None: one of a usual name.

    Attributes:
        audio, text: the columns of recordings and transcripts.
        context: the column of contexts, which few corpora have: see `contexts`; an empty name: read none.
    """

    audio: str | None = None
    text: str | None = None
    context: str | None = None


class Recordings(Protocol):
    """The recordings of a table: encoded files, as paths or as bytes, or parts of files."""

    def __getitem__(self, row: int) -> Path | bytes | Segment:
        """Return one recording; raises AudioError if the table has none for that row."""

    def versions(self, rows: Sequence[int]) -> list[str]:
        """Return a text for each row: different for every recording, and it changes whenever the recording does."""


@dataclass
class Table:
    """The rows of a corpus: N names, transcripts as written (None if there is none), seconds, recordings.

    Attributes:
        origin: what it was read from, for messages.
        names: N file paths or ids.
        texts: N raw transcripts.
        durations: (N,) float32 seconds, NaN if the corpus does not say.
        recordings: N recordings.
        version: changes whenever the rows do; the key of caches about them.
        speakers: N names, empty if unknown; None if the corpus has no column for them.
        blocks: (N,) the block of each row of a stream: a block is fetched as a whole; else None.
        faults: {row: what is wrong}, for rows that cannot be used even if their recordings can.
        whole: whether these are all rows of the corpus; otherwise more can be fetched.
        contexts: N contexts as written, empty if there is none; None if the corpus has no column for them.
    """

    origin: str
    names: Sequence[str]
    texts: Iterable[str | None]
    durations: np.ndarray
    recordings: Recordings
    version: str
    speakers: Sequence[str] | None = None
    blocks: np.ndarray | None = None
    faults: dict[int, str] = field(default_factory=dict)
    whole: bool = True
    contexts: Sequence[str] | None = None


@dataclass(eq=False)
class FileRecordings:
    """Recordings as files.

    Attributes:
        files: where they are.
        names: N names of them.
    """

    files: Files
    names: Sequence[str]

    def __getitem__(self, row: int) -> Path:
        return self.files.path(self.names[row])

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        return file_versions([self.files.guess(self.names[row]) for row in rows])


@dataclass(eq=False)
class SegmentRecordings:
    """Parts of longer files, which are read from the place where they begin.

    Attributes:
        files: where they are.
        names: N names of them, with few different ones.
        starts: (N,) seconds.
        seconds: (N,) lengths; NaN: to the end of the file.
    """

    files: Files
    names: Labels
    starts: np.ndarray
    seconds: np.ndarray

    def __getitem__(self, row: int) -> Segment:
        length = float(self.seconds[row])
        path = self.files.path(self.names[row])
        return Segment(path, float(self.starts[row]), None if math.isnan(length) else length)

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        files = file_versions([self.files.guess(name) for name in self.names.values])
        return [f"{files[self.names.codes[row]]} {self.starts[row]} {self.seconds[row]}" for row in rows]


def plain_name(column: str) -> str:
    """Return a column's name in a form to compare: `Audio File`, `audio-file` and `audio_file` are equal."""
    return column.strip().casefold().replace(" ", "_").replace("-", "_")


def find_columns(there: Iterable[str], asked: Columns, origin: object) -> tuple[str, str, str]:
    """Return the columns of recordings, transcripts and contexts among those that are there.

    The name of the last one is empty if there is none, or none is wanted.

    Raises:
        UserError: one of the first two, or a requested one, is missing.
    """
    columns = sorted(map(str, there))
    audio = _find_column(columns, asked.audio, AUDIO_COLUMNS, "audio_column", origin)
    text = _find_column(columns, asked.text, TEXT_COLUMNS, "text_column", origin)
    context = asked.context or ""
    if context or (asked.context is None and CONTEXT_COLUMN in map(plain_name, columns)):
        context = _find_column(columns, asked.context, (CONTEXT_COLUMN,), "context_column", origin)
    return audio, text, context


def _find_column(columns: Sequence[str], asked: str | None, usual: Sequence[str], setting: str, origin: object) -> str:
    """The requested column, or else the first of the usual ones; an error names the `setting` that chooses it."""
    plain = {plain_name(name): name for name in columns}
    for name in [asked] if asked is not None else usual:
        if name in columns:
            return name
        if plain_name(name) in plain:
            return plain[plain_name(name)]
    wanted = asked if asked is not None else f"any of {', '.join(usual)}"
    there = ", ".join([shown(name, 30) for name in columns[:MAX_COLUMNS]] + ["..."] * (len(columns) > MAX_COLUMNS))
    raise UserError(f"data.datasets: {origin} has no column {wanted}; it has {there}: set {setting}.")


def find_speakers(columns: Iterable[str], read: Callable[[str], Iterable[Any]]) -> Labels | None:
    """Return the speakers, from the first of the usual columns, if there is one."""
    plain = {plain_name(name): name for name in columns}
    column = next((plain[name] for name in SPEAKER_COLUMNS if name in plain), None)
    return None if column is None else Labels("" if value is None else printable(str(value)) for value in read(column))


def make_table(
    origin: Path,
    version: str,
    files: Files,
    paths: Sequence[str],
    texts: Sequence[str | None],
    starts: np.ndarray | None = None,
    seconds: np.ndarray | None = None,
    *,
    names: Sequence[str] | None = None,
    speakers: Labels | None = None,
    faults: dict[int, str] | None = None,
    contexts: Sequence[str] | None = None,
) -> Table:
    """Make a table of whole files, or, with `starts`, of parts of them.

    Args:
        origin, version, speakers, faults, contexts: as in `Table`.
        files: where the recordings are.
        paths: N names, for `files`.
        texts: N transcripts.
        starts: (N,) seconds where the rows begin; None: each row is a whole recording.
        seconds: (N,) lengths, NaN if one is not known; None: none is known.
        names: N names of the rows; None: their paths, with the place where they begin.
    """
    listed = np.full(len(paths), np.nan) if seconds is None else seconds
    printed = [printable(path) for path in paths]
    recordings: Recordings
    if starts is None:
        written = Strings(paths)
        usual = written if printed == paths else Strings(printed)
        recordings = _whole(files, written)
    else:
        usual = Strings(f"{name}@{start:g}" for name, start in zip(printed, starts, strict=True))
        recordings = SegmentRecordings(files, Labels(paths), starts, listed)
    return Table(
        origin=str(origin),
        names=usual if names is None else Strings(names),
        texts=texts,
        durations=np.asarray(listed, dtype=np.float32),
        recordings=recordings,
        version=version,
        speakers=speakers,
        faults=faults or {},
        contexts=contexts,
    )


def _whole(files: Files, names: Sequence[str]) -> Recordings:
    """Return recordings as single files, or from a zip if one replaces the folder of the first recording."""
    archive = archive_of(files.guess(names[0])) if names and files.has(names[0]) else None
    if archive is None:
        return FileRecordings(files, names)
    return PackedRecordings(archive, Strings(files.guess(name).name for name in names))
