"""Turn an uploaded recording into its transcript: queue it, decode it, and pass it to the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import BinaryIO, NamedTuple

import numpy as np
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.types import Receive

from ..audio import AudioError, load_audio
from ..errors import UserError
from ..inference import Recognizer, TextSegment, Transcription
from ..inference.inputs import MIN_SECONDS, check_recording
from ..lengths import SAMPLE_RATE
from ..training.memory import is_out_of_memory
from .door import Gone
from .errors import ApiError, busy, closing, internal, out_of_memory
from .metrics import Metrics
from .request import read_form
from .settings import ServeSettings
from .worker import Job, Span, Worker

DECODERS = 2  # recordings that are decoded at once
AHEAD = 2  # times the batch: decoded recordings that are kept in memory
MAX_UPLOADS = 256  # at once
MESSAGES = {
    "decode_error": "The file is not a recording that can be decoded: it is damaged, or not audio (wav, flac, mp3, "
    "m4a, ogg, opus, webm, ... are read).",
    "non_finite": "The recording holds samples that are NaN or infinite.",
    "too_short": f"The recording is shorter than {MIN_SECONDS:g} s.",
}

News = list[TextSegment] | Exception | None


class Decoded(NamedTuple):
    """A recording, decoded and cut.

    Attributes:
        waveform: (S,) float32, 16 kHz.
        spans: its pieces.
        remarks: warnings about a recording that can be used.
    """

    waveform: np.ndarray
    spans: Sequence[Span]
    remarks: Sequence[str]

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.waveform) / SAMPLE_RATE


class Progressing:
    """A recording that is being transcribed.

    Attributes:
        remarks: see `Decoded`.
    """

    def __init__(self, decoded: Decoded, news: asyncio.Queue[News]) -> None:
        self.remarks = decoded.remarks
        self._seconds, self._news = decoded.seconds, news
        self._segments: list[TextSegment] = []

    async def pieces(self) -> AsyncIterator[list[TextSegment]]:
        """Yield the segments of each piece when it is done.

        Raises:
            ApiError: the transcription failed.
        """
        while (news := await self._news.get()) is not None:
            if isinstance(news, Exception):
                raise out_of_memory() if is_out_of_memory(news) else internal()
            self._segments += news
            yield news

    @property
    def transcription(self) -> Transcription:
        """Return what is transcribed so far."""
        return Transcription("", tuple(self._segments), self._seconds)


class Service:
    """A model that is served.

    Args:
        recognizer: the model.
        settings: the limits.
    """

    def __init__(self, recognizer: Recognizer, settings: ServeSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.is_closing = False
        self._recognizer = recognizer
        self.worker = Worker(recognizer, settings.batch_size, self.metrics.batch.observe)
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self._room = asyncio.Semaphore(AHEAD * settings.batch_size)
        self._uploads: set[asyncio.Timeout] = set()
        self._accepted = 0

    def begin_closing(self) -> None:
        """Accept no more recordings, and do not wait for those that are still being uploaded."""
        self.is_closing = True
        for deadline in self._uploads:
            if not deadline.expired():
                deadline.reschedule(0)

    def close(self) -> None:
        """Finish the accepted recordings, and stop."""
        self.worker.close()
        self._decoders.shutdown()

    def check_room(self) -> None:
        """Refuse a recording if there is no place in the queue for it.

        Raises:
            ApiError: there is none, or the server is shutting down.
        """
        if self.is_closing:
            raise closing()
        if self._accepted >= self.settings.queue or len(self._uploads) >= MAX_UPLOADS:
            raise busy("The server's queue is full; try again.")

    async def receive(self, request: Request) -> FormData:
        """Read an upload: see `read_form`.

        Raises:
            ApiError: see `read_form` and `check_room`.
            Gone: the client disconnected.
        """
        self.check_room()
        deadline = asyncio.timeout(self.settings.timeout_seconds)
        self._uploads.add(deadline)
        self.metrics.uploads.inc()
        try:
            return await read_form(request, self.settings, deadline)
        except ApiError as error:
            if self.is_closing and error.status == HTTPStatus.REQUEST_TIMEOUT:
                raise closing() from None
            raise
        finally:
            self._uploads.discard(deadline)
            self.metrics.uploads.dec()

    @asynccontextmanager
    async def transcribing(
        self, file: BinaryIO, words: bool, receive: Receive, context: str = ""
    ) -> AsyncIterator[Progressing]:
        """Accept a recording; within this context it is transcribed.

        Args:
            file: the recording.
            words: find where words were said, if the model can.
            receive: reports when the client disconnects.
            context: what is known of the recording.

        Raises:
            ApiError: it or its context cannot be read, there is no place for it, or it takes too long.
            Gone: the client disconnected.
        """
        try:
            self._recognizer.read_context(context)
        except UserError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"prompt: {error}", "invalid_value", "prompt") from None
        self.check_room()
        self._accepted += 1
        self.metrics.queue.set(self._accepted)
        try:
            async with asyncio.timeout(self.settings.timeout_seconds) as deadline, _expiring(deadline, receive) as gone:
                async with self._room:
                    loop, news = asyncio.get_running_loop(), asyncio.Queue[News]()
                    decoded = await loop.run_in_executor(self._decoders, self._decode, file)

                    def deliver(item: News) -> None:
                        loop.call_soon_threadsafe(news.put_nowait, item)

                    job = Job(*decoded[:2], words, deliver, context)
                    self.worker.submit(job)
                    try:
                        yield Progressing(decoded, news)
                    finally:
                        self.worker.drop(job)
                self.metrics.audio.inc(decoded.seconds)
        except TimeoutError:
            if gone.is_set():
                raise Gone from None
            seconds = f"{self.settings.timeout_seconds:g} s"
            raise ApiError(
                HTTPStatus.GATEWAY_TIMEOUT, f"The transcript was not done within {seconds}.", "timeout"
            ) from None
        finally:
            self._accepted -= 1
            self.metrics.queue.set(self._accepted)

    def _decode(self, file: BinaryIO) -> Decoded:
        """Decode a file, and cut it into pieces.

        Raises:
            ApiError: it cannot be used.
        """
        remarks: list[str] = []
        try:
            waveform = load_audio(
                file.read(),
                max_seconds=self.settings.max_seconds,
                tell=lambda kind, message: remarks.append(message.partition(": ")[2]),
            )
            check_recording(waveform)
        except AudioError as error:
            limit = f"The recording is longer than {self.settings.max_seconds:g} s, this server's limit."
            message = limit if error.reason == "too_long" else MESSAGES[error.reason]
            raise ApiError(HTTPStatus.BAD_REQUEST, message, f"audio_{error.reason}", "file") from None
        return Decoded(waveform, self._recognizer.spans(waveform), remarks)


@asynccontextmanager
async def _expiring(deadline: asyncio.Timeout, receive: Receive) -> AsyncIterator[asyncio.Event]:
    """Within this context, let a deadline expire when the client disconnects, and set the event."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not deadline.expired():
            gone.set()
            deadline.reschedule(0)

    watcher = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        watcher.cancel()
