"""Compute what the encoder-output cache lacks, before training starts.

Features may depend only on the recording. A setting that changes waveforms from draw to draw cannot be combined with
the cache; `DataConfig` refuses it.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import Dataset

from ..audio import AudioError, check_clip, is_silent, pad_waveforms
from ..config import Config
from ..data.features import DTYPE, EncodedClip, FeatureCache, clip_keys, feature_folder, write_shard
from ..data.loader import open_loader
from ..data.plan import Draw, SamplingPlan
from ..data.sources import Source
from ..errors import UserError
from ..lengths import MAX_CLIP_SAMPLES, MAX_CLIP_SECONDS, SAMPLE_RATE
from ..model.device import upload
from ..model.encoder import SpeechEncoder
from ..progress import Progress
from .console import format_bytes
from .interrupt import StopRequest

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20  # half an hour of audio from GLM-ASR: few files, and each fits easily into memory
SHARD_SECONDS = 120.0  # a process that is killed loses at most this much work
STALE_SECONDS = 3600.0  # much longer than writing a shard, which takes seconds


@dataclass(frozen=True)
class _Missing:
    """A recording to encode."""

    key: bytes
    source: int
    row: int


@dataclass
class _Decoded:
    """A batch of recordings: waveforms (B, S) and lengths (B,) of those that the encoder can encode.

    Attributes:
        clips: what is known of each recording before it is encoded.
        encodable: B indices into `clips`.
    """

    clips: list[EncodedClip]
    encodable: list[int]
    waveforms: Tensor
    num_samples: Tensor


class _Recordings(Dataset[_Decoded]):
    """Decodes batches of recordings, in worker processes."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def __getitems__(self, batch: Sequence[_Missing]) -> _Decoded:
        clips: list[EncodedClip] = []
        waveforms: dict[int, np.ndarray] = {}
        for i, one in enumerate(batch):
            try:
                waveform = self.sources[one.source].read(one.row, MAX_CLIP_SECONDS)
            except AudioError as error:
                clips.append(EncodedClip(one.key, -1, failure=(error.reason, str(error))))
                continue
            clips.append(EncodedClip(one.key, len(waveform)))
            try:
                silent = self.sources[one.source].has_speech and is_silent(waveform)
                check_clip(len(waveform), silent, 1 / SAMPLE_RATE, MAX_CLIP_SECONDS)
            except AudioError:  # reported when the clip is drawn, by the settings of the run
                continue
            waveforms[i] = waveform[:MAX_CLIP_SAMPLES]
        return _Decoded(clips, list(waveforms), *pad_waveforms(list(waveforms.values())))


