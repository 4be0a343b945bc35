"""Transcripts in the forms that OpenAI's API has, and what it has no room for beside them."""

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
    """Return a transcript as it is asked for."""
    if asked.form == "json":
        return JSONResponse({"text": item.text})
    if asked.form == "verbose_json":
        return JSONResponse(verbose(item, asked, remarks))
    kind = SUBTITLE_TYPES.get(asked.form, "text/plain")
    return PlainTextResponse(to_text(item, asked.form), media_type=kind)


def verbose(item: Transcription, asked: Asked, remarks: Sequence[str]) -> dict[str, Any]:
    """Return a transcript with its segments, its words where they are asked for and known, and what is to be doubted.

    Of what OpenAI's segments have, what this model does not tell is null.
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
    """Return a segment as OpenAI's API has it."""
    unknown = dict.fromkeys(("tokens", "avg_logprob", "compression_ratio", "no_speech_prob"))
    times = {name: segment[name] for name in ("start", "end", "text", "flags")}
    return {"id": number, "seek": 0, "temperature": 0.0} | times | unknown


def delta(segments: Sequence[TextSegment], is_first: bool, asked: Asked) -> dict[str, Any]:
    """Return the event of a piece that is done; deltas are joined without anything between."""
    text = Transcription("", tuple(segments), 0.0).text
    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": text if is_first or not text else f" {text}"}
    if asked.form == "verbose_json":
        event["segments"] = to_row(Transcription("", tuple(segments), 0.0))["segments"]
    return event


def done(item: Transcription, asked: Asked, remarks: Sequence[str]) -> dict[str, Any]:
    """Return the event at the end, with all of it."""
    event: dict[str, Any] = {"type": "transcript.text.done", "text": item.text}
    if asked.form == "verbose_json":
        subtitles = {form: to_text(item, form) for form in SUBTITLE_TYPES}
        event = verbose(item, asked, remarks) | event | {"subtitles": subtitles}
    return event


def to_sse(event: dict[str, Any]) -> bytes:
    """Return an event as a server sends it."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
