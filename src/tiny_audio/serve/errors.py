"""The answers to requests that cannot be served: a status, and the error object that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that cannot be served.

    Args:
        status: of HTTP.
        message: what is wrong and what to do; it contains nothing from the client.
        code: one word for programs.
        param: the wrong field.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    @property
    def kind(self) -> str:
        """The `type` of the error, as OpenAI names them."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        if self.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return "authentication_error"
        return "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the error object."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.body(), self.status, self.headers)


def busy(message: str) -> ApiError:
    """Return the error for a client that must try again later."""
    return ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, "queue_full", headers={"Retry-After": "1"})


def closing() -> ApiError:
    """Return the error for requests while the server shuts down."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is shutting down.", "shutting_down")


def out_of_memory() -> ApiError:
    """Return the error if one piece is too large for the memory."""
    message = "The device's memory is too small at the moment; try again."
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, "out_of_memory")


def internal() -> ApiError:
    """Return the error for a bug of the server; the server's log has the details."""
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed; its log says how.", "internal_error")
