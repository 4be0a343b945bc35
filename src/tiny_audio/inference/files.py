"""Transcribe files: read them ahead, transcribe them together, and yield them one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import torch

from ..audio import AudioError, load_long_audio
from ..decoding import split_channel
from ..errors import UserError
from ..lengths import SAMPLE_RATE
from ..progress import Progress
from ..spooled import Samples
from .inputs import check_recording
from .transcribe import Decoding, Recognizer
from .transcription import Transcription

logger = logging.getLogger(__name__)

READ_AHEAD = 4  # batches of recordings
READ_AHEAD_SECONDS = 600.0  # of recordings, 38 MB; then no more are read ahead


def transcribe_files(
    checkpoint: str,
    paths: Sequence[str],
    device: str = "auto",
    batch_size: int = 8,
    encoder: str | None = None,
    decoder: str | None = None,
    decoding: Decoding | None = None,
    context: str = "",
) -> Iterator[Transcription]:
    """Transcribe files, in order; some batches are read at a time, so that pieces of similar length share a batch.

    `context` is what is known of all files: see `TypedContexts`.

    Yields:
        A `Transcription` for each file; a file that cannot be used has an `error`, and the others are transcribed.

    Raises:
        UserError: the checkpoint, its models or the context cannot be read, or the memory is too small for
            `batch_size`.
    """
    recognizer = Recognizer(checkpoint, device, encoder, decoder, decoding)
    recognizer.read_context(context)  # raises its error before anything is transcribed
    guard = "on: what repeats itself is tried again in halves" if recognizer.decoding.loop_guard else "off"
    pauses = "where it is quiet" if recognizer.activity is None else "in pauses that silero-vad finds"
    logger.info("Pieces of at most %.1f s, cut %s; loop guard %s.", recognizer.piece_seconds, pauses, guard)
    with closing(_Seconds(len(paths))) as progress:
        for some, read in _read_ahead(paths, READ_AHEAD * batch_size):
            waveforms = [waveform for waveform in read if not isinstance(waveform, str)]
            progress.begin(len(some), sum(map(len, waveforms)) / SAMPLE_RATE)
            try:
                options: dict[str, Any] = {"contexts": [context] * len(waveforms)}
                written = iter(recognizer.transcribe_segments(waveforms, batch_size, progress.advance, **options))
            except torch.OutOfMemoryError:
                raise UserError(
                    f"the memory of the device is too small for batch_size={batch_size}; halve it."
                ) from None
            progress.end()
            for path, waveform in zip(some, read, strict=True):
                if isinstance(waveform, str):
                    yield Transcription(path, (), 0.0, waveform)
                else:
                    yield Transcription(path, tuple(next(written)), len(waveform) / SAMPLE_RATE)


class _Seconds:
    """Progress in seconds of audio; the total is known for the recordings that were read, and guessed for the others.

    Silence is not transcribed, and retried pieces are transcribed twice; this is corrected when recordings are done.
    """

    def __init__(self, num_files: int) -> None:
        self.num_files, self.files, self.seconds = num_files, 0, 0.0
        self.bar = Progress("Transcribing", 0, "s of audio")

    def begin(self, files: int, seconds: float) -> None:
        """Start the next recordings, of `seconds` in all."""
        self.files += files
        self.seconds += seconds
        self.bar.total = round(self.seconds * self.num_files / self.files)

    def advance(self, seconds: float) -> None:
        """Count what was transcribed, at most the length of the recordings."""
        self.bar.advance(min(round(seconds), round(self.seconds) - self.bar.done))

    def end(self) -> None:
        """Count the recordings as done."""
        self.bar.advance(round(self.seconds) - self.bar.done)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def _read_ahead(paths: Sequence[str], most: int) -> Iterator[tuple[list[str], list[Samples | str]]]:
    """Read recordings, at most `most` at a time, and fewer if they are long; see `_read`."""
    some: list[str] = []
    read: list[Samples | str] = []
    seconds = 0.0
    for number, path in enumerate(paths, 1):
        some.append(path)
        read.append(found := _read(path))
        seconds += 0.0 if isinstance(found, str) else len(found) / SAMPLE_RATE
        if len(some) == most or seconds >= READ_AHEAD_SECONDS or number == len(paths):
            yield some, read
            some, read, seconds = [], [], 0.0


def _read(path: str) -> Samples | str:
    """Return a recording's samples, or why it cannot be used."""
    try:
        file, channel = split_channel(path)
        waveform = load_long_audio(file, channel=channel, tell=lambda kind, message: logger.warning("%s.", message))
        check_recording(waveform)
    except AudioError as error:
        return str(error)
    return waveform
