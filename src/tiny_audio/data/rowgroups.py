"""Row groups of parquet files on the Hub: lists them, and reads one without the others, as ranges of bytes.

The end of a parquet file (its footer) says where each column of each row group is. It is read in one request, and
kept. After that, any columns of a row group cost one or two requests.

The Hub answers a request for a file with a redirect to its storage. The address of the storage is kept, so a second
range of the file costs one request, which the Hub does not count.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FetchError, UserError
from ..files import written_whole
from ..progress import in_threads
from .hub import RepoSplit, cached_file
from .hub_requests import PARALLEL_REQUESTS, TRIES, retry

FOOTER_BYTES = 1 << 16  # enough for the footer of most files; a longer one costs a second request
MAGIC = b"PAR1"
HOLE_BYTES = 1 << 16  # ranges with no larger gap are fetched as one: cheaper than another round trip
EXPIRED = (400, 401, 403, 404)  # from a storage whose address was kept: its signature is valid for about an hour


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
        import pyarrow.parquet

        metadata = self.file.metadata
        source: Path | _Pieces | None = self.file.local
        if source is None:
            source = _Pieces(self.file.remote, self.file.size, tries)
            group = metadata.row_group(self.number)
            chunks = [group.column(i) for i in range(group.num_columns)]
            source.fetch(_place(chunk) for chunk in chunks if _is_wanted(chunk.path_in_schema, columns))
        # Without Arrow's own threads: one that still holds a Python file when the interpreter ends crashes the process.
        opened = pyarrow.parquet.ParquetFile(source, metadata=metadata, pre_buffer=False)
        return opened.read_row_group(self.number, columns=columns and list(columns), use_threads=False)


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
        return ParquetFile(local, remote, size, metadata)

    return in_threads(open_one, names, PARALLEL_REQUESTS, f"Looking into {split.corpus.hub_id}", "files")


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


class RemoteFile:
    """A file of a split on the Hub, read in pieces; may be used by several threads."""

    def __init__(self, split: RepoSplit, name: str) -> None:
        from huggingface_hub import hf_hub_url

        self.split, self.name = split, name
        self._url = hf_hub_url(split.corpus.hub_id, name, repo_type="dataset", revision=split.commit)
        self._storage: str | None = None

    def read(self, begin: int, end: int, tries: int = TRIES) -> bytes:
        """Return the bytes from `begin` to before `end`.

        Raises:
            FetchError: they cannot be fetched.
        """
        content, _ = self._retry(f"bytes={begin}-{end - 1}", tries)
        if len(content) != end - begin:
            raise FetchError(f"Could not fetch {self.name} of {self.split.origin}: it ends before byte {end:,}.")
        return content

    def tail(self, count: int) -> tuple[bytes, int]:
        """Return the last `count` bytes, or all if there are fewer, and the size of the file.

        Raises:
            FetchError: they cannot be fetched.
        """
        return self._retry(f"bytes=-{count}", TRIES)

    def _retry(self, span: str, tries: int) -> tuple[bytes, int]:
        return retry(lambda: self._get(span), self.split.corpus, self.split.commit, tries)

    def _get(self, span: str) -> tuple[bytes, int]:
        from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = {"Range": span, "Accept-Encoding": "identity"}
        response = None
        if (storage := self._storage) is not None:
            response = get_session().get(storage, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT)
            if response.status_code in EXPIRED:
                self._storage = response = None
        if response is None:  # only the Hub may get the token
            headers |= build_hf_headers()
            response = get_session().get(self._url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(response)
        if response.history:
            self._storage = str(response.url)
        return _part(response, span)


def _part(response: Any, span: str) -> tuple[bytes, int]:
    """The requested bytes, and the size of the file; a server that does not support ranges sends the whole file."""
    content: bytes = response.content
    if response.status_code == 206:
        return content, int(response.headers["Content-Range"].rpartition("/")[2])
    begin, _, end = span.removeprefix("bytes=").partition("-")
    part = content[int(begin) : int(end) + 1] if begin else content[-int(end) :]
    return part, len(content)


class _Pieces(io.RawIOBase):
    """Pieces of a file, for a reader that seeks; bytes outside of the pieces are fetched when they are read.

    Args:
        file: the file on the Hub.
        size: of the whole, in bytes.
        tries: of each request.
    """

    def __init__(self, file: RemoteFile, size: int, tries: int = TRIES) -> None:
        super().__init__()
        self.file, self.size, self.tries = file, size, tries
        self.pieces: list[tuple[int, bytes]] = []  # where each begins
        self._position = 0

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch ranges (begin, end) of bytes; ranges that are close together are one request."""
        merged: list[list[int]] = []
        for begin, end in sorted(ranges):
            if merged and begin - merged[-1][1] <= HOLE_BYTES:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([begin, end])
        self.pieces += [(begin, self.file.read(begin, end, self.tries)) for begin, end in merged]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, or all that follow."""
        begin = self._position
        end = self.size if size is None or size < 0 else min(begin + size, self.size)
        self._position = max(begin, end)
        if begin >= end:
            return b""
        for start, piece in self.pieces:
            if start <= begin and end <= start + len(piece):
                return piece[begin - start : end - start]
        return self.file.read(begin, end, self.tries)
