"""Clips of parquet files on the Hub without the files: a row group at a time, by HTTP range requests.

Corpora on the Hub hold some hundred clips a row group, 10 to 30 MB. `fetch_first_rows` keeps as many as a quick test
needs; `open_stream` reads all that is written about the clips, but no audio, and fetches a row group when one of its
clips is drawn, into a folder that is kept below a size.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import FetchError, UserError
from ..files import locked, written_whole
from ..progress import Progress
from .hub import PARALLEL_DOWNLOADS, RepoSplit, cached_file, explained
from .parquet import DURATION_COLUMNS, iterate, listed_durations, name_column, unpack_audio
from .tables import AUDIO_COLUMNS, SPEAKER_COLUMNS, TEXT_COLUMNS, Table, compact, find_column, find_speakers

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 2  # of a request, besides those of huggingface_hub itself: somebody waits for the run to begin
TRIES_WHEN_DRAWN = 6  # and where a run of hours would end: over six minutes
OPEN_GROUPS = 64  # memory-mapped row groups a process keeps open
INDEX = "index.parquet"  # what is written about the clips of one file; `group` is the row group of each


def fetch_first_rows(split: RepoSplit, limit: int, cache_dir: Path) -> list[Path]:
    """Fetch the first row groups of a split, as many as hold `limit` rows, and return them as parquet files.

    Raises:
        UserError: they cannot be fetched.
    """
    import pyarrow.parquet

    paths: list[Path] = []
    rows = 0
    for name in split.files:
        if (whole := cached_file(split, name)) is not None:
            paths.append(whole)
            rows += pyarrow.parquet.read_metadata(whole).num_rows
        else:
            number, groups = 0, 1
            while number < groups and rows < limit:
                path = cache_dir / "rows" / split.folder_name / f"{name.replace('/', '--')}.{number}.parquet"
                rows, groups = rows + fetch_group(split, name, number, path), num_groups(split, name, path)
                paths.append(path)
                number += 1
        if rows >= limit:
            break
    logger.info("%s: fetched the first %s clips, for the %s asked for", split.origin, f"{rows:,}", f"{limit:,}")
    return paths


def num_groups(split: RepoSplit, name: str, fetched: Path) -> int:
    """Return how many row groups the file has that `fetched` is one of."""
    import pyarrow.parquet

    return int(pyarrow.parquet.read_schema(fetched).metadata[b"row groups"])


def fetch_group(split: RepoSplit, name: str, number: int, path: Path) -> int:
    """Write one row group of a file to a parquet file of its own, unless it is there; return its rows."""
    import pyarrow.parquet

    if not path.is_file():
        with open_remote(split, name) as file:
            groups = file.metadata.num_row_groups
            table = insisting(lambda: file.read_row_group(number, use_threads=False), split)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"row groups": str(groups)})
        write_whole(path, lambda part: pyarrow.parquet.write_table(table, part))
    return int(pyarrow.parquet.read_metadata(path).num_rows)


def open_remote(split: RepoSplit, name: str, tries: int = TRIES) -> Any:
    """Open a parquet file of the Hub, or its copy in the cache, as a `pyarrow.parquet.ParquetFile`.

    Raises:
        UserError: it cannot be reached.
    """
    import pyarrow.parquet
    from huggingface_hub import HfFileSystem

    local = cached_file(split, name)
    if local is not None:
        return pyarrow.parquet.ParquetFile(local)

    def open_file() -> Any:
        file = HfFileSystem().open(f"datasets/{split.corpus.hub_id}@{split.commit}/{name}", cache_type="none")
        # Without Arrow's own threads, here and where it is read: one that still holds a file of Python's when the
        # interpreter ends takes the process down with it.
        return pyarrow.parquet.ParquetFile(file, pre_buffer=False)

    return insisting(open_file, split, tries)


def insisting(request: Callable[[], T], split: RepoSplit, tries: int = TRIES) -> T:
    """Make a request, and make it again a few times, ever later, where the network fails: a run must not end of that.

    Raises:
        FetchError: it is refused, or fails every time.
    """
    for number in range(tries):
        try:
            return request()
        except Exception as error:
            known = explained(error, split.corpus, split.commit)
            last = number == tries - 1 or "cannot be reached" not in str(known)
            if not isinstance(known, UserError):
                raise
            if last:
                raise FetchError(str(known)) from None
            logger.warning("%s Trying again in %d s...", known, 2 ** (2 * number))
            time.sleep(2 ** (2 * number))
    raise AssertionError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file of the cache in one stroke, so that processes side by side never read half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            write(part)
    except OSError as error:
        raise UserError(f"paths.cache_dir: {path} cannot be written ({error.strerror or error}).") from None


def open_stream(
    split: RepoSplit, audio_column: str | None, text_column: str | None, cache_dir: Path, max_bytes: int
) -> Table:
    """Read what is written about the clips of a split, and leave their audio where it is until it is drawn.

    What was read is kept: the next start needs no network for it.

    Args:
        split: its files, at one commit.
        audio_column, text_column: None looks for a usual name.
        cache_dir: `cache_dir/streams/<repository>` is used.
        max_bytes: that the row groups in that folder may take.

    Raises:
        UserError: the Hub cannot be reached, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet

    folder = cache_dir / "streams" / split.folder_name
    files = list(split.files)

    def read(name: str) -> Path:
        path = folder / f"{name.replace('/', '--')}.{text_column or 'usual'}.{INDEX}"
        if not path.is_file():
            _write_index(split, name, path, text_column)
        progress.advance(1)
        return path

    with (
        closing(Progress(f"Reading transcripts of {split.corpus.hub_id}", len(files), "files")) as progress,
        ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
    ):
        paths = list(pool.map(read, files))
    tables = [pyarrow.parquet.read_table(path) for path in paths]
    rows = pyarrow.concat_tables(tables, promote_options="permissive")
    file_of = np.repeat(np.arange(len(files), dtype=np.int32), [len(table) for table in tables])
    groups = rows.column("group").to_numpy()
    # Row groups in order, over all files: rows of one follow each other.
    changes = np.flatnonzero((np.diff(file_of) != 0) | (np.diff(groups) != 0)) + 1
    blocks = np.zeros(len(rows), dtype=np.int32)
    blocks[changes] = 1
    blocks = np.cumsum(blocks, dtype=np.int32)
    firsts = np.concatenate([[0], changes]) if len(rows) else np.zeros(0, dtype=np.int64)
    columns = rows.column_names
    listed = json.loads(rows.schema.metadata[b"columns"])
    audio = find_column(listed, audio_column, AUDIO_COLUMNS, "audio_column", split.origin)
    text = find_column(columns, text_column, TEXT_COLUMNS, "text_column", split.origin)
    name = name_column(columns)
    names = iterate(rows, name) if name else (f"{files[f]}:{row}" for row, f in enumerate(file_of.tolist()))
    return Table(
        origin=split.origin,
        names=compact(map(str, names)),
        texts=iterate(rows, text),
        durations=listed_durations(rows),
        recordings=StreamedRecordings(
            split, folder, audio, [(files[file_of[row]], int(groups[row])) for row in firsts], blocks, firsts, max_bytes
        ),
        version=f"{split.origin} streamed {text}",
        speakers=find_speakers(columns, lambda column: iterate(rows, column)),
        blocks=blocks,
    )


