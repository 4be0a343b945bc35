"""Read a request for a transcription: its form, within limits, and what it asks for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .door import Gone
from .errors import ApiError
from .settings import ServeSettings

FORM_BYTES = 65_536  # of everything except the recording
MAX_FIELDS = 32
FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("segment", "word")
FIELDS = (
    *("file", "model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy"),
    *("timestamp_granularities", "timestamp_granularities[]", "include", "include[]"),
)
TRUE, FALSE = ("true", "True", "1"), ("false", "False", "0", "")


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        form: one of `FORMATS`.
        words: whether to find where words were said.
        stream: whether to send each piece when it is done.
        language: as the client names it; None: not given.
        context: what is known of the recording; may be empty.
    """

    form: str
    words: bool
    stream: bool
    language: str | None
    context: str = ""


class _Parser(MultiPartParser):
    """Starlette's parser, extended to record whether it reached the end of the form."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True


async def read_form(request: Request, settings: ServeSettings, deadline: asyncio.Timeout) -> FormData:
    """Read the form of a request; large parts are kept in a temporary file without a name.

    Args:
        request: its body must not have been read yet.
        settings: the limits.
        deadline: until when to wait for the client.

    Raises:
        ApiError: it is too large, takes too long, or is not a form.
        Gone: the client disconnected.
    """
    limit = settings.max_upload_bytes + FORM_BYTES
    too_large = ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The recording is larger than {settings.max_upload_mb:g} MB, this server's limit.",
        "file_too_large",
        "file",
    )
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        raise too_large
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(HTTPStatus.BAD_REQUEST, "The request must be multipart/form-data.", "invalid_form")

    async def counted() -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            yield chunk
        if not parser.is_whole:  # raised here, so that the parser closes its files
            raise MultiPartException("The end is missing.")

    try:
        async with deadline, contextlib.aclosing(counted()) as stream:
            parser = _Parser(request.headers, stream, max_files=1, max_fields=MAX_FIELDS, max_part_size=FORM_BYTES)
            return await parser.parse()
    except ClientDisconnect:
        raise Gone from None
    except TimeoutError:
        raise ApiError(
            HTTPStatus.REQUEST_TIMEOUT, f"The upload took longer than {settings.timeout_seconds:g} s.", "upload_timeout"
        ) from None
    except (MultiPartException, ValueError, LookupError):  # also for headers with no boundary or an unknown charset
        raise ApiError(
            HTTPStatus.BAD_REQUEST, "The form is damaged, or has several files or too many fields.", "invalid_form"
        ) from None


def recording_of(form: FormData) -> BinaryIO:
    """Return the file that was sent.

    Raises:
        ApiError: there is none, or it is empty.
    """
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise _wrong("file", "Send a recording as the file of the field `file`.")
    if not upload.size:
        raise _wrong("file", "The recording is empty (0 bytes).")
    return upload.file


def read_asked(form: FormData) -> Asked:
    """Return what a form asks for.

    Raises:
        ApiError: the server does not support it.
    """
    if any(name not in FIELDS for name in form):
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            f"A field is not known; known are {', '.join(name for name in FIELDS if '[' not in name)}.",
            "unknown_parameter",
        )
    wanted = _choice(form, "response_format", FORMATS, "json")
    stream = _choice(form, "stream", (*TRUE, *FALSE), "false") in TRUE
    if stream and wanted in ("srt", "vtt"):
        raise _wrong("stream", "Subtitles cannot be streamed; ask for json or verbose_json.")
    granularities = [value for name in ("", "[]") for value in _texts(form, f"timestamp_granularities{name}")]
    if any(value not in GRANULARITIES for value in granularities):
        raise _wrong("timestamp_granularities", "timestamp_granularities must be segment or word.")
    if granularities and wanted != "verbose_json":
        raise _wrong("timestamp_granularities", "timestamp_granularities need response_format=verbose_json.")
    if any(_texts(form, "include")) or any(_texts(form, "include[]")):
        raise _wrong("include", "This model gives no logprobs; leave include out.")
    if any(_number(text) != 0 for text in _texts(form, "temperature")):
        raise _wrong("temperature", "This model takes the likeliest token at each step: temperature must be 0.")
    language = next(iter(_texts(form, "language")), None)
    context = next(iter(_texts(form, "prompt")), "")
    return Asked(wanted, "word" in granularities or wanted in ("srt", "vtt"), stream, language or None, context)


def _texts(form: FormData, name: str) -> list[str]:
    values = form.getlist(name)
    if not all(isinstance(value, str) for value in values):
        raise _wrong(name.removesuffix("[]"), "Only the field `file` may be a file.")
    return [str(value) for value in values]


def _choice(form: FormData, name: str, known: tuple[str, ...], default: str) -> str:
    value = next(iter(_texts(form, name)), default)
    if value not in known:
        shown = ("true", "false") if known[0] in TRUE else known
        raise _wrong(name, f"{name} must be one of {', '.join(shown)}.")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _wrong(param: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, message, "invalid_value", param)
