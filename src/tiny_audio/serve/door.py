"""The outermost layer, which every request passes: it checks access, answers with errors, and counts."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, internal
from .metrics import Metrics
from .settings import LOOPBACK_NAMES, ServeSettings

logger = logging.getLogger(__name__)

TRANSCRIPTIONS = "/v1/audio/transcriptions"
LOCKED = ("/v1", "/metrics")  # the page and /health are public
DRAIN_SECONDS = 5.0  # the rest of a refused upload is read for so long: a client cut off earlier may miss the answer
GONE = 499  # the counted status if the client disconnects
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gone(Exception):
    """The client disconnected, so no answer can be sent."""


class Door:
    """The outermost layer of the server, around `app`."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = GONE
        is_read = False  # whether the whole request was read

        async def reading() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        started = time.perf_counter()
        try:
            try:
                self._check(scope)
                await self.app(scope, reading, sending)
            except (ApiError, Gone):
                raise
            except Exception:
                logger.exception("A request failed.")
                if status != GONE:
                    raise  # the answer has begun; the connection is closed
                raise internal() from None
        except Gone:
            pass
        except ApiError as error:
            await _refuse(error, None if is_read else reading, scope, sending)
        finally:
            if scope["path"] == TRANSCRIPTIONS:
                self.metrics.requests.labels(status).inc()
                self.metrics.latency.observe(time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        """Refuse a request that is not allowed.

        Without a key, pages of other sites must be refused: a browser on this machine lets them send requests to this
        server, and their host name may resolve to it.
        """
        headers, key = Headers(scope=scope), self.settings.api_key
        if key is None:
            if _name(headers.get("host", "")) not in (*LOOPBACK_NAMES, self.settings.host):
                raise ApiError(
                    HTTPStatus.FORBIDDEN,
                    "Without an API key this server answers only to the names of its own machine; start it with one.",
                    "wrong_host",
                )
            if (origin := headers.get("origin")) is not None and urlsplit(origin).netloc != headers.get("host"):
                raise ApiError(HTTPStatus.FORBIDDEN, "Pages of other sites are not answered.", "wrong_origin")
        elif scope["path"].startswith(LOCKED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), key.encode()):
                raise ApiError(
                    HTTPStatus.UNAUTHORIZED,
                    "Send the server's API key: Authorization: Bearer KEY.",
                    "invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _refuse(error: ApiError, unread: Receive | None, scope: Scope, send: Send) -> None:
    """Answer at once, then read the rest of the request for a while, so that the client can read the answer."""
    response = error.response()
    if unread is not None:
        response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": unread is not None})
    if unread is not None:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while (await unread()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
