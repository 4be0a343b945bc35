"""Text files of other systems: with a byte order mark, in UTF-16, in Windows-1252, compressed, or in one huge line."""

from __future__ import annotations

import codecs
import gzip
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from ..errors import UserError

logger = logging.getLogger(__name__)

MAX_LINE = 4_000_000  # characters: a longer line cannot be a row of a manifest
BLOCK_BYTES = 1 << 20
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
#: Letters of western European languages beyond ASCII. Text of other code pages shows other characters, or long runs.
_WESTERN = re.compile(
    r"[\x00-\x7f\xa0-\xb4\xb7\xbb\xbf-\xfe\u0152\u0153\u0160\u0161\u017d\u017e\u0178\u2010-\u2026\u20ac]*"
)
_WORD = re.compile(r"\w*[^\W\x00-\x7f]\w*")
_OTHER = re.compile(r"[^\x00-\x7f]")
_FOREIGN_RUN = re.compile(r"[^\x00-\x7f]{4}")


@contextmanager
def open_text(path: Path, tell: bool = True, setting: str = "data.datasets") -> Iterator[IO[str]]:
    """Open a text file of any of these encodings for reading, with unchanged line ends.

    Args:
        path: the file; .gz is decompressed.
        tell: warn of an encoding that was guessed.
        setting: that names the file, for the error.

    Raises:
        UserError: it cannot be opened or read, or is not text in an encoding that can be recognized.
    """
    try:
        encoding = _encoding(path, tell)
        with (
            gzip.open(path, "rt", encoding=encoding, newline="")
            if path.suffix == ".gz"
            else path.open(encoding=encoding, newline="") as file
        ):
            yield file
    except UnicodeDecodeError as error:
        raise UserError(
            f"{setting}: {path} is not text in UTF-8 ({error.reason}), UTF-16 or Windows-1252; save it as UTF-8."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{setting}: {path} cannot be read ({error}).") from None


def _open_bytes(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _encoding(path: Path, tell: bool) -> str:
    """The encoding of a file, by its byte order mark or else its bytes; UnicodeDecodeError if none fits."""
    with _open_bytes(path) as file:
        block = file.read(BLOCK_BYTES)
        for mark, encoding in _MARKS:
            if block.startswith(mark):
                return encoding
        for zeros, encoding in ((block[1:1000:2], "utf-16-le"), (block[:1000:2], "utf-16-be")):
            if zeros.count(0) > 0.9 * len(zeros):  # western text without a mark
                return encoding
        file.seek(0)
        try:
            for _ in codecs.iterdecode(iter(partial(file.read, BLOCK_BYTES), b""), "utf-8"):
                pass
            return "utf-8"
        except UnicodeDecodeError as error:
            refused = error
    words = _western_words(path)
    if not words:
        raise refused
    logger.log(
        logging.WARNING if tell else logging.DEBUG,
        "%s is not UTF-8 text; it is read as Windows-1252 (%s). Save it as UTF-8 if those words are wrong.",
        path,
        ", ".join(words),
    )
    return "cp1252"


def _western_words(path: Path) -> list[str]:
    """Some words of a file that are not ASCII, if the whole file can be Windows-1252; else an empty list."""
    words: list[str] = []
    try:
        with _open_bytes(path) as file:
            for line in iter(partial(file.readline, BLOCK_BYTES), b""):
                if not line.isascii():
                    text = line.decode("cp1252")
                    if _WESTERN.fullmatch(text) is None or _FOREIGN_RUN.search(text):
                        return []
                    words += (_WORD.findall(text) or _OTHER.findall(text))[: 3 - len(words)]
    except UnicodeDecodeError:
        return []
    return words


def numbered_lines(file: IO[str]) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a file with their numbers, from 1; None instead of a line longer than `MAX_LINE`."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                pass
            yield number, None
        else:
            yield number, line
