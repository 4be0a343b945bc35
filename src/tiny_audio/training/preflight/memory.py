"""Check whether the longest batches of a run fit into memory, by trying batches of noise of the same lengths.

A trial runs the model's own forward and backward pass, beside AdamW's moments and, if gradients accumulate, the
gradients of the batch before. On a GPU a batch that is too large raises an error, and the largest that fits is found
by bisection.

On a CPU the system lets a process allocate more memory than there is, and kills it when it uses it. So one clip is
tried first, and its memory, times the number of clips, is compared with the free memory. The whole batch is tried only
if by that estimate it fits and takes no more than `CPU_SECONDS`. If it does not fit, there is a warning and no error,
since an estimate may be wrong. A process whose memory is limited (`ulimit -v`) does get an error, as on a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from ...config import TrainingConfig
from ...data.augment import SPEEDS
from ...data.features import DTYPE
from ...data.loader import Batch, ClipDataset
from ...data.sentences import LINES
from ...data.sources import Source
from ...data.synthetic import synthetic_batch
from ...lengths import MAX_CLIP_SECONDS
from ...model.speech_llm import SpeechLLM, transcript_limit
from ..console import format_bytes
from ..memory import PeakMemory, is_out_of_memory, memory_in_use, memory_limit, release_memory
from ..state import rng_state, set_rng_state
from .findings import Findings

CPU_SECONDS = 2.0  # that a whole batch may take on a CPU
WRITTEN_TOKENS = 4  # that a trial of the evaluation writes; the others are read
SAFE_SHARE = 0.9  # of what just fits, to suggest: memory becomes fragmented over a run
MOMENTS = 2  # of AdamW, each as large as the weights that train


@dataclass(frozen=True)
class Trial:
    """The longest batch of some kind.

    Attributes:
        key: the setting for the number of its clips.
        title: such as `the longest batch`.
        seconds: of its clips, the longest first.
        batch: makes a batch of the first n clips.
        run: runs the model on a batch.
        fixed_bytes: the part of its memory that does not grow with the clips.
    """

    key: str
    title: str
    seconds: list[float]
    batch: Callable[[int], Batch]
    run: Callable[[Batch], None]
    fixed_bytes: int


@dataclass(frozen=True)
class Verdict:
    """The result of a trial.

    Attributes:
        fits: how many clips fit.
        bytes: memory of the process with the whole batch; 0 if the batch was tried and does not fit.
        limit: the memory that the process can use.
        measured: True if the whole batch was tried, False if estimated from one clip.
        device: its name in a message.
    """

    fits: int
    bytes: int
    limit: int
    measured: bool
    device: str

    def findings(self, trial: Trial, training: TrainingConfig) -> Findings:
        """Return the messages: an error if the batch did not fit, a warning if it probably does not."""
        size, clips = len(trial.seconds), describe_clips(trial.seconds)
        if self.fits == size:
            taken = f"{format_bytes(self.bytes)} of {format_bytes(self.limit)}"
            result = f"fits: {taken}" if self.measured else f"should fit: about {taken}, estimated from one clip"
            return Findings(notes=[f"{trial.title} ({clips}) {result}"])
        cure = suggest(trial, training, self.fits)
        if self.measured:
            error = f"{trial.key}={size} does not fit: {trial.title} ({clips}) needs more than {self.device}; {cure}."
            return Findings(errors=[error])
        needs = f"{trial.title} ({clips}) needs about {format_bytes(self.bytes)}, estimated from one clip"
        return Findings(
            warnings=[f"{trial.key}={size} may not fit: {needs}, and there are {format_bytes(self.limit)}; {cure}."]
        )


class Taken(NamedTuple):
    """Additional memory and time of a pass."""

    bytes: int
    seconds: float


def training_trial(training: TrainingConfig, model: SpeechLLM, dataset: ClipDataset, accelerator: Accelerator) -> Trial:
    """Make the trial of a training batch, with the longest clips and the longest transcripts of all sources.

    A smaller batch is accumulated, so its trial also holds the gradients of the batch before.
    """
    size = training.batch_size
    slowest = min(SPEEDS) / 100 if dataset.augmenter is not None else 1.0
    seconds, targets = longest_clips(dataset.sources, size, dataset.tokenize, slowest)
    if not model.reads_audio:
        targets = [(1 + LINES) * target for target in targets]  # each transcript is followed by sentences
    contexts = longest_contexts(dataset, size)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    beside = MOMENTS + (accelerator.num_processes > 1)  # DDP's buckets: as large as the gradients

    def run(batch: Batch) -> None:
        held = [torch.zeros_like(weight) for weight in weights for _ in range(beside)]
        try:
            for _ in range(1 if training.gradient_accumulation_steps == 1 and len(batch) == size else 2):
                with accelerator.autocast():
                    loss = model(batch)
                loss.objective.backward()
            float(loss.cross_entropy.detach())  # waits for the device
        finally:
            model.zero_grad(set_to_none=True)
        del held

    fixed = (beside + 1) * sum(weight.nbytes for weight in weights)
    return Trial(
        key="training.batch_size",
        title="the longest batch",
        seconds=seconds,
        batch=lambda n: noise(model, seconds[:n], targets[:n], dataset.sources[0].features is not None, contexts[:n]),
        run=run,
        fixed_bytes=fixed,
    )


def evaluation_trial(
    training: TrainingConfig, model: SpeechLLM, dataset: ClipDataset, accelerator: Accelerator
) -> Trial:
    """Make the trial of an evaluation batch: loss, then transcripts of which all but the last few tokens are read.

    The key-value cache is then as large as at the end of the longest transcript, but only a few tokens are written.
    """
    sources = dataset.sources
    size = min(training.eval_batch_size, sum(map(len, sources)))
    seconds, targets = longest_clips(sources, size, dataset.tokenize)
    contexts = longest_contexts(dataset, size)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    @torch.no_grad()
    def run(batch: Batch) -> None:
        held = [torch.zeros_like(weight) for weight in weights for _ in range(MOMENTS)]
        model.eval()
        try:
            with accelerator.autocast():
                frames, lengths = model.encode(batch)
                float(model.loss(frames, lengths, batch.target_ids, contexts=batch.context_ids).cross_entropy)
                longest = model.projector.num_tokens(max(lengths))
                limit = transcript_limit(longest, training.max_new_tokens)
                read = torch.full((max(0, limit - WRITTEN_TOKENS),), model.decoder.prompt.end_id)
                embeddings, sequences, _ = model.embed(frames, lengths, [read] * len(lengths), batch.context_ids)
                model.decoder.generate(embeddings.split(sequences.lengths), [min(limit, WRITTEN_TOKENS)] * len(lengths))
        finally:
            model.train()
        del held

    return Trial(
        key="training.eval_batch_size",
        title="the longest evaluation batch",
        seconds=seconds,
        batch=lambda n: noise(model, seconds[:n], targets[:n], sources[0].features is not None, contexts[:n]),
        run=run,
        fixed_bytes=MOMENTS * sum(weight.nbytes for weight in weights),
    )


def longest_clips(
    sources: Sequence[Source], size: int, tokenize: Callable[[str], list[int]], slowest: float = 1.0
) -> tuple[list[float], list[list[int]]]:
    """Return the `size` longest durations in seconds and, as tokens, the `size` longest transcripts of all sources.

    The two may be of different clips: no batch takes more memory. If there are fewer clips, they are repeated.
    Clips may be slowed down to `slowest` of their speed. If durations are guesses, any clip may have the longest
    length that is allowed.
    """
    durations = np.concatenate(
        [np.full(len(one), MAX_CLIP_SECONDS) if one.estimated else one.durations / slowest for one in sources]
    )
    longest = -np.partition(-durations, min(size, len(durations)) - 1)[:size]
    seconds = sorted((min(float(s), float(MAX_CLIP_SECONDS)) for s in longest), reverse=True)
    texts: list[str] = []
    for source in sources:
        texts += source.longest_texts(size)
    targets = sorted((tokenize(text) for text in sorted(texts, key=len)[-size:]), key=len, reverse=True)
    return list(islice(cycle(seconds), size)), list(islice(cycle(targets), size))


def longest_contexts(dataset: ClipDataset, size: int) -> list[list[int]]:
    """Return, as tokens, the `size` longest contexts of all sources, repeated if there are fewer; none without any."""
    if dataset.contexts is None:
        return []
    found = [text for source in dataset.sources for text in source.longest_contexts(size)]
    longest = [dataset.contexts.encode(text) for text in sorted(found, key=len)[-size:]]
    longest.sort(key=len, reverse=True)
    return list(islice(cycle(longest), size)) if any(longest) else []


def noise(
    model: SpeechLLM,
    seconds: Sequence[float],
    targets: Sequence[Sequence[int]],
    cached: bool = False,
    contexts: Sequence[Sequence[int]] = (),
) -> Batch:
    """Return noise of these lengths; encoder frames if those are cached."""
    batch = synthetic_batch(seconds, targets)
    if cached:
        frames = sum(model.encoder.num_frames(batch.num_samples))
        noise = np.random.default_rng(0).standard_normal((frames, model.encoder.encoder_dim), dtype=np.float32)
        batch.features, batch.waveforms = torch.from_numpy(noise).to(DTYPE), torch.zeros(0, 0)
    batch.context_ids = [torch.tensor(context, dtype=torch.int64) for context in contexts]
    return batch


@contextmanager
def trial_mode(model: SpeechLLM) -> Iterator[None]:
    """Set training mode within this context; then restore random generators, mode, gradients and memory."""
    generators, training = rng_state(), model.training
    model.train()
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
        set_rng_state(generators)
        release_memory(model.device)
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)


def judge(trial: Trial, device: torch.device) -> Verdict:
    """Find out how many of the trial's clips fit: see the top of this file."""
    size, before, limit = len(trial.seconds), memory_in_use(device), memory_limit(device)
    named = _device(device, limit)
    if device.type == "cpu" and attempt(trial, 1, device) is not None:  # the first use allocates memory that stays
        one = attempt(trial, 1, device)
        each = max(0, one.bytes - trial.fixed_bytes) if one else 0
        if one is not None:
            needed = one.bytes + each * (size - 1)
            if before + needed > limit:
                fits = int((limit - before - trial.fixed_bytes) / each) if each else 0
                return Verdict(min(max(fits, 0), size - 1), before + needed, limit, measured=False, device=named)
            if one.seconds * size > CPU_SECONDS:
                return Verdict(size, before + needed, limit, measured=False, device=named)
    whole = attempt(trial, size, device)
    if whole is not None:
        return Verdict(size, before + whole.bytes, limit, measured=True, device=named)
    fits, too_many = 0, size
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if attempt(trial, middle, device) is None:
            too_many = middle
        else:
            fits = middle
    return Verdict(fits, 0, limit, measured=True, device=named)