class _ShardWriter:
    """Gathers encoded clips, and writes a shard when they are large enough or took long enough."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clips: list[EncodedClip] = []
        self._bytes, self._written = 0, time.monotonic()

    def add(self, clip: EncodedClip) -> None:
        self._clips.append(clip)
        self._bytes += 0 if clip.frames is None else clip.frames.nbytes
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._written >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._clips:
            try:
                write_shard(self.folder, self._clips)
            except OSError as error:
                raise UserError(f"paths.cache_dir: {self.folder} cannot be written ({error.strerror}).") from None
        self._clips, self._bytes, self._written = [], 0, time.monotonic()


def cache_features(
    config: Config,
    encoder: SpeechEncoder,
    sources: Sequence[Source],
    wanted: Sequence[tuple[int, int]],
    accelerator: Accelerator,
    num_workers: int,
) -> None:
    """Set the encoder outputs of every source, `Source.features`; encode first what was never encoded before.

    If there are several processes, each encodes its share. If the run is stopped or killed, finished shards are kept.

    Args:
        config: `paths.cache_dir`; `training.batch_size`, the clips that are encoded at once; `data.prefetch_factor`.
        encoder: on its device.
        sources: all that the run will read.
        wanted: source (index into `sources`) and row of each clip that the run will read, in the order of encoding.
        accelerator: for device and processes.
        num_workers: processes that decode audio for this process.

    Raises:
        UserError: the cache cannot be written, or there is no room for what is missing.
        KeyboardInterrupt, SystemExit: a signal came.
    """
    folder = feature_folder(Path(config.paths.cache_dir), encoder.fingerprint, encoder.convention)
    keys = wanted_keys(sources, wanted)
    cache = FeatureCache(folder)
    missing: list[_Missing] = []
    if accelerator.is_main_process:  # it decides for all: another run may be writing to the folder at the same time
        missing = find_missing(wanted, keys, cache)
        if missing:
            make_room(folder, sources, missing, encoder)
    (missing,) = broadcast_object_list([missing])
    if missing:
        batches = hardest_first(missing, config.training.batch_size, sources)
        share = batches[accelerator.process_index :: accelerator.num_processes]
        loader = open_loader(_Recordings(sources), share, num_workers, config.data.prefetch_factor)
        with closing(Progress("Encoding", sum(map(len, share)), "clips", not accelerator.is_main_process)) as progress:
            encode(encoder, loader, folder, progress, accelerator.device)
        accelerator.wait_for_everyone()
        cache = FeatureCache(folder)
        if any(key not in cache for own in keys for key in own.values()):
            raise UserError(f"paths.cache_dir: {folder} is not the same folder on all machines of this run.")
    for source, own in zip(sources, keys, strict=True):
        source.features = cache.clips(own, len(source))
    frames = sum(int(source.features.num_frames.sum()) for source in sources if source.features is not None)
    size_text = format_bytes(frames * frame_bytes(encoder))
    logger.info("Encoder outputs: %s clips in cache (%s)", f"{sum(map(len, keys)):,}", size_text)


def clips_to_read(
    plan: SamplingPlan, batches: range, eval_sources: Sequence[Source], first: Sequence[Draw] = ()
) -> list[tuple[int, int]]:
    """Return source and row of each clip that a run will read, each once.

    Evaluation clips come first, longest first, then the training clips in the order of the draws. If the run is
    stopped while it encodes, the cache then holds what a shorter run needs.

    Args:
        plan: of the training sources.
        batches: global batches of the plan that are left to train on.
        eval_sources: read whole; numbered after the training sources.
        first: draws that are read before the batches.
    """
    training = len(plan.sizes)
    evaluation = [(number, row) for number, source in enumerate(eval_sources) for row in range(len(source))]
    evaluation.sort(key=lambda one: -eval_sources[one[0]].durations[one[1]])
    drawn = dict.fromkeys((draw.source, draw.row) for draw in first)
    for number in batches:
        drawn.update(dict.fromkeys((draw.source, draw.row) for draw in plan.batch(number)))
        if len(drawn) == plan.num_clips:
            break
    return [*((training + number, row) for number, row in evaluation), *drawn]


def wanted_keys(sources: Sequence[Source], wanted: Sequence[tuple[int, int]]) -> list[dict[int, bytes]]:
    """Return, for each source, the keys of its wanted rows."""
    rows: list[list[int]] = [[] for _ in sources]
    for number, row in wanted:
        rows[number].append(row)
    return [
        dict(zip(own, clip_keys(source.recording_versions(own)), strict=True))
        for source, own in zip(sources, rows, strict=True)
    ]


def find_missing(
    wanted: Sequence[tuple[int, int]], keys: Sequence[dict[int, bytes]], cache: FeatureCache
) -> list[_Missing]:
    """Return the recordings that the cache lacks, each once, in the order of `wanted`."""
    found: dict[bytes, _Missing] = {}
    for number, row in wanted:
        if (key := keys[number][row]) not in cache:
            found.setdefault(key, _Missing(key, number, row))
    return list(found.values())


def hardest_first(missing: Sequence[_Missing], size: int, sources: Sequence[Source]) -> list[list[_Missing]]:
    """Cut into batches, and begin with that of the longest clip, so that a batch that does not fit fails at once."""
    batches = [list(missing[i : i + size]) for i in range(0, len(missing), size)]
    longest = [max(float(sources[one.source].durations[one.row]) for one in batch) for batch in batches]
    return [batches.pop(longest.index(max(longest))), *batches]


def make_room(folder: Path, sources: Sequence[Source], missing: Sequence[_Missing], encoder: SpeechEncoder) -> None:
    """Make the folder, and log how much will be written there.

    Raises:
        UserError: the folder cannot be written, or the disk has too little room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"paths.cache_dir: {folder} cannot be made or written ({error.strerror}).") from None
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        with suppress(FileNotFoundError):  # another run has just deleted or renamed it
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                leftover.unlink()
    seconds = np.array([sources[one.source].durations[one.row] for one in missing])
    frames = sum(encoder.num_frames(torch.from_numpy((seconds * SAMPLE_RATE).round().astype(np.int64))))
    needed = frames * frame_bytes(encoder)
    what = f"{len(missing):,} clips ({seconds.sum() / 3600:.1f} h)"
    if needed > free:
        raise UserError(
            f"data.cache_features=true: the encoder outputs of {what} need {format_bytes(needed)}, and {folder} has "
            f"{format_bytes(free)} free; set paths.cache_dir to a larger disk, or data.cache_features=false."
        )
    logger.info("Encoding %s once, %s into %s (%s free)", what, format_bytes(needed), folder, format_bytes(free))


def encode(
    encoder: SpeechEncoder, batches: Iterable[_Decoded], folder: Path, progress: Progress, device: torch.device
) -> None:
    """Encode batches and write them to `folder`; a first signal ends it after the batch, and keeps what is encoded."""
    writer = _ShardWriter(folder)
    with StopRequest("batch") as stop:
        for batch in batches:
            frames: dict[int, Tensor] = {}
            if batch.encodable:
                encoded, lengths = encoder(upload(batch.waveforms, device), batch.num_samples)
                stored = to_stored(encoded, encoder)
                frames = dict(zip(batch.encodable, stored.split(lengths), strict=True))
            for i, clip in enumerate(batch.clips):
                writer.add(replace(clip, frames=frames.get(i)))
            progress.advance(len(batch.clips))
            if stop():
                break
        writer.flush()
    if stop():
        logger.info("What was encoded is kept; the same command continues from there.")
        stop.leave()


def frame_bytes(encoder: SpeechEncoder) -> int:
    """Bytes of one encoder frame."""
    return encoder.encoder_dim * DTYPE.itemsize


def to_stored(frames: Tensor, encoder: SpeechEncoder) -> Tensor:
    """Return frames (N, D) as they are stored, on the CPU.

    Raises:
        UserError: some numbers are beyond the range of the stored precision, or not finite.
    """
    stored = frames.to(DTYPE).cpu()
    if not stored.isfinite().all():
        raise UserError(
            f"data.cache_features=true keeps 16 bits (largest value {torch.finfo(DTYPE).max:g}), and {encoder.name} "
            f"puts out {frames.abs().max():g}; set data.cache_features=false."
        )
    return stored
