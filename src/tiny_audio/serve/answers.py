"""Transcripts in the forms of OpenAI's API, with additional fields for what that API lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..formats import to_row, to_text, warnings
from ..inference import TextSegment, Transcription
from .request import Asked

UNKNOWN_LANGUAGE = "unknown"
SUBTITLE_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}


def answer(item: Transcription, asked: Asked, remarks: Sequence[str]) -> Response:
    """Return a transcript in the form that is asked for."""
    if asked.form == "json":
        return JSONResponse({"text": item.text})
    if asked.form == "verbose_json":
        return JSONResponse(verbose(item, asked, remarks))
    kind = SUBTITLE_TYPES.get(asked.form, "text/plain")
    return PlainTextResponse(to_text(item, asked.form), media_type=kind)


def verbose(item: Transcription, asked: Asked, remarks: Sequence[str]) -> dict[str, Any]:
    """Return a transcript with its segments, its remarks, and its words if they are asked for and known.

    Fields of OpenAI's segments that this model does not compute are null.
    """
    row = to_row(item)
    found: dict[str, Any] = {
        "task": "transcribe",
        "language": asked.language or UNKNOWN_LANGUAGE,
        "duration": item.seconds,
        "text": item.text,
        "segments": [to_segment(number, segment) for number, segment in enumerate(row["segments"])],
        "warnings": [*remarks, *warnings(item)],
    }
    if asked.words and all(segment.words is not None for segment in item.segments):
        found["words"] = [word for segment in row["segments"] for word in segment["words"]]
    return found


def to_segment(number: int, segment: dict[str, Any]) -> dict[str, Any]:
    """Return a segment in the form of OpenAI's API."""
    unknown = dict.fromkeys(("tokens", "avg_logprob", "compression_ratio", "no_speech_prob"))
    times = {name: segment[name] for name in ("start", "end", "text", "flags")}
    return {"id": number, "seek": 0, "temperature": 0.0} | times | unknown


def delta(segments: Sequence[TextSegment], is_first: bool, asked: Asked) -> dict[str, Any]:
    """Return the event of a finished piece; clients join deltas without a separator."""
    text = Transcription("", tuple(segments), 0.0).text
    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": text if is_first or not text else f" {text}"}
    if asked.form == "verbose_json":
        event["segments"] = to_row(Transcription("", tuple(segments), 0.0))["segments"]
    return event


def done(item: Transcription, asked: Asked, remarks: Sequence[str]) -> dict[str, Any]:
    """Return the last event, with the whole transcript."""
    event: dict[str, Any] = {"type": "transcript.text.done", "text": item.text}
    if asked.form == "verbose_json":
        subtitles = {form: to_text(item, form) for form in SUBTITLE_TYPES}
        event = verbose(item, asked, remarks) | event | {"subtitles": subtitles}
    return event


def to_sse(event: dict[str, Any]) -> bytes:
    """Return an event as a server-sent event."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
