"""Reads ranges of bytes of files on the Hub, without the whole files.

The Hub answers a request for a file with a redirect to its storage. The address of the storage is kept, so a second
range of the file costs one request, which the Hub does not count.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from ..errors import FetchError
from .hub import RepoSplit
from .hub_requests import TRIES, retry

HOLE_BYTES = 1 << 16  # ranges with no larger gap are fetched as one: cheaper than another round trip
EXPIRED = (400, 401, 403, 404)  # from a storage whose address was kept: its signature is valid for about an hour


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


class Pieces(io.RawIOBase):
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
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
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
