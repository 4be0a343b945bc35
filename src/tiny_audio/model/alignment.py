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
        else _join(text.split(), clip, places, span[0], (span[1] - span[0]) / count, length)
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
    """Join word pieces to words, at `each` seconds an audio token from `start` on, within a clip of `seconds`."""
    length = min(each, seconds)  # of a word, where there is room, though it was found in silence around the clip
    left, end = iter(places), 0.0
    joined = []
    for text, word in zip(texts, words, strict=True):
        own = [next(left) for _ in word]
        weakest = min(piece.probability for piece in own)
        begin = max(min(start + own[0].start * each, seconds - length), end)
        end = min(max(start + own[-1].end * each, begin + length), seconds)
        joined.append(AlignedWord(text, begin, end, weakest))
    return joined
