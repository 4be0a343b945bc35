"""Encoder outputs on disk: the frozen encoder's frames of a recording, computed once and then read.

A folder holds the outputs of one encoder, in any number of shards: safetensors files of C clips each, with

    keys         (C, 16) uint8, see `clip_keys`
    num_samples  (C,) int64, samples at 16 kHz as decoded; -1: it could not be decoded
    num_frames   (C,) int64, of at most 30 s; 0: not encoded, since it is empty, silent, or too long for any setting
    frames       (N, D) encoder frames, one clip after another, in float16

and, as metadata, why clips could not be decoded.

The key of a clip depends on its recording alone: the file's path, size and time of writing, or its row in a table of a
known version. Names of corpora, transcripts, weights, subsets and limits on length do not matter. A recording is
encoded once for all mixtures, and again when it was replaced. A run's limits (too short, cut short, too long) are
checked when the clip is drawn, as they are for a decoded waveform.

Frames are kept in float16, at every precision of the encoder and of the training, so that a change of precision
encodes nothing again. The encoders end in a norm, which keeps their outputs far within the range of float16 (Whisper
base's stay below 20, the pocket encoder's below 8). float16 rounds fp32 outputs by 2.1e-4 (relative, root mean square);
bfloat16 would round them by 1.7e-3. float16 holds bfloat16 outputs exactly, except values below 6e-5.

Dimensions: C clips of a shard, N encoder frames of all of them, n of one, D encoder width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..audio import AudioError
from ..files import write_whole

logger = logging.getLogger(__name__)

DTYPE = torch.float16
VERSION = 3  # of the format, and of all that happens to a recording before the encoder


@dataclass(frozen=True)
class EncodedClip:
    """The stored data of a clip.

    Attributes:
        key: see `clip_keys`.
        num_samples: as decoded; -1 with a `failure`.
        frames: (n, D) in `DTYPE` on the CPU, n at least 1; None if there is nothing to encode.
        failure: reason and message of the `AudioError` if it could not be decoded.
    """

    key: bytes
    num_samples: int
    frames: Tensor | None = None
    failure: tuple[str, str] | None = None


def feature_folder(cache_dir: Path, fingerprint: str, convention: str) -> Path:
    """Return the folder for the outputs of an encoder with these weights and this padding convention."""
    how = hashlib.sha256(f"{VERSION} {convention}".encode()).hexdigest()[:8]
    return cache_dir / "features" / f"{fingerprint}-{how}"


def clip_keys(versions: Sequence[str]) -> list[bytes]:
    """Return the key of each recording, given its version (`Source.recording_versions`): 16 bytes of a hash."""
    return [hashlib.sha256(version.encode("utf-8", "surrogatepass")).digest()[:16] for version in versions]


def write_shard(folder: Path, clips: Sequence[EncodedClip]) -> None:
    """Write a shard atomically: an interruption leaves all of it or nothing.

    Raises:
        OSError: such as a full disk; nothing is left behind.
    """
    frames = [clip.frames for clip in clips if clip.frames is not None]
    failures = {i: clip.failure for i, clip in enumerate(clips) if clip.failure is not None}
    tensors = {
        "keys": torch.frombuffer(bytearray(b"".join(clip.key for clip in clips)), dtype=torch.uint8).view(-1, 16),
        "num_samples": torch.tensor([clip.num_samples for clip in clips]),
        "num_frames": torch.tensor([0 if clip.frames is None else len(clip.frames) for clip in clips]),
        "frames": torch.cat(frames) if frames else torch.zeros(0, 0),
    }
    name = hashlib.sha256(b"".join(clip.key for clip in clips)).hexdigest()[:24]
    write_whole(folder / f"{name}.safetensors", save(tensors, {"failures": json.dumps(failures)}))


@cache
def _frames_of(shard: Path) -> Any:
    """The frames of a shard. Each process maps the file when it first reads from it.

    A mapping has no file position, which forked workers would share, and all processes share its memory.
    """
    return safe_open(shard, "pt").get_slice("frames")


class CachedClips:
    """The encoder outputs of a source, by row.

    Args:
        shards: the files that hold them.
        places: (N_rows, 4) int64: shard, first frame, number of frames, number of samples; shard -1: not looked up.
        failures: row: why it could not be decoded.
    """

    def __init__(self, shards: Sequence[Path], places: np.ndarray, failures: dict[int, tuple[str, str]]) -> None:
        self._shards = shards
        self._places = places
        self._failures = failures

    @property
    def rows(self) -> np.ndarray:
        """The rows that can be read, int64."""
        return np.flatnonzero(self._places[:, 0] >= 0)

    @property
    def num_frames(self) -> np.ndarray:
        """Frames of each row (N_rows,)."""
        return self._places[:, 2]

    def read(self, row: int) -> tuple[int, Tensor]:
        """Return a clip's number of samples as decoded, and its frames (n, D); n is 0 if it is silent.

        Raises:
            AudioError: it could not be decoded when it was to be encoded.
        """
        if row in self._failures:
            raise AudioError(*self._failures[row])
        shard, start, count, num_samples = self._places[row].tolist()
        assert shard >= 0, "a clip outside the batches that were to be encoded"
        return num_samples, _frames_of(self._shards[shard])[start : start + count]


class FeatureCache:
    """The present content of a folder; empty if there is none. Damaged shards are named and skipped."""

    def __init__(self, folder: Path) -> None:
        self._shards: list[Path] = []
        self._rows: dict[bytes, int] = {}  # key: which of all stored clips
        self._failures: dict[int, tuple[str, str]] = {}  # by the same number
        places = [np.zeros((0, 4), dtype=np.int64)]
        count = 0
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    keys = file.get_tensor("keys").numpy().tobytes()
                    num_samples, num_frames = (file.get_tensor(n).numpy() for n in ("num_samples", "num_frames"))
                    failures = json.loads(file.metadata()["failures"])
            except SafetensorError as error:
                logger.warning("%s is damaged (%s): its clips are encoded again; delete it.", path, error)
                continue
            shard = np.full_like(num_frames, len(self._shards))
            places.append(np.stack((shard, num_frames.cumsum() - num_frames, num_frames, num_samples), axis=1))
            self._shards.append(path)
            self._rows.update((keys[16 * i : 16 * i + 16], count + i) for i in range(len(num_frames)))
            self._failures.update((count + int(i), (reason, message)) for i, (reason, message) in failures.items())
            count += len(num_frames)
        self._places = np.concatenate(places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def clips(self, keys: Mapping[int, bytes], num_rows: int) -> CachedClips:
        """Return the outputs of a source of `num_rows`, of which `keys` names some by row; those must be here."""
        numbers = {row: self._rows[key] for row, key in keys.items()}
        failures = {row: self._failures[i] for row, i in numbers.items() if i in self._failures}
        places = np.tile(np.array([-1, 0, 0, 0]), (num_rows, 1))
        places[list(numbers)] = self._places[list(numbers.values())]
        return CachedClips(self._shards, places, failures)
