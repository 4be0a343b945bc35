"""The server: it opens its socket, serves, and shuts down."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from ..errors import UserError
from ..inference import Recognizer
from .app import build_app
from .service import Service
from .settings import ServeSettings

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 30


class Server(uvicorn.Server):
    """Serves a model until a signal stops it.

    Args:
        recognizer: the model.
        name: of the model, for clients.
        settings: address and limits.
        ready: called with the address when requests are answered.

    Raises:
        UserError: the address cannot be used.
    """

    def __init__(
        self, recognizer: Recognizer, name: str, settings: ServeSettings, ready: Callable[[str], None]
    ) -> None:
        self.service, self._ready = Service(recognizer, settings), ready
        self.socket = listen(settings.host, settings.port)
        config = uvicorn.Config(
            build_app(self.service, name),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            http="h11",  # the one that is tested, even if others are installed
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        super().__init__(config)

    @property
    def address(self) -> str:
        """Its address for a browser."""
        host, port = self.socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if self.started:
            self._ready(self.address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; accepted requests are finished first."""
        self.service.begin_closing()
        await super().shutdown(sockets)

    def serve_until_signaled(self) -> None:
        """Serve until SIGINT or SIGTERM; after a second SIGINT, do not wait for accepted requests."""
        # uvicorn raises the signals again at the end, which would end the process as if it had been killed.
        before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.run(sockets=[self.socket])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def listen(host: str, port: int) -> socket.socket:
    """Return a socket at an address.

    Raises:
        UserError: it is in use, or is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise UserError(f"host={host} port={port} cannot be used ({error.strerror}); name another port.") from None


def name_of(checkpoint: str) -> str:
    """Return a model's name for clients: its run, its folder, or its repository, without its path."""
    path = Path(checkpoint)
    if not path.exists():
        return checkpoint  # on the Hub
    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    return folder.name or "model"
