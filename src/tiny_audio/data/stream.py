"""A stream as it is drawn: only the number of a clip is known before its row group is read.

To start on a corpus of millions of clips, only the ends of its files are read. The texts of a row group, and then its
recordings, are fetched when they are drawn, or a little before.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..config import DataConfig
from ..errors import FetchError
from .contexts import clean_contexts
from .index import clean_texts, estimated_seconds
from .parquet import iterate, listed_durations
from .remote import RemoteStream
from .strings import Column

logger = logging.getLogger(__name__)

KNOWN_BLOCKS = 256  # row groups whose transcripts a process holds; a window of draws spreads over 16 a corpus
READERS = 8  # row groups fetched at a time, before they are drawn
READER_NAME = "read-ahead"  # of the threads that fetch them


class Block(NamedTuple):
    """What is known of the clips of one row group."""

    names: list[str]
    texts: list[str]  # cleaned transcripts, empty if there is none
    contexts: Sequence[str]  # empty if there is none
    listed: np.ndarray  # seconds, NaN if they are not listed


@dataclass(eq=False)
class DrawnClips:
    """The clips of a stream, by number; N counts them.

    Attributes:
        stream: the source of the clips.
        corpus_name: its cleaner is applied.
        data: limits on length, and text form.
    """

    stream: RemoteStream
    corpus_name: str
    data: DataConfig

    def at(self, row: int) -> tuple[Block, int]:
        """Return the row group of a clip, and the clip's place in it."""
        block = int(self.stream.blocks[row])
        return read_block(self, block), row - int(self.stream.firsts[block])


@lru_cache(KNOWN_BLOCKS)
def read_block(clips: DrawnClips, number: int) -> Block:
    """Return the texts of a row group; fetch them if they are not kept."""
    stream = clips.stream
    table = stream.transcripts(number)
    names = list(stream.names(table, int(stream.firsts[number])))
    texts = clean_texts(iterate(table, stream.text), clips.corpus_name, clips.data)
    raw = stream.contexts(table, int(stream.firsts[number]))
    contexts = clean_contexts(raw, range(len(names)), clips.data, stream.split.origin)
    return Block(names, texts, contexts or [""] * len(names), listed_durations(table))


class DrawnColumn(Column):
    """The texts of a stream: `names`, `texts` or `contexts` of `Block`, for N clips."""

    def __init__(self, clips: DrawnClips, column: str) -> None:
        self.clips, self.column = clips, column

    def __len__(self) -> int:
        return len(self.clips.stream)

    def _row(self, index: int) -> str:
        block, place = self.clips.at(index)
        return getattr(block, self.column)[place]


class DrawnDurations:
    """N durations in seconds, read when they are needed: listed, or else estimated from the transcripts."""

    def __init__(self, clips: DrawnClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips.stream)

    def __getitem__(self, rows: np.ndarray | int) -> np.ndarray:
        """Return float32 seconds of some rows; row groups that are not kept are fetched, many at once."""
        wanted = np.atleast_1d(np.asarray(rows))
        self.clips.stream.keep_transcripts(np.unique(self.clips.stream.blocks[wanted]).tolist())
        seconds = np.empty(len(wanted), dtype=np.float32)
        for i, row in enumerate(wanted.tolist()):
            block, place = self.clips.at(row)
            listed = float(block.listed[place])
            seconds[i] = estimated_seconds(block.texts[place], self.clips.data) if math.isnan(listed) else listed
        return seconds if np.ndim(rows) else seconds[0]

    def listed(self, row: int) -> float:
        """Return the seconds that the corpus lists for a clip, NaN if it lists none."""
        block, place = self.clips.at(row)
        return float(block.listed[place])

    def tobytes(self) -> bytes:
        """Return what the durations depend on, for fingerprints."""
        return self.clips.stream.version.encode()


class ReadAhead:
    """Fetches the row groups that are drawn next, in its own threads.

    Args:
        streams: of each source of a plan, in its order; None if it is not streamed.
    """

    def __init__(self, streams: Sequence[RemoteStream | None]) -> None:
        self.streams = streams
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, windows: Sequence[Sequence[np.ndarray]]) -> None:
        """Fetch the row groups that are drawn next.

        Args:
            windows: the next windows of the plan, in order: the rows (R,) of each source.
        """
        self.close()
        for number, stream in enumerate(self.streams):
            if stream is None:
                continue
            rows = np.concatenate([window[number] for window in windows])
            blocks, first = np.unique(stream.blocks[rows], return_index=True)
            if sum(stream.groups[block].num_bytes for block in blocks.tolist()) > stream.max_bytes:
                continue  # the next one would delete it before it was drawn
            if self._pool is None:
                self._pool = ThreadPoolExecutor(READERS, thread_name_prefix=READER_NAME)
            for block in blocks[np.argsort(first)].tolist():
                self._pool.submit(_read_ahead, stream, block)

    def close(self) -> None:
        """Cancel the requests that have not begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _read_ahead(stream: RemoteStream, block: int) -> None:
    if not threading.main_thread().is_alive():  # at its end, the interpreter still runs the queue
        return
    try:
        stream.keep_transcripts([block])
        stream.recordings_of(block, tries=1)
    except FetchError as error:  # the loader tries longer when it is drawn, and ends the run if that fails
        logger.debug("Not read ahead: %s", error)
