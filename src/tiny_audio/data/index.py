"""The index of a corpus, made when it is first opened and cached: cleaned transcripts, usable rows, other rows.

To clean a corpus of a million clips takes a minute; every later start reads the result in a second. Durations that a
corpus does not list are read from the recordings' headers, and have a cache of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import text as text_rules
from ..audio import AudioError, header_seconds
from ..config import DataConfig
from ..files import written_whole
from ..text import CLEANERS, clean_transcript
from .strings import Strings
from .tables import FileRecordings, Recordings, Table

logger = logging.getLogger(__name__)

DURATIONS_VERSION = 2  # of how lengths are found: caches of earlier versions are not read
BLOCK_CLIPS = 512  # between two looks at the clock
PROGRESS_SECONDS = 5.0
# Threads, since a header costs a round trip on network disks. With recordings in memory, 8 took twice as long as 1.
FILE_READERS = 8
#: Of fluent English, spaces included. Durations that a streamed corpus does not list are estimated with it.
CHARACTERS_PER_SECOND = 14.0
MAX_TEXT = 100_000  # characters of a transcript: two hours of speech; more is a mistake, and would fill the memory

REASONS = (*AudioError.REASONS, "empty_text", "bad_row")
UNREADABLE = (*AudioError.UNREADABLE, "bad_row")


@dataclass(frozen=True, slots=True)
class Skip:
    """A clip that was left out: its source's name, its own, one of `REASONS`, and what exactly was wrong."""

    source: str
    name: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason


@dataclass
class Index:
    """The usable rows of a table. N counts them.

    Attributes:
        rows: (N,) int64, their numbers in the table.
        texts: N cleaned transcripts.
        durations: (N,) float32 seconds.
        left_out: row, reason and detail of every other row.
    """

    rows: np.ndarray
    texts: Strings
    durations: np.ndarray
    left_out: list[tuple[int, str, str]]


def index_table(corpus_name: str, table: Table, data: DataConfig, cache_dir: Path, evaluation: bool) -> Index:
    """Find the usable rows of a table, or read them from the cache if that was done before.

    Clips that could not be opened are tried again at every start, so an index with such rows is not cached.
    """
    limits = (data.text_case, data.keep_punctuation, data.min_audio_length, data.max_audio_length)
    file = index_file(cache_dir, table.version, (corpus_name if corpus_name in CLEANERS else "", *limits))
    index = load_index(file)
    if index is None:
        index, complete = _index(corpus_name, table, data, cache_dir, evaluation)
        if complete:
            save_index(file, index)
    return index


def clean_texts(raw: Iterable[str | None], corpus_name: str, data: DataConfig) -> list[str]:
    """Bring transcripts into the form that the model learns; empty if there is none."""
    prepare = CLEANERS.get(corpus_name, str)
    return [clean_transcript(prepare(text or ""), data.text_case, data.keep_punctuation) for text in raw]


def _index(corpus_name: str, table: Table, data: DataConfig, cache_dir: Path, evaluation: bool) -> tuple[Index, bool]:
    """Clean the transcripts, complete the durations, leave out unusable rows; return also if all could be opened."""
    failures: dict[int, AudioError] = {}
    faults = dict(table.faults)
    raw = list(table.texts)
    for row, text in enumerate(raw):
        if text and len(text) > MAX_TEXT:
            faults.setdefault(row, f"its transcript has {len(text):,} characters, more than {MAX_TEXT:,}")
            raw[row] = None
    texts = clean_texts(raw, corpus_name, data)
    usable = np.array([bool(text) for text in texts], dtype=bool)
    usable[list(faults)] = False
    empty = np.flatnonzero(~usable).tolist()
    reasons: dict[int, tuple[str, str]] = dict.fromkeys(empty, ("empty_text", "has no transcript"))
    reasons |= {row: ("bad_row", what) for row, what in faults.items()}
    seconds = table.durations.copy()
    unknown = np.flatnonzero(usable & np.isnan(seconds))
    if len(unknown) and table.blocks is not None:
        seconds[unknown] = [estimated_seconds(texts[row], data) for row in unknown.tolist()]
    elif len(unknown):
        seconds[unknown], failures = read_durations(table, unknown, cache_dir)
        if evaluation:  # fails again when it is read, and counts as wrong
            seconds[list(failures)] = data.min_audio_length
        else:
            reasons |= {row: (error.reason, str(error)) for row, error in failures.items()}
            usable[list(failures)] = False
    for reason, outside, limit, word in (
        ("too_short", seconds < data.min_audio_length, data.min_audio_length, "shorter"),
        ("too_long", seconds > data.max_audio_length, data.max_audio_length, "longer"),
    ):
        for row in np.flatnonzero(usable & outside).tolist():
            reasons[row] = (reason, f"{seconds[row]:.2f} s is {word} than {limit:g} s")
        usable &= ~outside
    rows = np.flatnonzero(usable)
    left_out = [(row, *reasons[row]) for row in sorted(reasons)]
    index = Index(rows, Strings(texts[row] for row in rows.tolist()), seconds[rows].astype(np.float32), left_out)
    return index, not failures


