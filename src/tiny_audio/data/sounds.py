"""Noises and room responses for augmentation: found, checked whole at the start, read when they are drawn."""

from __future__ import annotations

import logging
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ..audio import AudioError, load_audio, mix_down
from ..errors import UserError
from ..lengths import SAMPLE_RATE
from .files import Files
from .rows import MANIFEST_SUFFIXES, kind_of, read_rows
from .strings import Strings
from .tables import AUDIO_COLUMNS

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".w64", ".rf64", ".sph", ".nist", ".voc"),
)
CHECKERS = 8  # threads; decoding lets go of the interpreter, and network disks answer slowly
BLOCK_SAMPLES = 1 << 20  # of a recording of hours only this much is in memory
MAX_TOLD = 5  # bad files that are named one by one
PROGRESS_SECONDS = 5.0


class Sounds:
    """M recordings of any format, rate and channel count, all of which could be decoded when they were opened.

    Args:
        paths: M files.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = Strings(map(str, paths))

    def __len__(self) -> int:
        return len(self.paths)

    def whole(self, which: float) -> np.ndarray | None:
        """Decode one recording.

        Args:
            which: in [0, 1), the place in the list.

        Returns:
            float32 samples (S,), mono, 16 kHz; None, with a warning, where it has become unreadable.
        """
        path = self._path(which)
        try:
            return load_audio(path)
        except AudioError as error:
            _warn_lost(path, error)
            return None

    def piece(self, which: float, where: float, num_samples: int) -> np.ndarray | None:
        """Read `num_samples` of one recording, mono, 16 kHz; one that is shorter is looped.

        Args:
            which: in [0, 1), the place in the list.
            where: in [0, 1), the place in the recording at which the piece begins.
            num_samples: S.

        Returns:
            float32 samples (S,); None, with a warning, where the recording has become unreadable.
        """
        path = self._path(which)
        try:
            with soundfile.SoundFile(path) as file:
                rate = file.samplerate
                needed = math.ceil(num_samples * rate / SAMPLE_RATE)
                looped = file.frames <= needed
                if not looped:
                    file.seek(int(where * (file.frames - needed + 1)))
                piece = mix_down(file.read(needed, dtype="float32", always_2d=True))
        except (soundfile.SoundFileError, OSError) as error:
            _warn_lost(path, error)
            return None
        if rate != SAMPLE_RATE and len(piece):
            piece = soxr.resample(piece, rate, SAMPLE_RATE, quality="HQ")
        if looped:
            piece = np.roll(piece, -int(where * len(piece)))
        return np.resize(piece, num_samples)

    def _path(self, which: float) -> str:
        return self.paths[int(which * len(self.paths))]


def _warn_lost(path: str, error: Exception) -> None:
    """Say that a recording which was good at the start cannot be read: a run of days does not end for a noise."""
    logger.warning("%s can no longer be read; the clip stays without it: %s", path, error)


def open_sounds(setting: str, path: Path, max_seconds: float = math.inf) -> Sounds:
    """Find recordings and decode each of them once; those that cannot be used are named and left out.

    Args:
        setting: the name of the setting, for messages.
        path: a folder, searched with all folders in it; a manifest with an audio column; or a single recording.
        max_seconds: what is longer is left out.

    Raises:
        UserError: nothing is there, or nothing that can be used.
    """
    paths = _find(setting, path)
    bad: list[str] = []
    good: list[Path] = []
    said = time.monotonic()
    with ThreadPoolExecutor(CHECKERS) as pool:
        faults = pool.map(partial(_fault, max_seconds=max_seconds), paths)
        for checked, (file, fault) in enumerate(zip(paths, faults, strict=True), 1):
            if fault is None:
                good.append(file)
            else:
                bad.append(f"{file}: {fault}")
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                logger.info("Checking %s: %s of %s recordings", setting, f"{checked:,}", f"{len(paths):,}")
    if not good:
        raise UserError(f"{setting}={path}: none of its {len(paths):,} recordings can be used ({bad[0]}).")
    for line in bad[:MAX_TOLD]:
        logger.warning("%s: left out %s", setting, line)
    if len(bad) > MAX_TOLD:
        logger.warning("%s: left out %s recordings in all.", setting, f"{len(bad):,}")
    return Sounds(good)


def _find(setting: str, path: Path) -> list[Path]:
    """The recordings that a path means, in an order that every machine has."""
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


def _fault(path: Path, max_seconds: float) -> str | None:
    """Why a recording cannot be used, or None; it is decoded to its end, since one cut short only shows there."""
    loudest, frames = 0.0, 0
    try:
        with soundfile.SoundFile(path) as file:
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                mono = mix_down(block)
                if not np.isfinite(mono).all():
                    return "holds NaN or infinite samples"
                loudest, frames = max(loudest, float(np.abs(mono).max())), frames + len(mono)
                if frames > max_seconds * file.samplerate:
                    return f"is longer than {max_seconds:g} s"
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        return f"cannot be decoded ({error})"
    return None if loudest > 1e-5 else "is silent throughout"
