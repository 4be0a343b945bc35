"""Draws to batches: worker processes decode and check clips, and report those that cannot be used.

Dimensions: B clips, S samples of the longest clip, rounded up to 1280 (80 ms).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..audio import AudioError, check_clip, is_cut_short, is_silent, pad_waveforms
from ..config import DataConfig
from ..lengths import MAX_CLIP_SAMPLES, MAX_CLIP_SECONDS, SAMPLE_RATE
from .augment import Augmenter
from .contexts import ContextReader
from .index import Skip
from .plan import Draw, PlanSampler, SamplingPlan
from .sources import Source
from .stream import ReadAhead

T = TypeVar("T")
# Forked workers share the index without a copy and start at once; they never touch the accelerator.
WORKER_CONTEXT = "fork" if sys.platform == "linux" else "spawn"
RAGGED = ("target_ids", "context_ids")  # of a batch: lists of tensors


@dataclass
class Batch:
    """A batch of the loader. B counts the clips that could be read: it may be 0, and is less than the draws
    where `skipped` is not empty.
    """

    waveforms: Tensor  # (B, S) float32, 16 kHz, zero beyond each clip's end; (0, 0) if B is 0
    num_samples: Tensor  # (B,) int64, each clip's own length
    target_ids: list[Tensor]  # B tensors (number of tokens,) int64: `tokenize` of the transcript
    transcripts: list[str]  # B cleaned transcripts
    names: list[str]  # B clip names, as in the source
    sources: list[int]  # B indices into the list of sources
    draws: list[int]  # B draw numbers
    skipped: list[Skip] = field(default_factory=list)  # draws that could not be read, each with its reason
    seconds: list[float] = field(default_factory=list)  # B lengths after augmentation, without padding
    features: Tensor | None = None  # (N, D) encoder frames, if they are cached; waveforms is then (0, 0)
    # B tensors (number of tokens,) int64, empty for a clip without a context; no tensors: no clip has a context
    context_ids: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def audio_seconds(self) -> float:
        """Speech in the batch, without padding."""
        return sum(self.seconds)

    def pin_memory(self) -> Batch:
        """Copy the tensors for the device to page-locked memory; the loader calls this if pinning is on."""
        features = None if self.features is None else self.features.pin_memory()
        return replace(self, waveforms=self.waveforms.pin_memory(), features=features)

    # Workers pass each tensor as an open file: B more of them for each batch would exceed the limit of
    # 1,024.
    def __getstate__(self) -> dict[str, Any]:
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in RAGGED:
            ids = state[name]
            state[name] = (torch.cat(ids) if ids else torch.zeros(0, dtype=torch.int64), [len(one) for one in ids])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        joined = {name: state[name] for name in RAGGED}
        lists = {name: list(tokens.split(lengths)) if lengths else [] for name, (tokens, lengths) in joined.items()}
        self.__dict__.update(state | lists)


class Clip(NamedTuple):
    """A clip as it was read: its samples (S,), augmented, or, from the cache, its encoder frames (n, D)."""

    num_samples: int  # S; for a cached clip, the samples of its recording
    waveform: np.ndarray | None
    frames: Tensor | None


class ClipDataset(Dataset[Batch]):
    """Turns lists of draws into batches.

    Args:
        sources: `Draw.source` is an index into them.
        tokenize: transcript to the target tokens, the end-of-turn token included.
        data: the limits on length.
        augmenter: changes the clips, in training only.
        contexts: reads the contexts of the clips; None: clips have no context.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenize: Callable[[str], list[int]],
        data: DataConfig,
        augmenter: Augmenter | None = None,
        contexts: ContextReader | None = None,
    ) -> None:
        self.sources = list(sources)
        self.tokenize = tokenize
        self.data = data
        self.augmenter = augmenter
        self.contexts = contexts

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """Read a batch. Recordings that cannot be used become skips; any other error is a bug and is raised."""
        clips: list[Clip] = []
        read: list[Draw] = []
        skipped: list[Skip] = []
        for draw in draws:
            source = self.sources[draw.source]
            # In a stream, transcripts are read only when they are drawn.
            if source.has_speech and not source.texts[draw.row]:
                skipped.append(Skip(source.name, source.names[draw.row], "empty_text", "has no transcript"))
                continue
            try:
                clips.append(self.read(draw))
                read.append(draw)
            except AudioError as error:
                skipped.append(Skip(source.name, source.names[draw.row], error.reason, str(error)))
        waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
        frames = [clip.frames for clip in clips if clip.frames is not None]
        assert len(clips) in (len(waveforms), len(frames)), "either all sources are cached, or none is"
        transcripts = [self.sources[draw.source].texts[draw.row] for draw in read]
        return Batch(
            waveforms=pad_waveforms(waveforms)[0],
            num_samples=torch.tensor([clip.num_samples for clip in clips], dtype=torch.int64),
            target_ids=[torch.tensor(self.tokenize(text), dtype=torch.int64) for text in transcripts],
            transcripts=transcripts,
            names=[self.sources[draw.source].names[draw.row] for draw in read],
            sources=[draw.source for draw in read],
            draws=[draw.number for draw in read],
            skipped=skipped,
            seconds=[clip.num_samples / SAMPLE_RATE for clip in clips],
            features=torch.cat(frames) if frames else None,
            context_ids=[torch.tensor(self.read_context(draw), dtype=torch.int64) for draw in read],
        )

    def read_context(self, draw: Draw) -> list[int]:
        """Return the tokens of a clip's context; none if it has no context, or this draw leaves it out."""
        known = self.sources[draw.source].contexts
        return [] if known is None or self.contexts is None else self.contexts(known[draw.row], draw.number)

    def read(self, draw: Draw) -> Clip:
        """Read, check and augment one clip, as the model gets it; from the cache where its source is cached.

        Raises:
            AudioError: it cannot be decoded or used, or is much shorter than listed. Files that are cut
                short decode without an error, and their transcript would teach the model to invent the
                missing words.
        """
        source = self.sources[draw.source]
        waveform, frames = None, None
        if source.features is not None:
            num_samples, frames = source.features.read(draw.row)
            silent = not len(frames)
        else:
            waveform = source.read(draw.row, MAX_CLIP_SECONDS)
            num_samples, silent = len(waveform), source.has_speech and is_silent(waveform)
            waveform = waveform[:MAX_CLIP_SAMPLES]
        expected = source.listed_seconds(draw.row)
        seconds = num_samples / SAMPLE_RATE
        if is_cut_short(seconds, expected):
            raise AudioError("duration_mismatch", f"holds {seconds:.2f} s, not the expected {expected:.2f} s")
        check_clip(num_samples, silent, self.data.min_audio_length, self.data.max_audio_length)
        if self.augmenter is not None:
            assert waveform is not None, "what is cached cannot be augmented"
            waveform = self.augmenter(waveform, draw.number)
            num_samples = len(waveform)
        return Clip(min(num_samples, MAX_CLIP_SAMPLES), waveform, frames)  # resampling may have added a sample or two


