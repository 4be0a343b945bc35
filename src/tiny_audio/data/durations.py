"""Durations that a corpus does not list: read once from the recordings' headers, and cached."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..audio import AudioError, header_seconds
from ..files import written_whole
from .tables import FileRecordings, Recordings, Table

logger = logging.getLogger(__name__)

VERSION = 2  # of how lengths are found: caches of earlier versions are not read
BLOCK_CLIPS = 512  # between two looks at the clock
PROGRESS_SECONDS = 5.0
# Threads, since a header costs a round trip on network disks. With recordings in memory, 8 took twice as long as 1.
FILE_READERS = 8


def read_durations(table: Table, rows: np.ndarray, cache_dir: Path) -> tuple[np.ndarray, dict[int, AudioError]]:
    """Read the seconds of some rows of a table, from the cache if they were read before.

    A failure is not cached, since a file that is missing today may be there tomorrow. An interrupted run keeps
    what it has read.

    Args:
        table: the corpus.
        rows: (R,) its rows in question.
        cache_dir: the cache is `cache_dir/durations/<hash of VERSION and table.version>.npy`, float32 seconds or NaN
            for all rows.

    Returns:
        (R,) float32 seconds, NaN where reading failed; and the errors of those rows.
    """
    file = cache_dir / "durations" / (hashlib.sha256(f"{VERSION} {table.version}".encode()).hexdigest()[:24] + ".npy")
    known = np.load(file) if file.is_file() else np.full(len(table.names), np.nan, dtype=np.float32)
    missing = rows[np.isnan(known[rows])]
    failures: dict[int, AudioError] = {}
    if len(missing):
        try:
            _read(table, missing, known, failures)
        finally:
            _save(file, known)
    return known[rows], failures


def _read(table: Table, rows: np.ndarray, known: np.ndarray, failures: dict[int, AudioError]) -> None:
    """Fill in `known` and `failures`, and report progress every few seconds."""
    reported = time.monotonic()
    readers = FILE_READERS if isinstance(table.recordings, FileRecordings) else 1
    with ThreadPoolExecutor(readers) as pool:
        for start in range(0, len(rows), BLOCK_CLIPS):
            block = rows[start : start + BLOCK_CLIPS].tolist()
            for row, result in zip(block, _seconds_of(pool, table.recordings, block), strict=True):
                if isinstance(result, AudioError):
                    failures[row] = result
                else:
                    known[row] = result
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                done = min(start + BLOCK_CLIPS, len(rows))
                logger.info("Reading durations of %s: %s of %s clips", table.origin, f"{done:,}", f"{len(rows):,}")


def _seconds_of(pool: ThreadPoolExecutor, recordings: Recordings, rows: Sequence[int]) -> list[float | AudioError]:
    def seconds(row: int) -> float | AudioError:
        try:
            return header_seconds(recordings[row])
        except AudioError as error:
            return error

    return list(pool.map(seconds, rows))


def _save(file: Path, durations: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as part, part.open("wb") as stream:
        np.save(stream, durations)