def attempt(trial: Trial, size: int, device: torch.device) -> Taken | None:
    """Run the model on `size` clips; return what that took, or None if memory ran out."""
    taken = None
    try:
        batch = trial.batch(size)
        with PeakMemory(device) as peak:
            started = time.perf_counter()
            trial.run(batch)
            seconds = time.perf_counter() - started
        taken = Taken(peak.bytes, seconds)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return taken


def _device(device: torch.device, limit: int) -> str:
    if device.type == "cpu":
        return "this process may have"
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else limit
    if limit < 0.9 * total:
        return f"the {format_bytes(limit)} that other programs leave of this GPU's {format_bytes(total)}"
    return f"the {format_bytes(total)} of this GPU"


def describe_clips(seconds: Sequence[float]) -> str:
    """Write `16 clips of 29.8 s`, or `16 clips of 28.1 to 29.8 s`."""
    low, high = (f"{s:.1f}".removesuffix(".0") for s in (min(seconds), max(seconds)))
    count = "1 clip" if len(seconds) == 1 else f"{len(seconds)} clips"
    return f"{count} of {high} s" if low == high else f"{count} of {low} to {high} s"


def suggest(trial: Trial, training: TrainingConfig, fits: int) -> str:
    """Return the settings to use instead, if at most `fits` clips fit at once."""
    if fits == 0:
        return "not even one clip fits: lower data.max_audio_length, or take smaller models"
    safe = max(1, int(fits * SAFE_SHARE))
    if trial.key == "training.eval_batch_size":
        return f"training.eval_batch_size={safe} fits"
    effective = training.batch_size * training.gradient_accumulation_steps
    accumulated = math.ceil(effective / safe)
    size = math.ceil(effective / accumulated)
    almost = "" if size * accumulated == effective else "almost "
    setting = f"training.batch_size={size} training.gradient_accumulation_steps={accumulated}"
    return f"{setting} fits, with {almost}the same effective batch"