def train_loader(
    plan: SamplingPlan,
    dataset: ClipDataset,
    *,
    start_batch: int = 0,
    stop_batch: int | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """The batches of one process from the global batch `start_batch` on: see `PlanSampler`."""
    streams = [source.stream for source in dataset.sources]
    ahead = ReadAhead(streams) if any(stream is not None for stream in streams) else None
    sampler = PlanSampler(plan, start_batch, process_index, num_processes, stop_batch, ahead)
    return open_loader(dataset, sampler, num_workers, prefetch_factor, pin_memory)


def eval_loader(
    dataset: ClipDataset,
    batch_size: int,
    *,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Every clip once, longest first, always in the same batches; process r of R takes every R-th batch."""
    batches = _longest_first(dataset.sources, batch_size)
    batches += [[]] * (-len(batches) % num_processes)  # equal numbers: they may have to read layers together
    return open_loader(dataset, batches[process_index::num_processes], num_workers, prefetch_factor, pin_memory)


def _longest_first(sources: Sequence[Source], batch_size: int) -> list[list[Draw]]:
    """Batches with each clip once, longest first: one that does not fit into memory fails at once, not at the end."""
    rows = [(k, row) for k, source in enumerate(sources) for row in range(len(source))]
    seconds = np.concatenate([np.asarray(source.durations) for source in sources])
    order = np.argsort(-seconds, kind="stable")
    draws = [Draw(number, *rows[i]) for number, i in enumerate(order.tolist())]
    return [draws[i : i + batch_size] for i in range(0, len(draws), batch_size)]


def open_loader(
    dataset: Dataset[T],
    batches: Iterable[Sequence[Any]],
    num_workers: int = 0,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> DataLoader[T]:
    """Yield `dataset.__getitems__(batch)` for each of `batches`, in order, from worker processes if there are any."""
    return DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]  # it accepts any iterable of lists
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, parent=os.getpid()),
        multiprocessing_context=WORKER_CONTEXT if num_workers else None,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global one to seed its workers
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker_id: int, parent: int) -> None:
    """Leave signals to the main process, which saves and then ends its workers, and the cores to the other workers.

    In its own process group, a worker does not get the signals that a terminal or a scheduler sends to the whole run.
    systemd, and some clusters, send them to each process. A worker that such a signal ended would end the run before it
    has saved. If the run was killed while the worker started, the worker has another parent. torch checks the parent
    only after this: the worker would wait forever.
    """
    if hasattr(os, "setpgrp") and os.getppid() != parent:
        os._exit(1)
    for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_wait_for_the_end, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)


def _wait_for_the_end(parent: int) -> None:
    """End this process when its parent, and nobody else, sends SIGTERM: so torch ends a worker that still reads.

    A worker whose parent is gone obeys everybody.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent and os.getppid() == parent:
        pass
    os._exit(0)
