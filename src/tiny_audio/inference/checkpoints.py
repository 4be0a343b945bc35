"""Evaluate checkpoints on the same clips, and load the frozen models only once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor

from ..config import CHECKPOINTS_OWN, Config, SearchChanges, build_config
from ..data.contexts import ContextReader
from ..data.loader import Batch, ClipDataset, eval_loader
from ..data.skips import MAX_TOLD
from ..data.sources import Source
from ..errors import UserError
from ..evaluation.evaluate import Evaluation, evaluate
from ..evaluation.score import Result, match, note_symptoms, score
from ..evaluation.scoring import Rule
from ..model.attention import choose_attention
from ..model.checkpointed import choose_search, load_weights, rebuild
from ..model.device import FROZEN_DTYPES
from ..model.speech_llm import SpeechLLM, Written
from ..model.weights import trained_fingerprint
from ..progress import Progress
from ..training.build import start_accelerator, usable_workers
from ..training.checkpoint import kind, load_checkpoint
from .apart import judge, judge_longer
from .sets import Sets, open_sets
from .transcribe import Recognizer

logger = logging.getLogger(__name__)


def evaluate_checkpoints(
    paths: Sequence[Path],
    settings: Callable[[dict[str, Any]], Config],
    encoder: str | None = None,
    decoder: str | None = None,
    rules: Sequence[Rule] | None = None,
    search: SearchChanges = CHECKPOINTS_OWN,
) -> tuple[list[Result], Sets]:
    """Transcribe the evaluation sets with each checkpoint, and score.

    Args:
        paths: checkpoints; if there are several, one that cannot be used is named and skipped.
        settings: maps the configuration of the last checkpoint to that of the evaluation: data and device.
        encoder, decoder: where the models are now, if they have moved since training.
        rules: of scoring; None: those of `default_rules`.
        search: what differs from each checkpoint's own.

    Returns:
        A result for each checkpoint, and the sets.

    Raises:
        UserError: no checkpoint can be used, or there is nothing to evaluate on.
    """
    usable = list(paths)
    while (
        saved := load(usable[-1], alone=len(usable) == 1)
    ) is None:  # a checkpoint that cannot be read is reported here, and only once
        usable.pop()
    config = settings(saved["config"])
    del saved  # it may hold gigabytes of optimizer state
    sets = open_sets(config, rules)
    evaluator = _Evaluator(sets, len(usable), encoder, decoder, search)
    results = []
    with closing(evaluator.progress):
        for path in usable:
            if (saved := load(path, alone=len(usable) == 1)) is not None:
                try:
                    results.append(evaluator.run(path, title(path, usable), saved))
                except torch.OutOfMemoryError:
                    size = config.training.eval_batch_size
                    raise UserError(f"the device's memory is too small for batch_size={size}; halve it.") from None
    return results, sets


def load(path: Path, alone: bool) -> dict[str, Any] | None:
    """Read a checkpoint; if it cannot be read and is not the only one, name it and return None."""
    try:
        return load_checkpoint(path)
    except UserError as error:
        if alone:
            raise
        logger.warning("%s It is skipped.", error)
        return None


def title(path: Path, paths: Sequence[Path]) -> str:
    """Return the name of a checkpoint in tables: `step 500`, `final`; its path if there are several folders."""
    if len({other.parent for other in paths}) > 1:
        return str(path)
    return path.stem.replace("checkpoint-step-", "step ")


class _Evaluator:
    """Keeps models and sets from one checkpoint to the next."""

    def __init__(
        self,
        sets: Sets,
        num_checkpoints: int,
        encoder: str | None,
        decoder: str | None,
        search: SearchChanges,
    ) -> None:
        self.sets, self.config, self.accelerator = sets, sets.config, start_accelerator(sets.config)
        if self.accelerator.num_processes > 1:
            raise UserError("ta eval runs as one process; start it without accelerate or torchrun.")
        self.num_checkpoints, self.encoder, self.decoder, self.search = num_checkpoints, encoder, decoder, search
        self.model: SpeechLLM | None = None
        self._kind: dict[str, Any] = {}
        self._sets: list[EncodedSet] = []
        self._told: set[tuple[str, str]] = set()
        self.progress = Progress("Evaluating", sets.num_clips * num_checkpoints, "clips", quiet=False)

    def run(self, path: Path, name: str, saved: dict[str, Any]) -> Result:
        """Evaluate one checkpoint."""
        model = self._load(saved, str(path))
        model.search = build_config({"model": saved["config"]["model"]}).model.search
        choose_search(model, self.search)
        scores, transcripts = {}, []
        recognizer = Recognizer.of(model, FROZEN_DTYPES[self.accelerator.mixed_precision], saved)
        batch_size, limit = self.config.training.eval_batch_size, self.config.training.max_new_tokens
        for source, batches, apart in zip(self.sets.sources, self._sets, self.sets.apart, strict=True):
            counted = self.progress.over(batches, lambda batch: len(batch) + len(batch.skipped))
            timed = TimedAssessment(model, limit)
            found = evaluate(model, counted, list(source.texts), self.accelerator, limit, assess=timed)
            self._tell_unread(found)
            rows = match(source, found)
            judge_longer(rows, source, recognizer, batch_size)
            rows = [row._replace(reference=text) for row, text in zip(rows, apart.texts, strict=True)]
            for row in judge(apart, source, recognizer, batch_size):
                rows.append(row)
                self.progress.advance(1)
            rows = note_symptoms(rows)
            seconds = timed.audio_seconds, timed.decoding_seconds + batches.encoding_seconds
            scores[source.name] = score(rows, found, apart.left_out, self.sets.rules, *seconds)
            transcripts += rows
        weights = trained_fingerprint(saved["weights"])
        result = Result(path, name, saved["state"]["step"], scores, transcripts, weights)
        logger.info("%s: WER %.1f%% (%s)", path.name, 100 * result.total.words.rate, self.sets.rules[0].name)
        return result

    def _load(self, saved: dict[str, Any], path: str) -> SpeechLLM:
        """Load a checkpoint's weights into the models that are loaded, or load its own models."""
        if self.model is not None and self._kind == kind(saved):
            load_weights(self.model, saved, build_config({"model": saved["config"]["model"]}).model, path)
            return self.model
        self.model, self._sets = None, []  # two models may not fit into memory
        dtype = FROZEN_DTYPES[self.accelerator.mixed_precision]
        model = rebuild(saved, path, dtype, self.encoder, self.decoder).to(self.accelerator.device)
        logger.info("Attention: %s", choose_attention(model, self.config.hardware.attention))
        model.decoder.use_cuda_graph(self.config.hardware.cuda_graph)
        room = psutil.virtual_memory().available // 4 if self.num_checkpoints > 1 else 0
        self._sets = [
            EncodedSet(self._open(source, model), model, self.accelerator, room // len(self.sets.sources))
            for source in self.sets.sources
        ]
        self.model, self._kind = model, kind(saved)
        return model

    def _open(self, source: Source, model: SpeechLLM) -> Iterable[Batch]:
        """Return the batches that the run itself evaluated on."""
        data, prompt = self.config.data, model.decoder.prompt
        return eval_loader(
            ClipDataset([source], model.tokenize, data, contexts=ContextReader(prompt.context_ids)),
            self.config.training.eval_batch_size,
            num_workers=min(usable_workers(data.num_workers), 2),
            prefetch_factor=data.prefetch_factor,
        )

    def _tell_unread(self, found: Evaluation) -> None:
        new = [skip for skip in found.skipped if (skip.source, skip.name) not in self._told]
        self._told |= {(skip.source, skip.name) for skip in new}
        if new:
            named = "; ".join(f"{skip.name} {skip.detail}" for skip in new[:MAX_TOLD])
            more = f"; and {len(new) - MAX_TOLD} more" if len(new) > MAX_TOLD else ""
            text = "%s: %d clips could not be read; what was said in them counts as wrong: %s%s"
            logger.warning(text, new[0].source, len(new), named, more)


class EncodedSet:
    """The batches of a set. The first pass keeps their encoder frames on the CPU, and later passes reuse them.

    Args:
        batches: of recordings.
        model: its encoder is used.
        accelerator: for mixed precision.
        room_bytes: limit of memory; a set that needs more is read and encoded again in each pass.

    Attributes:
        encoding_seconds: time of encoding the frames that are kept.
    """

    def __init__(self, batches: Iterable[Batch], model: SpeechLLM, accelerator: Accelerator, room_bytes: int) -> None:
        self.batches, self.model, self.accelerator = batches, model, accelerator
        self.room_bytes = room_bytes
        self.encoding_seconds = 0.0
        self._kept: list[Batch] = []
        self._whole = False

    def __iter__(self) -> Iterator[Batch]:
        if self._whole:
            yield from self._kept
            return
        self._kept, room, self.encoding_seconds = [], self.room_bytes, 0.0
        for batch in self.batches:
            if room > 0:
                batch = self._encoded(batch)
                room -= 0 if batch.features is None else batch.features.nbytes
                self._kept.append(batch)
            yield batch
        self._whole = room > 0
        if not self._whole:
            self._kept, self.room_bytes = [], 0

    @torch.no_grad()
    def _encoded(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        start = perf_counter()
        with self.accelerator.autocast():
            frames, lengths = self.model.encode(batch)
        assert lengths == self.model.encoder.num_frames(batch.num_samples)
        features = frames.cpu()
        self.encoding_seconds += perf_counter() - start
        return replace(batch, features=features, waveforms=torch.zeros(0, 0))


class TimedAssessment:
    """Computes what `SpeechLLM.assess` returns, and times encoding and decoding, but not the loss or the reading.

    Args:
        model: to evaluate.
        max_new_tokens: of a transcript.

    Attributes:
        audio_seconds, decoding_seconds: of all batches so far.
    """

    def __init__(self, model: SpeechLLM, max_new_tokens: int) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        self.audio_seconds, self.decoding_seconds = 0.0, 0.0

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, list[Written]]:
        """Return the summed cross-entropy of a batch, and the transcript of each clip."""
        if not len(batch):
            return torch.zeros(()), []
        start = perf_counter()
        frames, lengths = self.model.encode(batch)
        # `write` returns text, so the device has finished all work when it returns.
        written = self.model.write(frames, lengths, self.max_new_tokens, contexts=batch.context_ids)
        self.decoding_seconds += perf_counter() - start
        self.audio_seconds += batch.audio_seconds
        loss = self.model.loss(frames, lengths, batch.target_ids, contexts=batch.context_ids)
        return loss.cross_entropy, written