def estimated_seconds(text: str, data: DataConfig) -> float:
    """Roughly how long it takes to say a transcript, within the limits; the real length is checked at reading."""
    return min(max(len(text) / CHARACTERS_PER_SECOND, data.min_audio_length), data.max_audio_length)


def index_file(cache_dir: Path, version: str, settings: Sequence[object]) -> Path:
    """Return the file of a table's index: its name changes with the table, the settings, and our own rules."""
    digest = hashlib.sha256(repr((version, DURATIONS_VERSION, *settings)).encode())
    digest.update(Path(text_rules.__file__).read_bytes())
    return cache_dir / "index" / f"{digest.hexdigest()[:24]}.npz"


def load_index(file: Path) -> Index | None:
    """Read an index, or return None if there is none, or it cannot be read."""
    try:
        with np.load(file) as saved:
            left_out = json.loads(saved["left_out"].tobytes())
            texts = Strings.of(saved["text"].tobytes(), saved["ends"])
            return Index(saved["rows"], texts, saved["durations"], [(row, why, how) for row, why, how in left_out])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_index(file: Path, index: Index) -> None:
    """Write an index atomically. A full disk does not end the run; the next start makes the index again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as part, part.open("wb") as stream:
            np.savez(
                stream,
                rows=index.rows,
                durations=index.durations,
                text=np.frombuffer(index.texts.data, dtype=np.uint8),
                ends=index.texts.ends,
                left_out=np.frombuffer(json.dumps(index.left_out).encode(), dtype=np.uint8),
            )
    except OSError as error:
        logger.warning("paths.cache_dir: %s cannot be written (%s).", file, error.strerror or error)


def read_durations(table: Table, rows: np.ndarray, cache_dir: Path) -> tuple[np.ndarray, dict[int, AudioError]]:
    """Read the seconds of some rows of a table, from the cache if they were read before.

    A failure is not cached, since a file that is missing today may be there tomorrow. An interrupted run keeps
    what it has read.

    Args:
        table: the corpus.
        rows: (R,) its rows in question.
        cache_dir: the cache is `cache_dir/durations/<hash of DURATIONS_VERSION and table.version>.npy`, float32 seconds
            or NaN for all rows.

    Returns:
        (R,) float32 seconds, NaN where reading failed; and the errors of those rows.
    """
    digest = hashlib.sha256(f"{DURATIONS_VERSION} {table.version}".encode()).hexdigest()
    file = cache_dir / "durations" / f"{digest[:24]}.npy"
    known = np.load(file) if file.is_file() else np.full(len(table.names), np.nan, dtype=np.float32)
    missing = rows[np.isnan(known[rows])]
    failures: dict[int, AudioError] = {}
    if len(missing):
        try:
            _read_headers(table, missing, known, failures)
        finally:
            file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(file) as part, part.open("wb") as stream:
                np.save(stream, known)
    return known[rows], failures


def _read_headers(table: Table, rows: np.ndarray, known: np.ndarray, failures: dict[int, AudioError]) -> None:
    """Fill in `known` and `failures`, and report progress every few seconds."""
    reported = time.monotonic()
    readers = FILE_READERS if isinstance(table.recordings, FileRecordings) else 1
    with ThreadPoolExecutor(readers) as pool:
        for start in range(0, len(rows), BLOCK_CLIPS):
            block = rows[start : start + BLOCK_CLIPS].tolist()
            for row, result in zip(block, pool.map(partial(_seconds, table.recordings), block), strict=True):
                if isinstance(result, AudioError):
                    failures[row] = result
                else:
                    known[row] = result
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                done = min(start + BLOCK_CLIPS, len(rows))
                logger.info("Reading durations of %s: %s of %s clips", table.origin, f"{done:,}", f"{len(rows):,}")


def _seconds(recordings: Recordings, row: int) -> float | AudioError:
    try:
        return header_seconds(recordings[row])
    except AudioError as error:
        return error
