"""Find where each word of a transcript was said, with the CTC head: see `model.ctc`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..pieces import WordPieces
from .ctc import AlignedPiece, CTCHead, Embed


class AlignedWord(NamedTuple):
    """A word of a transcript, and where it was said.

    Attributes:
        text: as in the transcript.
        start, end: seconds from the start of the clip, or of the recording in a `TextSegment`; to an audio token
            (80 ms). The queries of a Q-Former have no times; they are assumed to be spread evenly.
        confidence: 0 to 1, the probability that the audio tokens give to its least likely word piece. A word with a
            low confidence may not have been said.
    """

    text: str
    start: float
    end: float
    confidence: float


def align_words(
    head: CTCHead,
    split: WordPieces,
    embed: Embed,
    tokens: Tensor,
    counts: Sequence[int],
    spans: Sequence[tuple[float, float]],
    seconds: Sequence[float],
    transcripts: Sequence[str],
) -> list[list[AlignedWord] | None]:
    """Find the words of each of B transcripts in its clip.

    Args:
        head: CTC head of the model.
        split: splits text into the head's word pieces.
        embed: the decoder's embedding.
        tokens: (T, W) audio tokens, the clips one after another.
        counts: audio tokens of each clip.
        spans: seconds from the start of each clip, where its audio tokens begin and end: they may hold silence, too.
        seconds: of each clip.
        transcripts: B transcripts; spaces separate words.

    Returns:
        The words of each clip, in order. None if the clip has fewer audio tokens than the transcript has word pieces,
        for example if the decoder looped.
    """
    words = [split.words(text) for text in transcripts]
    pieces = [torch.tensor([piece for word in clip for piece in word], dtype=torch.int64) for clip in words]
    found = head.align(tokens, counts, pieces, embed)
    return [
        None
        if places is None or len(clip) != len(text.split())
        else _join(text.split(), clip, places, span[0], (span[1] - span[0]) / max(count, 1), length)
        for text, clip, places, count, span, length in zip(
            transcripts, words, found, counts, spans, seconds, strict=True
        )
    ]


def _join(
    texts: Sequence[str],
    words: Sequence[Sequence[int]],
    places: Sequence[AlignedPiece],
    start: float,
    each: float,
    seconds: float,
) -> list[AlignedWord]:
    """Join word pieces to words, at `each` seconds an audio token from `start` on, within a clip of `seconds`.

    A word that was found in the silence around the clip gets the length of an audio token where other words leave room.
    """
    left = iter(places)
    own = [[next(left) for _ in word] for word in words]
    begins, ends = (
        [min(max(start + place * each, 0.0), seconds) for place in some]
        for some in ([pieces[0].start for pieces in own], [pieces[-1].end for pieces in own])
    )
    for i, later in enumerate([*begins[1:], seconds][: len(own)]):
        ends[i] = max(ends[i], min(begins[i] + each, later))
        begins[i] = min(begins[i], max(ends[i] - each, ends[i - 1] if i else 0.0))
    weakest = [min(piece.probability for piece in pieces) for pieces in own]
    return [AlignedWord(*word) for word in zip(texts, begins, ends, weakest, strict=True)]
