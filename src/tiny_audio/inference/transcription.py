"""What is written of a recording: its transcript, piece by piece, and word by word where words were placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.alignment import AlignedWord


@dataclass(frozen=True)
class TextSegment:
    """The transcript of a piece of a recording.

    Attributes:
        start, end: seconds from the beginning of the recording.
        text: may be empty.
        flags: `loop`: the transcript looped in every try, and was ended; `limit`: the limit of tokens cut it off;
            `retried`: it is part of a piece that looped or was cut off, and was tried again in halves; `unplaced`: the
            audio is too short for so many words, so they have no times.
        words: those of the text, and where they were said; None if they were not asked for, or are unplaced.
    """

    start: float
    end: float
    text: str
    flags: tuple[str, ...] = ()
    words: tuple[AlignedWord, ...] | None = None

    def with_words(self, words: Sequence[AlignedWord]) -> TextSegment:
        """Return the segment with words that are timed from its start.

        They end where it ends, at the latest: its last audio token is padded.
        """
        start, end = self.start, self.end
        moved = (word._replace(start=start + word.start, end=min(start + word.end, end)) for word in words)
        return replace(self, words=tuple(moved))


@dataclass(frozen=True)
class Transcription:
    """The transcript of one recording.

    Attributes:
        path: the file.
        segments: the pieces that hold sound, in order; none for silence, or if there is an `error`.
        seconds: of audio.
        error: one line, or None.
    """

    path: str
    segments: tuple[TextSegment, ...]
    seconds: float
    error: str | None = None

    @property
    def text(self) -> str:
        """The whole transcript in one line; empty for silence."""
        return join(self.segments)

    @property
    def words(self) -> list[AlignedWord]:
        """The words that were found in the audio, in order, with their times in the recording."""
        return [word for segment in self.segments for word in segment.words or ()]


def join(segments: Sequence[TextSegment]) -> str:
    """Return the text of segments as one line."""
    return " ".join(word for segment in segments for word in segment.text.split())
