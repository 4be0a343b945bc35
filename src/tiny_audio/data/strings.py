"""Columns of text in little memory, which worker processes share as long as no process writes to them.

pyarrow does not fit: it refuses the lone surrogates with which Python writes file names that are not UTF-8, and it
needs more than twice the memory while it packs strings one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

from ..errors import printable


def shown(value: object, limit: int = 60) -> str:
    """Return a value from a file in a form for messages: one short line."""
    return printable(str(value), limit)


class Column(Sequence[str]):
    """A sequence of texts: by row number, also from the end, or slices as lists."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._row(index % len(self))

    def _row(self, index: int) -> str:
        raise NotImplementedError


class Strings(Column):
    """Many strings in one piece of memory, which worker processes share as long as no process writes to it."""

    def __init__(self, strings: Iterable[str]) -> None:
        data, ends = bytearray(), [0]
        for string in strings:
            data += string.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        self.data = bytes(data)
        self.ends = np.array(ends, dtype=np.int64)

    @classmethod
    def of(cls, data: bytes, ends: np.ndarray) -> Strings:
        """Make strings from their UTF-8 bytes, and the places where they end: (N + 1,) int64, from 0."""
        strings = cls(())
        strings.data, strings.ends = data, ends
        return strings

    def __len__(self) -> int:
        return len(self.ends) - 1

    def _row(self, index: int) -> str:
        return self.data[self.ends[index] : self.ends[index + 1]].decode("utf-8", "surrogatepass")


class Labels(Column):
    """Many strings with few different values, such as speakers: a number for each row, and each value once."""

    def __init__(self, strings: Iterable[str]) -> None:
        known: dict[str, int] = {}
        self.codes = np.array([known.setdefault(string, len(known)) for string in strings], dtype=np.int32)
        self.values = list(known)

    def __len__(self) -> int:
        return len(self.codes)

    def _row(self, index: int) -> str:
        return self.values[int(self.codes[index])]
