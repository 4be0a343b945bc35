"""Transcribe recordings with a trained checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from ..audio import AudioError, pad_waveforms
from ..config import SearchChanges
from ..errors import UserError
from ..lengths import MAX_CLIP_SECONDS, SAMPLE_RATE
from ..model.alignment import AlignedWord
from ..model.attention import choose_attention
from ..model.checkpointed import choose_search, rebuild
from ..model.device import FROZEN_DTYPES, choose_device, choose_precision
from ..model.speech_llm import SpeechLLM, Written
from ..spooled import Samples
from .activity import open_activity
from .contexts import TypedContexts, one_each
from .inputs import Recording, check_recording, to_waveform
from .opened import open_model
from .spans import find_spans, halve
from .transcription import TextSegment, Transcription, join

MIN_PIECE_SECONDS = 1.5  # even if the training clips were shorter: shorter pieces would cut words
MIN_HALF_SECONDS = 1.0  # of the halves of a piece whose transcript looped or was cut off
MAX_RETRIES = 3  # times that it is halved, to eighths of a piece


@dataclass(frozen=True)
class Decoding:
    """How a recording is transcribed.

    Attributes:
        piece_seconds: the longest piece that the model reads at once; None: as in the checkpoint, and longer if there
            is no pause, see `piece_seconds_of`.
        max_new_tokens: of each piece.
        loop_guard: end a transcript that loops. If one looped or reached the limit of tokens, try its piece in halves.
        silence_seconds: silences of at least this length are left out, and shorter ones at the edges of pieces; 0: only
            digital silence.
        word_timestamps: find where each word was said; the checkpoint must have a CTC head.
        beams, ctc_weight, prior_weight, max_nats: see `config.SearchConfig`; None: as in the checkpoint. With 2 beams
            or more it must have a CTC head.
        cuda_graph: each step of decoding is one CUDA graph, see `Decoder.use_cuda_graph`; False: as the model is set.
        vad: cut in pauses that a voice-activity model finds; False: in quiet places; None: with the model if the extra
            `vad` is installed.
    """

    piece_seconds: float | None = None
    max_new_tokens: int = 400
    loop_guard: bool = True
    silence_seconds: float = 2.0
    word_timestamps: bool = False
    beams: int | None = None
    ctc_weight: float | None = None
    vad: bool | None = None
    prior_weight: float | None = None
    max_nats: float | None = None
    cuda_graph: bool = False

    @property
    def search(self) -> SearchChanges:
        """How the search differs from the checkpoint's."""
        return SearchChanges(self.beams, self.ctc_weight, self.prior_weight, self.max_nats)


def piece_seconds_of(saved: dict[str, Any]) -> tuple[float, float]:
    """Return the usual and the longest length of pieces: as most clips in training, and as the longest one.

    A model has rarely read longer pieces: it loops there, or leaves out words. If a checkpoint does not record the
    lengths, the longest piece is the longest clip that was allowed.
    """
    known = saved.get("clip_seconds") or dict.fromkeys(("p95", "max"), saved["config"]["data"]["max_audio_length"])
    usual, longest = (
        min(max(float(known.get(name, known["p95"])), MIN_PIECE_SECONDS), float(MAX_CLIP_SECONDS))
        for name in ("p95", "max")
    )
    return usual, max(usual, longest)


