"""Clips of parquet files on the Hub without the whole files: a row group at a time, by range requests.

Corpora on the Hub hold some hundred clips a row group, 10 to 30 MB. `fetch_sample` keeps as many as a subset needs.
A `RemoteStream` fetches the texts and the recordings of a row group when its clips are drawn, into a folder of
limited size.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FetchError, UserError
from ..files import locked
from ..progress import in_threads
from .hub import PARALLEL_DOWNLOADS, RepoSplit, check_room
from .hub_requests import PARALLEL_REQUESTS, TRIES, TRIES_WHEN_DRAWN
from .parquet import DURATION_COLUMNS, contexts_of, iterate, listed_durations, name_column, unpack_audio
from .rowgroups import RowGroup, keep, open_files
from .strings import Strings
from .subsets import seeded_order
from .tables import SPEAKER_COLUMNS, Columns, Table, find_columns, find_speakers

SPREAD = 8  # files that a sample opens at a time, and row groups that it takes even where fewer would be enough
CLIPS_A_GROUP = 8  # of a small sample: neighbors in a file often have the same speaker
NAMES = "name of the clip"  # a column name that no corpus uses
OPEN_GROUPS = 64  # memory-mapped row groups a process keeps open
FRESH_SECONDS = 5.0  # after a row group was fetched or read, it is not deleted


def fetch_sample(split: RepoSplit, limit: int, seed: int, cache_dir: Path) -> tuple[list[Path], bool]:
    """Fetch row groups of a split that hold `limit` rows; return their files, and whether they are the whole split.

    The choice depends on the seed, the names of the files and their row groups, and on nothing else. It is the same
    where whole files are in the Hugging Face cache; they are then read from there.

    Raises:
        UserError: they cannot be fetched, or the disk is too small.
    """
    chosen, complete = _choose_groups(split, limit, seed, cache_dir)
    folder = cache_dir / "rows" / split.folder_name
    paths = [folder / f"{group.name}.parquet" for group in chosen]
    missing = [(group, path) for group, path in zip(chosen, paths, strict=True) if not path.is_file()]
    if missing:
        check_room(split, sum(group.num_bytes for group, _ in missing), cache_dir, "take fewer clips, or another disk")
        title = f"Fetching clips of {split.corpus.hub_id}"
        in_threads(lambda one: _keep_group(*one), missing, PARALLEL_DOWNLOADS, title, "row groups")
    return paths, complete


def _keep_group(group: RowGroup, path: Path) -> None:
    """Write a row group to a separate parquet file."""
    import pyarrow.parquet

    table = group.read()
    keep(path, lambda part: pyarrow.parquet.write_table(table, part))


def _choose_groups(split: RepoSplit, limit: int, seed: int, cache_dir: Path) -> tuple[list[RowGroup], bool]:
    """Choose row groups that hold `limit` rows, in the order of the files; return also whether there are no more.

    Files are opened in seeded order, a few at a time. One row group is taken from each, then another one from each. A
    sample that would fit into one or two row groups is spread over more of them.
    """
    names = list(split.files)
    order = [names[i] for i in seeded_order(names, seed)]
    fewest = min(SPREAD, math.ceil(limit / CLIPS_A_GROUP))
    chosen: list[RowGroup] = []
    complete = True
    for start in range(0, len(order), SPREAD):
        opened = [file.groups() for file in open_files(split, order[start : start + SPREAD], cache_dir)]
        orders = [seeded_order((group.name for group in groups), seed) for groups in opened]
        turns = zip_longest(*([groups[i] for i in order] for groups, order in zip(opened, orders, strict=True)))
        for group in filter(None, chain.from_iterable(turns)):
            complete = len(chosen) < fewest or sum(one.rows for one in chosen) < limit
            if not complete:
                break
            chosen.append(group)
        if not complete:
            break
    return sorted(chosen, key=lambda group: (group.file.remote.name, group.number)), complete


class RemoteStream:
    """The clips of a split, as row groups that are read when needed. N counts the clips, B the row groups.

    The texts of a row group are kept forever, the recordings up to a total size.

    Args:
        split: its files, at one commit.
        columns: the columns to read.
        cache_dir: holds the footers, and the row groups in `cache_dir/streams/<repository>`.
        max_bytes: limit for the recordings in that folder.

    Attributes:
        groups: B row groups.
        blocks: (N,) int32, the row group of each clip.
        firsts: (B,) int64, the first clip of each.

    Raises:
        UserError: the Hub cannot be reached, or a column is missing.
    """

    def __init__(self, split: RepoSplit, columns: Columns, cache_dir: Path, max_bytes: int) -> None:
        self.split, self.max_bytes = split, max_bytes
        self.folder = cache_dir / "streams" / split.folder_name
        files = open_files(split, list(split.files), cache_dir)
        parts = files[0].columns()
        there = list(dict.fromkeys(part.partition(".")[0] for part in parts))
        self.audio, self.text, self.context = find_columns(there, columns, split.origin)
        if f"{self.audio}.bytes" not in parts:
            raise UserError(
                f"data.datasets: {split.origin} holds no encoded recordings in its column {self.audio} "
                f"({', '.join(part for part in parts if part.partition('.')[0] == self.audio)}), and only those are "
                "streamed; set data.streaming=false."
            )
        path = f"{self.audio}.path"
        self._name = name_column(there) or (path if path in parts else None)
        about = [column for column in there if column in (*SPEAKER_COLUMNS, *DURATION_COLUMNS)]
        self._about = list(dict.fromkeys(filter(None, (self.text, self.context, self._name, *about))))
        self.groups = [group for file in files for group in file.groups()]
        rows = np.array([group.rows for group in self.groups], dtype=np.int64)
        self.blocks = np.repeat(np.arange(len(rows), dtype=np.int32), rows)
        self.firsts = np.cumsum(rows) - rows

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def version(self) -> str:
        """A text that changes whenever the clips change."""
        return f"{self.split.origin} streamed {self.text}"

    def read_all(self) -> Table:
        """Read the texts of all clips, but no recordings, which are fetched when they are drawn."""
        import pyarrow

        self.keep_transcripts(range(len(self.groups)), f"Reading transcripts of {self.split.corpus.hub_id}")
        rows = pyarrow.concat_tables(map(self.transcripts, range(len(self.groups))), promote_options="permissive")
        return Table(
            origin=self.split.origin,
            names=Strings(self.names(rows, 0)),
            texts=iterate(rows, self.text),
            durations=listed_durations(rows),
            recordings=StreamedRecordings(self),
            version=self.version,
            speakers=find_speakers(rows.column_names, lambda column: iterate(rows, column)),
            blocks=self.blocks,
            contexts=self.contexts(rows, 0),
        )

    def contexts(self, rows: Any, first: int) -> Sequence[str] | None:
        """Return the contexts of consecutive rows from the clip `first` on; None if there are none."""
        return contexts_of(rows, self.context, self.split.origin, first) if self.context else None

    def names(self, rows: Any, first: int) -> Iterable[str]:
        """The names of consecutive rows from the clip `first` on: ids, file names, or else numbers."""
        for number, name in enumerate(iterate(rows, NAMES)):
            yield name or f"row {first + number}"

    def transcripts(self, block: int) -> Any:
        """Return the table of a row group without the recordings."""
        import pyarrow.parquet

        path = self._transcripts_path(block)
        if not path.is_file():
            self._keep_transcripts(block, TRIES_WHEN_DRAWN)
        return pyarrow.parquet.read_table(path)

    def keep_transcripts(self, blocks: Iterable[int], title: str | None = None) -> None:
        """Fetch the texts of row groups, many at once, unless they are kept already."""
        missing = [block for block in blocks if not self._transcripts_path(block).is_file()]
        if missing:
            keep_one = partial(self._keep_transcripts, tries=TRIES if title else TRIES_WHEN_DRAWN)
            in_threads(keep_one, missing, PARALLEL_REQUESTS, title or "", "row groups", quiet=not title)

    def _transcripts_path(self, block: int) -> Path:
        return self._path(block, ".".join(filter(None, (self.text, self.context, "text"))))

    def _path(self, block: int, kind: str) -> Path:
        return self.folder / f"{self.groups[block].name}.{kind}"

    def _keep_transcripts(self, block: int, tries: int) -> None:
        import pyarrow
        import pyarrow.parquet

        table = self.groups[block].read(self._about, tries)
        column, _, part = (self._name or "").partition(".")
        if not column:
            names = pyarrow.nulls(len(table), "string")
        elif part:
            names = table.column(column).combine_chunks().field(part)
            table = table.drop_columns([column])
        else:
            names = table.column(column).cast("string")
        table = table.append_column(NAMES, names)
        keep(self._transcripts_path(block), lambda path: pyarrow.parquet.write_table(table, path))

    def recordings_of(self, block: int, tries: int = TRIES_WHEN_DRAWN) -> Path:
        """Fetch the recordings of a row group, in one process only, and return their file once it is there."""
        import pyarrow

        path = self._path(block, "arrow")
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not path.is_file():
                    table = self.groups[block].read([self.audio], tries)

                    def write(part: Path) -> None:
                        with pyarrow.OSFile(str(part), "wb") as out, pyarrow.ipc.new_file(out, table.schema) as writer:
                            writer.write_table(table)

                    keep(path, write)
                    self._make_room(path)
            path.with_suffix(".lock").unlink(missing_ok=True)
        with suppress(OSError):
            os.utime(path)
        return path

    def _make_room(self, newest: Path) -> None:
        """Delete the row groups that were read longest ago, down to `max_bytes`; open ones stay readable.

        Those of the last seconds stay: another process has just fetched them, and is about to open them.
        """
        found, old = [], time.time() - FRESH_SECONDS
        for path in self.folder.glob("*.arrow"):
            with suppress(FileNotFoundError):  # another process deletes too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        taken = sum(size for _, size, _ in found)
        for read, size, path in sorted(found):
            if taken <= self.max_bytes:
                break
            if path != newest and read < old:
                path.unlink(missing_ok=True)
                taken -= size


@dataclass(eq=False)
class StreamedRecordings:
    """The recordings of a stream, fetched when they are drawn, a row group at a time."""

    stream: RemoteStream

    def __getitem__(self, row: int) -> bytes:
        block = int(self.stream.blocks[row])
        recording = unpack_audio(self._column(block)[row - int(self.stream.firsts[block])].as_py(), None)
        assert isinstance(recording, bytes)
        return recording

    def _column(self, block: int) -> Any:
        """The recordings of a row group; fetched again where another process has just deleted them to make room."""
        import pyarrow

        for _ in range(TRIES_WHEN_DRAWN):
            path = self.stream.recordings_of(block)
            try:
                return _open_arrow(path)
            except FileNotFoundError:
                continue
            except pyarrow.ArrowInvalid:  # half of a file, after a power cut
                path.unlink(missing_ok=True)
        raise FetchError(f"paths.cache_dir: {path} disappears as soon as it is fetched; raise data.streaming_disk_gb.")

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`: a commit never changes."""
        return [f"{self.stream.split.origin} {row}" for row in rows]


@lru_cache(OPEN_GROUPS)
def _open_arrow(path: Path) -> Any:
    """The one column of a row group, memory-mapped."""
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all().column(0)
