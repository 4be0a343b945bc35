"""The samples of recordings of hours: in a temporary file instead of memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

BLOCK = 1 << 20  # samples that are read at once: a minute, 4 MB


class SpooledSamples:
    """Samples (S,) float32 in a temporary file, which goes when this object goes. A slice of it is an array.

    Attributes:
        scale: factor of all samples, applied when they are read.
    """

    ndim, dtype = 1, np.dtype(np.float32)

    def __init__(self) -> None:
        self.scale = 1.0
        self._file = tempfile.TemporaryFile(prefix="tiny_audio_")  # noqa: SIM115, it is open as long as this object
        self._length = 0
        weakref.finalize(self, self._file.close)

    def append(self, samples: np.ndarray) -> None:
        """Write float32 samples (n,) at the end.

        Raises:
            OSError: there is no room for them.
        """
        self._file.seek(0, os.SEEK_END)
        self._file.write(samples.data)
        self._file.flush()
        self._length += len(samples)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(self._length)
        if step != 1:
            raise ValueError(f"samples in a file are read in their order, not with a step of {step}.")
        self._file.seek(4 * start)
        samples = np.fromfile(self._file, np.float32, max(stop - start, 0))
        return samples if self.scale == 1 else samples * np.float32(self.scale)


Samples: TypeAlias = np.ndarray | SpooledSamples


def blocks(samples: Samples, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Yield samples (S,) in blocks of `size`; the last one may be shorter."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def are_finite(samples: Samples) -> bool:
    """Whether no sample is NaN or infinite."""
    return all(bool(np.isfinite(block).all()) for block in blocks(samples))
