"""Noises and room responses for augmentation: found and decoded once at the start, then read when they are drawn."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from ..audio import AudioError, Segment, check_clip, is_silent, load_audio, mix_down, read_blocks
from ..decoding import AUDIO_SUFFIXES
from ..errors import UserError
from ..lengths import SAMPLE_RATE
from .files import Files
from .rows import MANIFEST_SUFFIXES, kind_of, read_rows
from .strings import Strings
from .tables import AUDIO_COLUMNS

logger = logging.getLogger(__name__)

CHECKERS = 8  # threads; decoding releases the interpreter lock, and network disks are slow
MAX_TOLD = 5  # bad files that are named one by one
PROGRESS_SECONDS = 5.0


class Sounds:
    """M recordings of any format, rate and channel count. All of them could be decoded when they were opened.

    Args:
        paths: M files.
        seconds: M lengths.
    """

    def __init__(self, paths: Sequence[Path], seconds: Sequence[float]) -> None:
        self.paths = Strings(map(str, paths))
        self.seconds = np.array(seconds, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.paths)

    def whole(self, which: float) -> np.ndarray | None:
        """Decode one recording.

        Args:
            which: in [0, 1), the place in the list.

        Returns:
            float32 samples (S,), mono, 16 kHz; None, with a warning, if it is no longer readable.
        """
        return self._read(Path(self.paths[int(which * len(self.paths))]))

    def piece(self, which: float, where: float, num_samples: int) -> np.ndarray | None:
        """Read `num_samples` of one recording, mono, 16 kHz; one that is shorter is looped.

        Args:
            which: in [0, 1), the place in the list.
            where: in [0, 1), the place in the recording at which the piece begins.
            num_samples: S.

        Returns:
            float32 samples (S,); None, with a warning, if the recording is no longer readable.
        """
        row = int(which * len(self.paths))
        path, length = Path(self.paths[row]), round(self.seconds[row] * SAMPLE_RATE)
        if looped := length <= num_samples:
            piece = self._read(path)
        else:
            start = int(where * (length - num_samples + 1))
            piece = self._read(Segment(path, start / SAMPLE_RATE, (num_samples + 1) / SAMPLE_RATE))
        if piece is None or not len(piece):
            return None
        if looped:
            piece = np.roll(piece, -int(where * len(piece)))
        return np.resize(piece, num_samples)

    def _read(self, source: Path | Segment) -> np.ndarray | None:
        """Decode; a failure is only a warning, since the recording was readable at the start of the run."""
        try:
            return load_audio(source)
        except AudioError as error:
            path = source.path if isinstance(source, Segment) else source
            logger.warning("%s can no longer be read; the clip is used without it: %s", path, error)
            return None


def open_sounds(setting: str, path: Path, max_seconds: float = math.inf) -> Sounds:
    """Find recordings and decode each of them once; name and leave out those that cannot be used.

    Args:
        setting: the name of the setting, for messages.
        path: a folder, searched with all folders in it; a manifest with an audio column; or a single recording.
        max_seconds: longer recordings are left out.

    Raises:
        UserError: there is no recording, or none that can be used.
    """
    paths = _find(setting, path)
    bad: list[str] = []
    good: dict[Path, float] = {}
    reported = time.monotonic()
    with ThreadPoolExecutor(CHECKERS) as pool:
        found = pool.map(partial(_seconds, max_seconds=max_seconds), paths)
        for checked, (file, seconds) in enumerate(zip(paths, found, strict=True), 1):
            if isinstance(seconds, AudioError):
                bad.append(f"{file}: {seconds}")
            else:
                good[file] = seconds
            if time.monotonic() - reported > PROGRESS_SECONDS:
                reported = time.monotonic()
                logger.info("Checking %s: %s of %s recordings", setting, f"{checked:,}", f"{len(paths):,}")
    if not good:
        raise UserError(f"{setting}={path}: none of its {len(paths):,} recordings can be used ({bad[0]}).")
    for line in bad[:MAX_TOLD]:
        logger.warning("%s: left out %s", setting, line)
    if len(bad) > MAX_TOLD:
        logger.warning("%s: left out %s recordings in all.", setting, f"{len(bad):,}")
    return Sounds(list(good), list(good.values()))


def _find(setting: str, path: Path) -> list[Path]:
    """The recordings that a path names, in the same order on every machine."""
    path = path.expanduser()
    if path.is_dir():
        files = (Path(folder) / name for folder, _, names in os.walk(path, followlinks=True) for name in names)
        found = sorted(file for file in files if file.suffix.lower() in AUDIO_SUFFIXES)
        if not found:
            raise UserError(f"{setting}={path}: there is no recording (wav, flac, mp3, ogg, ...) in this folder.")
        return found
    if not path.is_file():
        raise UserError(f"{setting}={path}: there is no such folder, manifest or recording.")
    if kind_of(path) not in MANIFEST_SUFFIXES:
        return [path]
    try:
        rows = read_rows(path).values
    except UserError as error:
        raise UserError(str(error).replace("data.datasets", setting, 1)) from None
    column = next((name for name in AUDIO_COLUMNS if any(row.get(name) for row in rows)), None)
    if column is None:
        raise UserError(f"{setting}={path}: the manifest names no recording in a column {', '.join(AUDIO_COLUMNS)}.")
    names = [str(row[column]) for row in rows if row.get(column)]
    beside = Files.of(path, names)
    return [beside.guess(name) for name in names]


def _seconds(path: Path, max_seconds: float) -> float | AudioError:
    """How long a recording is, or why it cannot be used; only one block is in memory at a time."""
    silent, seconds = True, 0.0
    try:
        for samples, rate, _ in read_blocks(path, {}):
            mono = mix_down(samples)
            if not np.isfinite(mono).all():
                return AudioError("non_finite", "holds NaN or infinite samples")
            silent, seconds = silent and is_silent(mono), seconds + len(mono) / rate
            if seconds > max_seconds:
                return AudioError("too_long", f"is longer than {max_seconds:g} s")
        check_clip(round(seconds * SAMPLE_RATE), silent, 0.0, max_seconds)
    except AudioError as error:
        return error
    return seconds
