"""Transcriptions as text: plain lines, JSON, and subtitles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inference.transcribe import Transcription

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
FORMATS = tuple(SUFFIXES)
SUBTITLES = ("srt", "vtt")  # of one recording each


def to_row(item: Transcription) -> dict[str, Any]:
    """Return a transcription as plain values."""
    segments = [
        {"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text, "flags": list(s.flags)}
        for s in item.segments
    ]
    return {"path": item.path, "text": item.text, "seconds": item.seconds, "segments": segments, "error": item.error}


def to_text(item: Transcription, form: str) -> str:
    """Return what a file for this recording alone holds: one of `SUFFIXES`."""
    if form == "text":
        return item.text + "\n"
    if form == "json":
        return json.dumps(to_row(item), ensure_ascii=False) + "\n"
    cues = [
        f"{_time(s.start, form)} --> {_time(s.end, form)}\n{' '.join(s.text.split())}\n"
        for s in item.segments
        if s.text.strip()
    ]
    if form == "vtt":
        escaped = (cue.replace("&", "&amp;").replace("<", "&lt;") for cue in cues)
        return "\n".join(["WEBVTT\n", *escaped])
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _time(seconds: float, form: str) -> str:
    milliseconds = round(seconds * 1000)
    whole, milliseconds = divmod(milliseconds, 1000)
    clock = f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{clock}{',' if form == 'srt' else '.'}{milliseconds:03d}"


def warnings(item: Transcription) -> list[str]:
    """Return a line for each segment whose text is not to be trusted, and one for those that were tried again."""
    lines = []
    for segment in item.segments:
        where = f"{segment.start:.1f} to {segment.end:.1f} s"
        if "loop" in segment.flags:
            lines.append(f"{where}: the model repeated itself, and was stopped.")
        if "limit" in segment.flags:
            lines.append(f"{where}: the transcript was cut off by the limit of tokens (25 a second, max_new_tokens).")
    if retried := sum("retried" in segment.flags for segment in item.segments):
        lines.append(f"{retried} of {len(item.segments)} pieces are parts of longer ones that ran away.")
    return lines
