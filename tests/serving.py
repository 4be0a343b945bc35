"""A server of this process, in a thread; a model that waits to be let go on; and bytes as a client sends them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import openai

from tiny_audio.inference import Recognizer, TextSegment
from tiny_audio.serve.server import Server
from tiny_audio.serve.settings import ServeSettings

PATH = "/v1/audio/transcriptions"
BOUNDARY = "a-boundary"


class Gated:
    """A recognizer that reads a batch only when it is told to, and fails where it is told to.

    Attributes:
        sizes: of the batches that it was asked for.
        decoded: recordings so far.
        ahead: how many were decoded when each batch was read.
        failing: raised for a batch with a recording of so many samples.
        largest: a batch above it is out of memory.
    """

    def __init__(self, recognizer: Recognizer, is_open: bool = True) -> None:
        self.model: Any = recognizer.model
        self._recognizer = recognizer
        self.sizes: list[int] = []
        self.decoded = 0
        self.ahead: list[int] = []
        self.failing: dict[int, Exception] = {}
        self.largest = 1_000
        self.asked = threading.Semaphore(0)
        self._batches = threading.Semaphore(1_000_000 if is_open else 0)
        self.read_context = recognizer.read_context

    def let(self, batches: int = 1_000_000) -> None:
        for _ in range(min(batches, 1_000)):
            self._batches.release()

    def spans(self, waveform: np.ndarray) -> list[tuple[int, int]]:
        self.decoded += 1
        return self._recognizer.spans(waveform)

    def transcribe_pieces(self, pieces: Sequence[Any], *args: Any, **options: Any) -> list[list[TextSegment]]:
        self.sizes.append(len(pieces))
        self.asked.release()
        assert self._batches.acquire(timeout=60)
        self.ahead.append(self.decoded)
        if len(pieces) > self.largest:
            raise MemoryError
        for waveform, _ in pieces:
            if len(waveform) in self.failing:
                raise self.failing[len(waveform)]
        return self._recognizer.transcribe_pieces(pieces, *args, **options)


class Running:
    """A server that answers."""

    def __init__(self, server: Server, address: str) -> None:
        self.server, self.address = server, address
        self.host = address.removeprefix("http://")
        self.clients: list[openai.OpenAI] = []

    def client(self, api_key: str = "none", **options: Any) -> openai.OpenAI:
        made = openai.OpenAI(base_url=f"{self.address}/v1", api_key=api_key, **{"max_retries": 0, **options})
        self.clients.append(made)
        return made

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post(self, content: bytes | None, headers: Mapping[str, str] | None = None, **fields: str) -> tuple[int, Any]:
        """Send a recording, and return the status and what was answered."""
        status, kind, body = self.ask("POST", PATH, form(content, **fields), {**FORM, **(headers or {})})
        return status, json.loads(body) if kind["content-type"] == "application/json" else body.decode()

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"tiny_audio_{name}"))

    def wait_for(self, name: str, value: float) -> None:
        waiting = threading.Event()
        for _ in range(1_000):
            if self.metric(name) == value:
                return
            waiting.wait(0.01)
        raise AssertionError(f"{name} is {self.metric(name)}, not {value}")

    def begin_upload(self, content: bytes, announced: int) -> socket.socket:
        """Send the head of a request and some of its body, and leave it there."""
        name, port = self.host.split(":")
        connection = socket.create_connection((name, int(port)), timeout=60)
        head = f"POST {PATH} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {announced}\r\n"
        connection.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode() + content)
        return connection


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(content: bytes | None, name: str = "secret-name.wav", **fields: str) -> bytes:
    """A form as clients send it; without a recording where that is None."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if content is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def read_answer(connection: socket.socket) -> tuple[int, Any]:
    """Read what is answered on a connection, and close it."""
    with connection, http.client.HTTPResponse(connection) as response:
        response.begin()
        return response.status, json.loads(response.read())


@contextmanager
def serving(recognizer: Any, **settings: Any) -> Iterator[Running]:
    """Serve within, on a port that is free."""
    addresses: list[str] = []
    is_ready = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        is_ready.set()

    server = Server(recognizer, "tiny", ServeSettings(port=0, **settings), ready)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server.socket]})
    thread.start()
    try:
        assert is_ready.wait(60)
        running = Running(server, addresses[0])
        yield running
        for client in running.clients:
            client.close()
    finally:
        server.should_exit = True
        if isinstance(recognizer, Gated):
            recognizer.let()
        thread.join(60)
    assert not thread.is_alive()


def wav(samples: np.ndarray) -> bytes:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()
