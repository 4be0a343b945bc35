"""What is found out about a corpus when it is first opened, kept: cleaned transcripts, what is usable, what is not.

A corpus of a million clips takes a minute to clean; every later start reads the result in a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import text as text_rules
from .strings import Strings

logger = logging.getLogger(__name__)


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


def index_file(cache_dir: Path, version: str, settings: Sequence[object]) -> Path:
    """Return where the index of a table belongs: its name changes with the table, the settings, and our own rules."""
    digest = hashlib.sha256(repr((version, *settings)).encode())
    digest.update(Path(text_rules.__file__).read_bytes())
    return cache_dir / "index" / f"{digest.hexdigest()[:24]}.npz"


def load_index(file: Path) -> Index | None:
    """Read an index, or return None where there is none, or none that can be read."""
    try:
        with np.load(file) as saved:
            left_out = json.loads(saved["left_out"].tobytes())
            texts = Strings.of(saved["text"].tobytes(), saved["ends"])
            return Index(saved["rows"], texts, saved["durations"], [(row, why, how) for row, why, how in left_out])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save_index(file: Path, index: Index) -> None:
    """Write an index in one stroke; a disk that is full costs the next start a minute, not this run."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(
                stream,
                rows=index.rows,
                durations=index.durations,
                text=np.frombuffer(index.texts.data, dtype=np.uint8),
                ends=index.texts.ends,
                left_out=np.frombuffer(json.dumps(index.left_out).encode(), dtype=np.uint8),
            )
        temporary.replace(file)
    except OSError as error:
        logger.warning("paths.cache_dir: %s cannot be written (%s).", file, error.strerror or error)
        temporary.unlink(missing_ok=True)
