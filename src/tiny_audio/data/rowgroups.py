"""Row groups of parquet files on the Hub: lists them, and reads one without the others.

The end of a parquet file (its footer) says where each column of each row group is. It is read in one request, and
kept. After that, any columns of a row group cost one or two requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import written_whole
from ..progress import Progress
from .hub import RepoSplit, cached_file
from .hub_requests import PARALLEL_REQUESTS, TRIES
from .ranges import Pieces, RemoteFile

FOOTER_BYTES = 1 << 16  # enough for the footer of most files; a longer one costs a second request
MAGIC = b"PAR1"


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file of a split, in the Hugging Face cache or on the Hub.

    Attributes:
        local: where it is in the cache; else None.
        remote: on the Hub.
        size: bytes of it.
        metadata: `pyarrow.parquet.FileMetaData`, what its footer says.
    """

    local: Path | None
    remote: RemoteFile
    size: int
    metadata: Any

    def open(self, tries: int = TRIES) -> tuple[Any, Pieces | None]:
        """Return it as a `pyarrow.parquet.ParquetFile`, and its pieces if it is on the Hub."""
        import pyarrow.parquet

        if self.local is not None:
            return pyarrow.parquet.ParquetFile(self.local, metadata=self.metadata), None
        pieces = Pieces(self.remote, self.size, tries)
        # Without Arrow's own threads, here and in `read`: a thread that still holds a Python file when the interpreter
        # ends crashes the process.
        return pyarrow.parquet.ParquetFile(pieces, metadata=self.metadata, pre_buffer=False), pieces

    def columns(self) -> list[str]:
        """Return the paths of its columns; the parts of a nested column are `audio.bytes` and `audio.path`."""
        return [self.metadata.schema.column(i).path for i in range(self.metadata.num_columns)]

    def groups(self) -> list[RowGroup]:
        """Return its row groups."""
        groups = [self.metadata.row_group(number) for number in range(self.metadata.num_row_groups)]
        return [RowGroup(self, i, group.num_rows, group.total_byte_size) for i, group in enumerate(groups)]


@dataclass(frozen=True)
class RowGroup:
    """A row group: its file, its number in it, its rows, its bytes."""

    file: ParquetFile
    number: int
    rows: int
    num_bytes: int

    @property
    def name(self) -> str:
        """A name for its files on this disk, different from the names of all others of its repository."""
        return f"{self.file.remote.name.replace('/', '--')}.{self.number}"

    def read(self, columns: Sequence[str] | None = None, tries: int = TRIES) -> Any:
        """Return it as a `pyarrow.Table`.

        Args:
            columns: names of columns, or of their parts (`audio.path`); None: all.
            tries: of each request.

        Raises:
            FetchError: it cannot be fetched.
        """
        file, pieces = self.file.open(tries)
        if pieces is not None:
            group = self.file.metadata.row_group(self.number)
            chunks = [group.column(i) for i in range(group.num_columns)]
            pieces.fetch(_place(chunk) for chunk in chunks if _is_wanted(chunk.path_in_schema, columns))
        columns = None if columns is None else list(columns)
        return file.read_row_group(self.number, columns=columns, use_threads=False)


def _is_wanted(path: str, columns: Sequence[str] | None) -> bool:
    return columns is None or any(path == name or path.startswith(f"{name}.") for name in columns)


def _place(chunk: Any) -> tuple[int, int]:
    """Where a column of a row group begins and ends in its file."""
    begin = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        begin = min(begin, chunk.dictionary_page_offset)
    return begin, begin + chunk.total_compressed_size


def open_files(split: RepoSplit, names: Sequence[str], cache_dir: Path) -> list[ParquetFile]:
    """Open files of a split: their footers are read many at once, in one request each, and kept.

    Args:
        split: the split of the files.
        names: of the files.
        cache_dir: footers are kept in `cache_dir/footers/<repository>`.

    Raises:
        UserError: they cannot be fetched, or are not parquet files.
    """
    import pyarrow.parquet

    folder = cache_dir / "footers" / split.folder_name

    def open_one(name: str) -> ParquetFile:
        remote, local = RemoteFile(split, name), cached_file(split, name)
        size, footer = (0, local) if local is not None else _footer(remote, folder / name.replace("/", "--"))
        try:
            # pyarrow opens a footer alone as a file: it gives only the places of the rest.
            metadata = pyarrow.parquet.read_metadata(footer if local else pyarrow.BufferReader(footer))
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{name} of {split.origin} cannot be read as parquet ({error}).") from None
        progress.advance(1)
        return ParquetFile(local, remote, size, metadata)

    title = f"Looking into {split.corpus.hub_id}"
    with closing(Progress(title, len(names), "files")) as progress, ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return list(pool.map(open_one, names))


def _footer(remote: RemoteFile, kept: Path) -> tuple[int, bytes]:
    """The size and the footer of a file, from the disk if they were read before."""
    if kept.is_file():
        content = kept.read_bytes()
        return int.from_bytes(content[:8], "little"), content[8:]
    tail, size = remote.tail(FOOTER_BYTES)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != MAGIC or length > size:
        raise UserError(f"{remote.name} of {remote.split.origin} is not a parquet file.")
    footer = tail[-length:] if length <= len(tail) else remote.read(size - length, size)
    keep(kept, lambda part: part.write_bytes(size.to_bytes(8, "little") + footer))
    return size, footer


def keep(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file of the cache atomically: see `written_whole`.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            write(part)
    except OSError as error:
        raise UserError(f"paths.cache_dir: {path} cannot be written ({error.strerror or error}).") from None
