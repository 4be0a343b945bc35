"""How fast a model transcribes, measured while it is judged."""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from ..data.loader import Batch
from ..model.speech_llm import SpeechLLM, Written


class TimedAssessment:
    """What `SpeechLLM.assess` returns, with the time of encoding and decoding taken: not that of the loss, nor of
    reading recordings.

    Args:
        model: to judge.
        max_new_tokens: of a transcript.

    Attributes:
        audio_seconds, decoding_seconds: of all batches so far.
    """

    def __init__(self, model: SpeechLLM, max_new_tokens: int) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        self.audio_seconds, self.decoding_seconds = 0.0, 0.0

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, list[Written]]:
        """Return the cross-entropy of a batch, summed, and what is written down of each clip."""
        if not len(batch):
            return torch.zeros(()), []
        start = perf_counter()
        frames, lengths = self.model.encode(batch)
        # What is written is text: when it is here, the device has done all that it was asked for.
        written = self.model.write(frames, lengths, self.max_new_tokens, contexts=batch.context_ids)
        self.decoding_seconds += perf_counter() - start
        self.audio_seconds += batch.audio_seconds
        loss = self.model.loss(frames, lengths, batch.target_ids, contexts=batch.context_ids)
        return loss.cross_entropy, written
