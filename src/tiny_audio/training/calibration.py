"""The size that a new projector starts from."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..data.loader import ClipDataset
from ..data.plan import Draw, SamplingPlan
from ..model.speech_llm import SpeechLLM

CLIPS = 16  # some thousands of audio tokens; as many as the encoder reads in a step anyway


def calibration_draws(plan: SamplingPlan) -> list[Draw]:
    """Return the draws that `calibrate` goes by: the first ones, whatever the batch size."""
    return plan.draws(0, CLIPS)


def calibrate(model: SpeechLLM, plan: SamplingPlan, dataset: ClipDataset) -> None:
    """Scale a new projector so that it comes out at the size of the decoder's own embeddings.

    It goes by the first clips of the run in the order in which they are drawn, and reads them one by one: the same
    projector whatever the batch size, the accumulation and the number of processes. Where none of them can be read, it
    is left as it is.

    Args:
        model: on its device.
        plan: of the run.
        dataset: what its draws count.
    """
    model.projector.calibrate(_frames(model, plan, dataset), model.decoder.embedding_rms)


def _frames(model: SpeechLLM, plan: SamplingPlan, dataset: ClipDataset) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the encoder frames (n, D) of each clip, and how many they are."""
    for draw in calibration_draws(plan):
        batch = dataset.__getitems__([draw])
        if len(batch):
            frames, lengths = model.encode(batch)
            yield frames.float(), lengths