def _write_index(split: RepoSplit, name: str, path: Path, text_column: str | None) -> None:
    """Keep what one file says of its clips."""
    import pyarrow
    import pyarrow.parquet

    with open_remote(split, name) as file:
        wanted = {text_column, *TEXT_COLUMNS, *SPEAKER_COLUMNS, *DURATION_COLUMNS, name_column(file.schema_arrow.names)}
        columns = [column for column in file.schema_arrow.names if column in wanted]
        table = insisting(lambda: file.read(columns=columns, use_threads=False), split)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        listed = json.dumps(file.schema_arrow.names)
    group = pyarrow.array(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    table = table.append_column("group", group).replace_schema_metadata({"columns": listed})
    write_whole(path, lambda part: pyarrow.parquet.write_table(table, part))


class StreamedRecordings:
    """Recordings that are fetched when they are drawn, a row group at a time.

    Args:
        split: where from.
        folder: where row groups are kept, as Arrow files, the least recently read ones deleted first.
        audio: the column.
        groups: (file, number in it) of each row group.
        blocks: (N,) the row group of each row.
        firsts: the first row of each row group.
        max_bytes: that `folder` may take; what is being read is kept all the same.
    """

    def __init__(
        self,
        split: RepoSplit,
        folder: Path,
        audio: str,
        groups: Sequence[tuple[str, int]],
        blocks: np.ndarray,
        firsts: np.ndarray,
        max_bytes: int,
    ) -> None:
        self.split, self.folder, self.audio = split, folder, audio
        self.groups, self.blocks, self.firsts = groups, blocks, firsts
        self.max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, row: int) -> bytes:
        block = int(self.blocks[row])
        recording = unpack_audio(self._column(block)[row - int(self.firsts[block])].as_py(), None)
        assert isinstance(recording, bytes)
        return recording

    def _column(self, block: int) -> Any:
        """The recordings of a row group; fetched again where another process has just made room by deleting it."""
        import pyarrow

        for _ in range(TRIES_WHEN_DRAWN):
            path = self._fetched(block)
            try:
                return _open_arrow(path)
            except FileNotFoundError:
                continue
            except pyarrow.ArrowInvalid:  # half of a file, after a power cut
                path.unlink(missing_ok=True)
        raise FetchError(f"paths.cache_dir: {path} disappears as soon as it is fetched; raise data.streaming_disk_gb.")

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`: a commit never changes."""
        return [f"{self.split.origin} {row}" for row in rows]

    def _fetched(self, block: int) -> Path:
        """Where a row group lies, once it is there; only one process fetches it."""
        import pyarrow

        name, number = self.groups[block]
        path = self.folder / f"{name.replace('/', '--')}.{number}.arrow"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not path.is_file():
                    with open_remote(self.split, name, TRIES_WHEN_DRAWN) as file:
                        request = partial(file.read_row_group, number, columns=[self.audio], use_threads=False)
                        table = insisting(request, self.split, TRIES_WHEN_DRAWN)

                    def write(part: Path) -> None:
                        with pyarrow.OSFile(str(part), "wb") as out, pyarrow.ipc.new_file(out, table.schema) as writer:
                            writer.write_table(table)

                    write_whole(path, write)
                    self._make_room(path)
            path.with_suffix(".lock").unlink(missing_ok=True)
        with suppress(OSError):
            os.utime(path)
        return path

    def _make_room(self, newest: Path) -> None:
        """Delete the row groups that were read longest ago, down to `max_bytes`; who has one open reads on."""
        found = []
        for path in self.folder.glob("*.arrow"):
            with suppress(FileNotFoundError):  # another process deletes too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        taken = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if taken <= self.max_bytes:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                taken -= size


@lru_cache(OPEN_GROUPS)
def _open_arrow(path: Path) -> Any:
    """The one column of a row group, memory-mapped."""
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all().column(0)
