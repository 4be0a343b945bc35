"""The settings of a server, checked once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ..errors import UserError

MEGABYTE = 1_000_000
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServeSettings:
    """How a model is served.

    Attributes:
        host, port: the address; port 0: any free port.
        batch_size: pieces of recordings that the model reads at once.
        max_upload_mb: megabytes of the largest recording.
        max_seconds: of the longest recording.
        queue: most recordings that are in work or waiting; further clients must try again later.
        timeout_seconds: limit for an upload, and then for its transcription.
        api_key: required for `/v1` and `/metrics`; None: only requests to a loopback name are answered.

    Raises:
        UserError: a value is out of range, or a server that other machines can reach has no key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    batch_size: int = 8
    max_upload_mb: float = 25.0
    max_seconds: float = 600.0
    queue: int = 64
    timeout_seconds: float = 300.0
    api_key: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("max_upload_mb", "max_seconds", "timeout_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} must be above 0, got {getattr(self, name):g}.")
        if not 0 <= self.port <= 65_535:
            raise UserError(f"port must be 0 to 65535, got {self.port}.")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise UserError(
                "api_key must be of printable ASCII characters, and not empty, since it is sent in a header."
            )
        if self.api_key is None and not is_loopback(self.host):
            raise UserError(
                f"host={self.host} can be reached from other machines: set TINY_AUDIO_API_KEY (or api_key=), which "
                "clients must then send."
            )

    @property
    def max_upload_bytes(self) -> int:
        """Bytes of the largest recording."""
        return round(self.max_upload_mb * MEGABYTE)


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
