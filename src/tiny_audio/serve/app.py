"""The web application: the API, the page, health and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from .answers import answer, delta, done, to_sse
from .door import TRANSCRIPTIONS, Door
from .errors import ApiError
from .request import Asked, read_asked, recording_of
from .service import Service

EVENT_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
PAGE = Path(__file__).parent / "page"


def build_app(service: Service, name: str) -> Starlette:
    """Return the application.

    Args:
        service: the model; it is started and closed with the application.
        name: of the model, for clients.
    """
    model = {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "tiny-audio",
        "word_timestamps": service.worker.can_place_words,
    }

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        if request.path_params["name"] != name:
            raise ApiError(HTTPStatus.NOT_FOUND, "There is no such model; /v1/models names it.", "model_not_found")
        return JSONResponse(model)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": name})

    async def metrics(request: Request) -> Response:
        return service.metrics.response()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    return Starlette(
        routes=[
            Route(TRANSCRIPTIONS, Transcriptions(service)),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/health", health),
            Route("/metrics", metrics),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Door, settings=service.settings, metrics=service.metrics)],
        exception_handlers={HTTPException: _of_framework},
        lifespan=lifespan,
    )


async def _of_framework(request: Request, error: Exception) -> Response:
    """Answer a request that Starlette refuses, for a path or method that does not exist."""
    assert isinstance(error, HTTPException)
    what = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    return ApiError(error.status_code, f"{what}; the API is POST {TRANSCRIPTIONS}.", headers=headers).response()


class Transcriptions:
    """`POST /v1/audio/transcriptions`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["method"] != "POST":
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "Send the recording by POST.", headers={"Allow": "POST"})
        form = await self.service.receive(Request(scope, receive))
        try:
            asked, file = read_asked(form), recording_of(form)
            if asked.stream:
                await self._stream(file, asked, receive, send)
                return
            async with self.service.transcribing(file, asked.words, receive, asked.context) as work:
                async for _ in work.pieces():
                    pass
            await answer(work.transcription, asked, work.remarks)(scope, receive, send)
        finally:
            await form.close()

    async def _stream(self, file: BinaryIO, asked: Asked, receive: Receive, send: Send) -> None:
        """Answer with server-sent events: each piece when it is done, then the whole transcript; or an error."""
        began = False

        async def send_event(event: dict[str, Any], more: bool) -> None:
            await send({"type": "http.response.body", "body": to_sse(event), "more_body": more})

        try:
            async with self.service.transcribing(file, asked.words, receive, asked.context) as work:
                await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": EVENT_HEADERS})
                began, is_first = True, True
                async for segments in work.pieces():
                    await send_event(delta(segments, is_first, asked), True)
                    is_first = is_first and not any(segment.text.strip() for segment in segments)
            await send_event(done(work.transcription, asked, work.remarks), False)
        except ApiError as error:
            if not began:
                raise
            await send_event(error.body(), False)
