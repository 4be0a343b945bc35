"""Recordings to text with a trained checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..audio import AudioError, is_silent, load_audio, pad_waveforms
from ..decoding import split_channel
from ..errors import UserError
from ..lengths import SAMPLE_RATE
from ..model.attention import choose_attention
from ..model.checkpointed import rebuild
from ..model.device import FROZEN_DTYPES, choose_device, choose_precision
from ..training.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

MAX_SECONDS = 30.0  # of what the model reads at once
SEARCH_SECONDS = 10.0  # a longer recording is cut at the quietest place in the last 10 s before the limit
MIN_SECONDS = 0.02  # half an alignment unit holds no speech


@dataclass(frozen=True)
class Transcription:
    """What was written down for one recording.

    Attributes:
        path: the file.
        text: the transcript; empty for silence, and where `error` says why there is none.
        seconds: of audio.
        error: one line, or None.
    """

    path: str
    text: str
    seconds: float
    error: str | None = None


class Recogniser:
    """A trained checkpoint with the models that it belongs to.

    Args:
        checkpoint: a file that `ta train` wrote; it names its models, which are loaded too.
        device: auto, cuda, cuda:N, mps or cpu.
        encoder, decoder: where its models lie now, if not where they lay in training.

    Raises:
        UserError: the checkpoint or its models cannot be read.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        encoder: str | None = None,
        decoder: str | None = None,
    ) -> None:
        where = choose_device(device)
        self._dtype = FROZEN_DTYPES[choose_precision("auto", where)]
        self.model = rebuild(load_checkpoint(checkpoint), str(checkpoint), self._dtype, encoder, decoder).to(where)
        choose_attention(self.model, "auto")

    def transcribe(self, audio: str | Path | np.ndarray, max_new_tokens: int = 400) -> str:
        """Write down one recording, of any length.

        Args:
            audio: a file, or float samples (S,), mono, 16 kHz.
            max_new_tokens: of each piece of at most 30 s.

        Raises:
            AudioError: it cannot be decoded, holds NaN or infinite samples, or is shorter than 20 ms.
        """
        waveform = audio if isinstance(audio, np.ndarray) else load_audio(audio)
        check_recording(waveform)
        return self.transcribe_batch([waveform], max_new_tokens=max_new_tokens)[0]

    @torch.inference_mode()
    def transcribe_batch(
        self, waveforms: Sequence[np.ndarray], batch_size: int = 8, max_new_tokens: int = 400
    ) -> list[str]:
        """Write down several recordings; each result is the one it has alone.

        Args:
            waveforms: float samples (S_i,), mono, 16 kHz.
            batch_size: pieces of at most 30 s that are read at once.
            max_new_tokens: of each piece.
        """
        pieces = [(i, piece) for i, waveform in enumerate(waveforms) for piece in split_long(waveform)]
        heard = [n for n, (_, piece) in enumerate(pieces) if not is_silent(piece)]
        heard.sort(key=lambda n: len(pieces[n][1]))
        written = [""] * len(pieces)
        device = self.model.device
        for start in range(0, len(heard), batch_size):
            chosen = heard[start : start + batch_size]
            batch, num_samples = pad_waveforms([pieces[n][1].astype(np.float32) for n in chosen])
            with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
                frames, lengths = self.model.encoder(batch.to(device), num_samples)
                texts = self.model.transcribe(frames, lengths, max_new_tokens)
            for n, text in zip(chosen, texts, strict=True):
                written[n] = text
        parts: list[list[str]] = [[] for _ in waveforms]
        for (i, _), text in zip(pieces, written, strict=True):
            parts[i].append(text)
        return [" ".join(filter(None, part)) for part in parts]


def check_recording(waveform: np.ndarray) -> None:
    """Refuse samples that cannot be transcribed; silence can: nothing was said.

    Raises:
        AudioError: non_finite or too_short.
        ValueError: not a one-dimensional array of floats.
    """
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"samples must be floats (S,), mono, 16 kHz, got {waveform.dtype} {waveform.shape}")
    if not np.isfinite(waveform).all():
        raise AudioError("non_finite", "holds NaN or infinite samples")
    if len(waveform) < MIN_SECONDS * SAMPLE_RATE:
        raise AudioError("too_short", f"{len(waveform) / SAMPLE_RATE:.3f} s is shorter than {MIN_SECONDS:g} s")


def split_long(waveform: np.ndarray) -> list[np.ndarray]:
    """Cut (S,) samples into pieces of at most 30 s, each at the quietest 0.1 s near its end."""
    limit, search, frame = (int(seconds * SAMPLE_RATE) for seconds in (MAX_SECONDS, SEARCH_SECONDS, 0.1))
    pieces = []
    while len(waveform) > limit:
        tail = waveform[limit - search : limit]
        energy = np.square(tail, dtype=np.float64).reshape(-1, frame).sum(axis=1)
        cut = limit - search + int(energy.argmin()) * frame + frame // 2
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform]


def transcribe_files(
    checkpoint: str,
    paths: Sequence[str],
    device: str = "auto",
    batch_size: int = 8,
    encoder: str | None = None,
    decoder: str | None = None,
) -> Iterator[Transcription]:
    """Transcribe files, in order, `batch_size` of them at a time.

    Yields:
        A `Transcription` for each file; one that cannot be used has an `error`, and the others go on.

    Raises:
        UserError: the checkpoint or its models cannot be read, or the memory is too small for `batch_size`.
    """
    recogniser = Recogniser(checkpoint, device, encoder, decoder)
    for start in range(0, len(paths), batch_size):
        read = [_read(path) for path in paths[start : start + batch_size]]
        waveforms = [waveform for waveform in read if isinstance(waveform, np.ndarray)]
        try:
            texts = iter(recogniser.transcribe_batch(waveforms, batch_size))
        except torch.OutOfMemoryError:
            raise UserError(f"the memory of the device is too small for batch_size={batch_size}; halve it.") from None
        for path, waveform in zip(paths[start : start + batch_size], read, strict=True):
            if isinstance(waveform, str):
                yield Transcription(path, "", 0.0, waveform)
            else:
                yield Transcription(path, next(texts), len(waveform) / SAMPLE_RATE)


def _read(path: str) -> np.ndarray | str:
    """Return a recording's samples, or why it cannot be used."""
    try:
        file, channel = split_channel(path)
        waveform = load_audio(file, channel=channel, tell=lambda kind, message: logger.warning("%s.", message))
        check_recording(waveform)
    except AudioError as error:
        return str(error)
    return waveform
