"""Transcriptions as text: plain lines, JSON, and subtitles."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.transcription import TextSegment, Transcription
    from .model.alignment import AlignedWord

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
FORMATS = tuple(SUFFIXES)
SUBTITLES = ("srt", "vtt")  # of one recording each
# Usual limits of readable subtitles: lines, letters in a line, and how long they are shown.
CUE_LINES, LINE_LETTERS = 2, 42
MIN_CUE_SECONDS, MAX_CUE_SECONDS = 1.0, 7.0


def to_row(item: Transcription) -> dict[str, Any]:
    """Return a transcription as plain values."""
    segments = [_segment(segment) for segment in item.segments]
    return {"path": item.path, "text": item.text, "seconds": item.seconds, "segments": segments, "error": item.error}


def _segment(segment: TextSegment) -> dict[str, Any]:
    row = {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
    words = None
    if segment.words is not None:
        words = [
            {"word": w.text, "start": round(w.start, 3), "end": round(w.end, 3), "confidence": round(w.confidence, 3)}
            for w in segment.words
        ]
    return row | {"flags": list(segment.flags), "words": words}


def to_text(item: Transcription, form: str) -> str:
    """Return the content of a file for this recording alone, in one of `SUFFIXES`."""
    if form == "text":
        return item.text + "\n"
    if form == "json":
        return json.dumps(to_row(item), ensure_ascii=False) + "\n"
    cues = [
        f"{_time(start, form)} --> {_time(end, form)}\n{text}\n"
        for segment in item.segments
        if segment.text.strip()
        for start, end, text in _cues(segment)
    ]
    if form == "vtt":
        escaped = (cue.replace("&", "&amp;").replace("<", "&lt;") for cue in cues)
        return "\n".join(["WEBVTT\n", *escaped])
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _cues(segment: TextSegment) -> Iterator[tuple[float, float, str]]:
    """Yield start, end and text of subtitles: a segment cut between words, or whole if their times are not known."""
    if not segment.words:
        yield segment.start, segment.end, " ".join(segment.text.split())
        return
    shown: list[list[AlignedWord]] = [[]]
    for word in segment.words:
        longer = [*shown[-1], word]
        if shown[-1] and (word.end - longer[0].start > MAX_CUE_SECONDS or len(_lines(longer)) > CUE_LINES):
            shown.append([word])
        else:
            shown[-1] = longer
    nexts = [*(words[0].start for words in shown[1:]), segment.end]
    for words, latest in zip(shown, nexts, strict=True):
        start = words[0].start
        yield start, max(words[-1].end, min(start + MIN_CUE_SECONDS, latest)), "\n".join(_lines(words))


def _lines(words: Sequence[AlignedWord]) -> list[str]:
    return textwrap.wrap(" ".join(word.text for word in words), LINE_LETTERS, break_on_hyphens=False)


def _time(seconds: float, form: str) -> str:
    milliseconds = round(seconds * 1000)
    whole, milliseconds = divmod(milliseconds, 1000)
    clock = f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{clock}{',' if form == 'srt' else '.'}{milliseconds:03d}"


def warnings(item: Transcription) -> list[str]:
    """Return a line for each segment with doubtful text, and one line for segments that were decoded again."""
    lines = []
    for segment in item.segments:
        where = f"{segment.start:.1f} to {segment.end:.1f} s"
        if "loop" in segment.flags:
            lines.append(f"{where}: the model repeated itself, and was stopped.")
        if "limit" in segment.flags:
            lines.append(f"{where}: the transcript was cut off by the limit of tokens (25 a second, max_new_tokens).")
        if "unplaced" in segment.flags:
            lines.append(f"{where}: the transcript has more words than can be found in the audio; they have no times.")
    if retried := sum("retried" in segment.flags for segment in item.segments):
        lines.append(f"{retried} of {len(item.segments)} pieces are parts of pieces that looped or were cut off.")
    return lines