class Recognizer:
    """A trained checkpoint with its models.

    Attributes:
        read_context: converts a context to its tokens.

    Args:
        checkpoint: a file that `ta train` wrote; the models that it names are loaded too. Or a run's folder, an
            exported folder, or one on the Hub: see `open_model`.
        device: auto, cuda, cuda:N, mps or cpu.
        encoder, decoder: where its models are now, if they have moved since training.
        decoding: lengths and limits.

    Raises:
        UserError: the checkpoint or its models cannot be read.
    """

    _source: tuple[str, str | None, str | None] | None = None  # checkpoint, encoder, decoder

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        encoder: str | None = None,
        decoder: str | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        where, opened = choose_device(device), open_model(checkpoint)
        dtype = FROZEN_DTYPES[choose_precision("auto", where)]
        parts = encoder or opened.encoder, decoder or opened.decoder
        model = rebuild(opened.saved, opened.path, dtype, *parts).to(where)
        choose_attention(model, "auto")
        self._set(model, dtype, opened.saved, decoding)
        self._source = str(checkpoint), encoder, decoder

    def push_to_hub(
        self, repo: str, private: bool = False, report: str | Path | None = None, license: str | None = None
    ) -> str:
        """Upload the model to the Hugging Face Hub, with a card, as `ta push` does.

        Args:
            repo: `user/name`; created if it does not exist.
            private: only its owner, and users with permission, can see it.
            report: folder of `ta eval report=`, for the figures; None: `eval.json` in the run's folder, if it exists.
            license: as the Hub spells it; None: what the licenses of models and corpora allow.

        Returns:
            The address of its page.

        Raises:
            UserError: there is no token or no right, the repository holds something else, the Hub cannot be reached,
                or the model was not opened from a file.
        """
        from ..publish.push import packed, upload  # it imports this package

        if self._source is None:
            raise UserError(
                f"repo={repo}: open the model with load_model to upload it; this one was not opened from a file."
            )
        checkpoint, encoder, decoder = self._source
        with packed(checkpoint, repo, report, license, encoder, decoder) as parcel:
            return upload(parcel, repo, private)

    @classmethod
    def of(
        cls, model: SpeechLLM, dtype: torch.dtype, saved: dict[str, Any], decoding: Decoding | None = None
    ) -> Recognizer:
        """Make a recognizer from a loaded model, its precision `dtype`, and the checkpoint that it was loaded from."""
        made = cls.__new__(cls)
        made._set(model, dtype, saved, decoding)
        return made

    def _set(self, model: SpeechLLM, dtype: torch.dtype, saved: dict[str, Any], decoding: Decoding | None) -> None:
        self.model, self._dtype, self.decoding = model, dtype, decoding or Decoding()
        usual, longest = piece_seconds_of(saved)
        self.piece_seconds = self.decoding.piece_seconds or usual
        self.longest_seconds = self.decoding.piece_seconds or longest
        self.activity = open_activity(self.decoding.vad)
        if self.decoding.word_timestamps:
            model.check_alignable()
        choose_search(model, self.decoding.search)
        if self.decoding.cuda_graph:
            model.decoder.use_cuda_graph(True)
        self.read_context = TypedContexts(model, saved)

    @overload
    def transcribe(
        self,
        audio: list[Recording],
        sampling_rate: int | None = ...,
        *,
        word_timestamps: bool = ...,
        batch_size: int = ...,
        context: str | Sequence[str] = ...,
    ) -> list[Transcription]: ...

    @overload
    def transcribe(
        self,
        audio: Recording,
        sampling_rate: int | None = ...,
        *,
        word_timestamps: bool = ...,
        batch_size: int = ...,
        context: str = ...,
    ) -> Transcription: ...

    def transcribe(
        self,
        audio: Recording | list[Recording],
        sampling_rate: int | None = None,
        *,
        word_timestamps: bool = False,
        batch_size: int = 8,
        context: str | Sequence[str] = "",
    ) -> Transcription | list[Transcription]:
        """Transcribe a recording of any length, or a list of them.

        Args:
            audio: see `to_waveform`: a path, bytes, a file object, an array or tensor, a dict; or a list of these.
            sampling_rate: of arrays and tensors, in Hz; None: 16,000.
            word_timestamps: also find where each word was said.
            batch_size: pieces that are read at once.
            context: what is known of the recording, such as names: see `TypedContexts`; for a list one for all, or one
                for each.

        Raises:
            AudioError: it cannot be decoded, holds NaN or infinite samples, or is shorter than 20 ms. In a list, the
                error becomes the `error` of its transcription, and the others are transcribed.
            TypeError, ValueError: it is not a recording.
            UserError: words are asked for, and the checkpoint has no CTC head; or a context cannot be read.
        """
        contexts = one_each(context, len(audio) if isinstance(audio, list) else None)
        alone = not isinstance(audio, list)
        names: list[str] = []
        read: list[Samples | str] = []
        for one in audio if isinstance(audio, list) else [audio]:
            names.append(str(one) if isinstance(one, str | Path) else "")
            try:
                waveform = to_waveform(one, sampling_rate)
                check_recording(waveform)
                read.append(waveform)
            except AudioError as error:
                if alone:
                    raise
                read.append(str(error))
        usable = [(one, known) for one, known in zip(read, contexts, strict=True) if not isinstance(one, str)]
        waveforms, contexts = [one for one, _ in usable], [known for _, known in usable]
        options: dict[str, Any] = {"word_timestamps": word_timestamps, "contexts": contexts}
        written = iter(self.transcribe_segments(waveforms, batch_size, **options))
        made = [
            Transcription(name, (), 0.0, found)
            if isinstance(found, str)
            else Transcription(name, tuple(next(written)), len(found) / SAMPLE_RATE)
            for name, found in zip(names, read, strict=True)
        ]
        return made[0] if alone else made

    def transcribe_batch(self, waveforms: Sequence[Samples], batch_size: int = 8) -> list[str]:
        """Return the text of `transcribe_segments`, one line for each recording."""
        return [join(segments) for segments in self.transcribe_segments(waveforms, batch_size)]

    def transcribe_segments(
        self,
        waveforms: Sequence[Samples],
        batch_size: int = 8,
        advance: Callable[[float], None] = lambda seconds: None,
        word_timestamps: bool = False,
        contexts: Sequence[str] = (),
    ) -> list[list[TextSegment]]:
        """Transcribe several recordings, piece by piece; the result of each does not depend on the others.

        Args:
            waveforms: float samples (S_i,), mono, 16 kHz.
            batch_size: pieces that are read at once.
            advance: called after each batch with the seconds of the pieces that were transcribed.
            word_timestamps: find where words were said, even if `decoding` does not ask for it.
            contexts: of each recording, for all of its pieces; empty: no recording has one.

        Returns:
            The segments of each recording, in order.

        Raises:
            UserError: words are asked for, and the checkpoint has no CTC head; or a context cannot be read.
        """
        spans = [self.spans(waveform) for waveform in waveforms]
        pieces = [(waveform, span) for waveform, own in zip(waveforms, spans, strict=True) for span in own]
        known = [context for context, own in zip(contexts, spans, strict=True) for _ in own] if contexts else []
        written = iter(self.transcribe_pieces(pieces, batch_size, advance, word_timestamps, known))
        return [[segment for _ in own for segment in next(written)] for own in spans]

    def spans(self, waveform: Samples) -> list[tuple[int, int]]:
        """Return the pieces (start, stop), in samples, of a recording (S,) to read; none for silence."""
        limits = self.piece_seconds, self.longest_seconds
        return find_spans(waveform, self.decoding.silence_seconds, *limits, self.activity)

    def transcribe_pieces(
        self,
        pieces: Sequence[tuple[Samples, tuple[int, int]]],
        batch_size: int = 8,
        advance: Callable[[float], None] = lambda seconds: None,
        word_timestamps: bool = False,
        contexts: Sequence[str] = (),
    ) -> list[list[TextSegment]]:
        """Transcribe pieces of recordings: see `transcribe_segments`.

        Args:
            pieces: recordings (S_i,), each with one of its `spans`.
            contexts: of each piece.

        Returns:
            The segments of each piece, in order: one, or several if it was tried again in halves.
        """
        decoding = self.decoding
        if word_timestamps:
            decoding = replace(decoding, word_timestamps=True)
            self.model.check_alignable()
        read = {context: torch.tensor(self.read_context(context), dtype=torch.int64) for context in {*contexts, ""}}
        known = [read[context] for context in contexts or [""] * len(pieces)]
        done: list[list[TextSegment]] = [[] for _ in pieces]
        todo = [(i, span) for i, (_, span) in enumerate(pieces)]
        for attempt in range(MAX_RETRIES + 1):
            some = [(pieces[i][0], span) for i, span in todo]
            written = self._write(some, [known[i] for i, _ in todo], decoding, batch_size, advance)
            again = []
            for (i, (start, stop)), (found, words) in zip(todo, written, strict=True):
                ran_away = found.looped or found.cut_off
                long = stop - start >= 3 * MIN_HALF_SECONDS * SAMPLE_RATE  # the cut is in the middle third
                if ran_away and decoding.loop_guard and long and attempt < MAX_RETRIES:
                    again += [(i, half) for half in halve(pieces[i][0], start, stop)]
                    continue
                unplaced = decoding.word_timestamps and words is None
                true = {"loop": found.looped, "limit": found.cut_off, "retried": attempt > 0, "unplaced": unplaced}
                flags = tuple(flag for flag, is_true in true.items() if is_true)
                segment = TextSegment(start / SAMPLE_RATE, stop / SAMPLE_RATE, found.text, flags)
                done[i].append(segment if words is None else segment.with_words(words))
            todo = again
        return [sorted(segments, key=lambda segment: segment.start) for segments in done]

    @torch.inference_mode()
    def _write(
        self,
        pieces: Sequence[tuple[Samples, tuple[int, int]]],
        contexts: Sequence[torch.Tensor],
        decoding: Decoding,
        batch_size: int,
        advance: Callable[[float], None],
    ) -> list[tuple[Written, list[AlignedWord] | None]]:
        """Transcribe pieces, those of similar length together; find their words if that is asked for."""
        order = sorted(range(len(pieces)), key=lambda n: pieces[n][1][1] - pieces[n][1][0])
        written: dict[int, tuple[Written, list[AlignedWord] | None]] = {}
        device = self.model.device
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            samples = [pieces[n][0][slice(*pieces[n][1])].astype(np.float32) for n in chosen]
            batch, num_samples = pad_waveforms(samples)
            with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
                frames, lengths = self.model.encoder(batch.to(device), num_samples)
                known = [contexts[n] for n in chosen]
                found = self.model.write(frames, lengths, decoding.max_new_tokens, decoding.loop_guard, known)
                words: Sequence[list[AlignedWord] | None] = [None] * len(found)
                if decoding.word_timestamps:
                    words = self.model.align(frames, num_samples, [one.text for one in found])
            written |= zip(chosen, zip(found, words, strict=True), strict=True)
            advance(sum(map(len, samples)) / SAMPLE_RATE)
        return [written[n] for n in range(len(pieces))]
