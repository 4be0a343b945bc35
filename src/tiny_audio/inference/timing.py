"""Measure how fast a model transcribes, during an evaluation."""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from ..data.loader import Batch
from ..model.speech_llm import SpeechLLM, Written


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
