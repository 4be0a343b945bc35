"""The only thread that uses the model. It reads pieces of all waiting recordings, one piece of each in turn.

So a short recording never waits for the end of a long one, and recordings that arrive together share batches.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from ..inference import Recognizer, TextSegment
from ..training.memory import is_out_of_memory, release_memory

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0  # after which unused memory is returned to the system
Span = tuple[int, int]
Piece = tuple["Job", Span]


class Job:
    """A recording that was accepted.

    Args:
        waveform: (S,) float32, 16 kHz.
        spans: its pieces, in order.
        words: find where words were said.
        deliver: called by the worker's thread with the segments of each piece, in order; at the end with None, or with
            an error.
        context: what is known of it.
    """

    def __init__(
        self,
        waveform: np.ndarray,
        spans: Sequence[Span],
        words: bool,
        deliver: Callable[[list[TextSegment] | Exception | None], object],
        context: str = "",
    ) -> None:
        self.waveform, self.words, self.deliver, self.context = waveform, words, deliver, context
        self.waiting = deque(spans)
        self.left = len(spans)  # not delivered yet
        self.is_over = False  # whether it failed, or its client disconnected

    def give(self, segments: list[TextSegment]) -> None:
        """Deliver a piece."""
        if not self.is_over:
            self.left -= 1
            self.deliver(segments)
            if not self.left:
                self.finish(None)

    def finish(self, error: Exception | None) -> None:
        """Report the end, or the error that ended it."""
        if not self.is_over:
            self.is_over = True
            self.deliver(error)


class Worker:
    """Reads jobs until it is closed.

    Args:
        recognizer: used by this worker only.
        batch_size: pieces at once.
        observe: called with the number of pieces of every batch.
    """

    def __init__(self, recognizer: Recognizer, batch_size: int, observe: Callable[[int], None]) -> None:
        self.recognizer, self.batch_size, self._observe = recognizer, batch_size, observe
        self.can_place_words = recognizer.model.ctc is not None
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="recognizer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Accept a job; a job of silence is done at once."""
        if not job.waiting:
            job.finish(None)
            return
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Drop the rest of a job whose client has disconnected."""
        with self._changed:
            job.is_over = True
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """Finish the accepted jobs, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while pieces := self._take():
            self._observe(len(pieces))
            self._read(pieces)
            del pieces  # the recordings are not kept while there is no work

    def _take(self) -> list[Piece]:
        """Wait for work, and return the next batch; it is empty when the worker is closed."""
        with self._changed:
            idle = False
            while True:
                taken: list[Piece] = []
                while self._jobs and len(taken) < self.batch_size:
                    job = self._jobs.popleft()
                    if job.is_over:
                        continue
                    taken.append((job, job.waiting.popleft()))
                    if job.waiting:
                        self._jobs.append(job)
                if taken or self._closing:
                    return taken
                if not self._changed.wait(None if idle else IDLE_SECONDS):
                    release_memory(self.recognizer.model.device)
                    idle = True

    def _read(self, pieces: Sequence[Piece]) -> None:
        """Read a batch; if that fails, in halves, so that a large batch or a bad recording does not fail the others."""
        words = self.can_place_words and any(job.words for job, _ in pieces)
        try:
            found = self.recognizer.transcribe_pieces(
                [(job.waveform, span) for job, span in pieces],
                self.batch_size,
                word_timestamps=words,
                contexts=[job.context for job, _ in pieces],
            )
        except Exception as error:
            found = []
            if len(pieces) == 1:
                logger.exception("A recording could not be transcribed.")
                pieces[0][0].finish(error.with_traceback(None))
            elif is_out_of_memory(error):
                logger.warning("The device's memory is too small for %d pieces at once: lower batch_size", len(pieces))
        for (job, _), segments in zip(pieces, found, strict=False):
            job.give(segments)
        if not found and len(pieces) > 1:  # outside of `except`, whose traceback keeps memory that must be released
            release_memory(self.recognizer.model.device)
            self._read(pieces[: len(pieces) // 2])
            self._read(pieces[len(pieces) // 2 :])
