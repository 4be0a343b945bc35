"""Evaluation by real generation: every clip of a set is decoded, and scored against its reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.index import Skip
from ..data.loader import Batch
from ..model.speech_llm import SpeechLLM, Written
from .wer import ErrorCounts, count_errors


@dataclass
class Evaluation:
    """The result of one pass over a set.

    Attributes:
        loss: mean cross-entropy of a target token, teacher-forced; NaN if no clip could be read.
        num_tokens: how many target tokens the mean is over.
        words, characters: error counts.
        transcripts: (name, reference, hypothesis) of each clip that was decoded by this process.
        cut_off: for each transcript, whether the limit of tokens cut it off; `num_cut_off`: how many, in all processes.
        seconds: the length of each clip.
        skipped: clips that could not be read. Their words count as deleted, so that a set does not become easier
            when it loses clips.
    """

    loss: float = 0.0
    num_tokens: int = 0
    words: ErrorCounts = field(default_factory=ErrorCounts)
    characters: ErrorCounts = field(default_factory=ErrorCounts)
    transcripts: list[tuple[str, str, str]] = field(default_factory=list)
    cut_off: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_cut_off: int = 0
    skipped: list[Skip] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by the names of `training.metric_for_best`."""
        return {"loss": self.loss, "wer": self.words.rate, "cer": self.characters.rate}


class Interrupted(Exception):
    """The evaluation ended early because the run is to stop."""


@torch.no_grad()
def evaluate(
    model: SpeechLLM,
    batches: Iterable[Batch],
    references: list[str],
    accelerator: Accelerator,
    max_new_tokens: int,
    should_stop: Callable[[], bool] = lambda: False,
    assess: Callable[[Batch], tuple[torch.Tensor, list[Written]]] | None = None,
) -> Evaluation:
    """Decode and score a set.

    Args:
        model: not wrapped; its mode is restored afterwards.
        batches: this process's share of the set.
        references: the transcripts of the **whole** set, so that clips that could not be read can be counted.
        accelerator: for mixed precision, and to add up the counts of all processes.
        max_new_tokens: of a transcript.
        should_stop: called between batches.
        assess: returns the summed loss and the transcripts of a batch; None: the decoder, greedily.

    Raises:
        Interrupted: `should_stop` returned true.
    """
    training = model.training
    model.eval()
    result = Evaluation()
    loss = 0.0
    try:
        for batch in batches:
            if should_stop():
                raise Interrupted
            result.skipped += batch.skipped
            with accelerator.autocast():
                summed, written = model.assess(batch, max_new_tokens) if assess is None else assess(batch)
            loss += float(summed)
            result.num_tokens += sum(len(ids) for ids in batch.target_ids)
            texts = [one.text for one in written]
            result.transcripts += zip(batch.names, batch.transcripts, texts, strict=True)
            result.cut_off += [one.cut_off for one in written]
            result.seconds += batch.seconds
    finally:
        model.train(training)
    result.words, result.characters = count_errors(
        [reference for _, reference, _ in result.transcripts], [written for _, _, written in result.transcripts]
    )
    result.num_cut_off = sum(result.cut_off)
    if accelerator.num_processes > 1:
        counts = (result.words, result.characters, result.skipped, result.num_cut_off)
        shares = gather_object([(loss, result.num_tokens, *counts)])
        loss, result.num_tokens = sum(share[0] for share in shares), sum(share[1] for share in shares)
        others = [share for i, share in enumerate(shares) if i != accelerator.process_index]
        result.words.merge([share[2] for share in others])
        result.characters.merge([share[3] for share in others])
        result.skipped = [skip for share in shares for skip in share[4]]
        result.num_cut_off = sum(share[5] for share in shares)
    if result.skipped:
        _count_unheard(result, references)
    result.loss = loss / result.num_tokens if result.num_tokens else math.nan
    return result


def _count_unheard(result: Evaluation, references: list[str]) -> None:
    """Count the words of clips that could not be read as deleted."""
    whole_set = count_errors(references, [""] * len(references))
    for counts, whole in zip((result.words, result.characters), whole_set, strict=True):
        unheard = whole.length - counts.length
        counts.deletions += unheard
        counts.length += unheard
