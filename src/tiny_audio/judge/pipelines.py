"""Other speech recognizers, run by transformers: Whisper, wav2vec2, GLM-ASR, exported folders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..audio import AudioError
from ..config import Config
from ..errors import UserError
from ..evaluation.score import NO_SPEECH, Result, Score, Transcript, blank_rows, note_symptoms, score
from ..evaluation.scoring import is_english
from ..inference.apart import Apart, kind_of
from ..inference.inputs import check_recording
from ..inference.sets import Sets
from ..lengths import MAX_CLIP_SAMPLES, SAMPLE_RATE
from ..model.device import FROZEN_DTYPES, choose_device, choose_precision
from ..progress import Progress

logger = logging.getLogger(__name__)

READ_AT_ONCE = 16  # batches that are sorted by length together


def _not_about_limits(record: logging.LogRecord) -> bool:
    """Drop a message: a pipeline sets two limits of length, and transformers logs for every batch which one holds."""
    return "`max_length`" not in record.getMessage()


class ModelRecognizer:
    """A speech recognizer of the Hub or of a folder, decoding greedily.

    Args:
        name: a folder or a Hub id.
        config: gives the device, the precision, the batch size and the limit of tokens.
        language: for a multilingual Whisper; None: the model detects it.

    Raises:
        UserError: transformers cannot load it as a speech recognizer.
    """

    def __init__(self, name: str, config: Config, language: str | None) -> None:
        from transformers import AutoConfig, AutoProcessor

        self.device = choose_device(config.hardware.device)
        self.dtype = FROZEN_DTYPES[choose_precision(config.hardware.mixed_precision, self.device)]
        self.batch_size, self.max_new_tokens = config.training.eval_batch_size, config.training.max_new_tokens
        self.language = language
        try:
            kind = AutoConfig.from_pretrained(name).model_type
            processor = AutoProcessor.from_pretrained(name) if kind != "whisper" else None
            self.processor = processor if hasattr(processor, "apply_transcription_request") else None
            self.model: Any = self._load(name, kind)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{name} is not a speech recognizer that transformers can load: {reason}") from None
        logger.info("%s: %s, %s on %s", name, kind, str(self.dtype).removeprefix("torch."), self.device)

    def _load(self, name: str, kind: str) -> Any:
        import transformers

        if self.processor is not None:  # a language model with an instruction: pipelines do not support it
            return transformers.AutoModelForMultimodalLM.from_pretrained(name, dtype=self.dtype).to(self.device).eval()
        # A folder may name a plain tokenizer, which cannot remove Whisper's timestamps.
        tokenizer = transformers.WhisperTokenizer.from_pretrained(name) if kind == "whisper" else None
        where = {"device": self.device, "dtype": self.dtype}
        pipeline: Any = transformers.pipeline
        loaded = pipeline("automatic-speech-recognition", model=name, tokenizer=tokenizer, **where)
        if getattr(loaded, "tokenizer", None) is None:
            raise ValueError("it has no tokenizer")
        logging.getLogger("transformers.generation.utils").addFilter(_not_about_limits)
        if loaded.tokenizer.pad_token is None:  # without, a pipeline reads one clip at a time
            loaded.tokenizer.pad_token = loaded.tokenizer.eos_token
        return loaded

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Transcribe a batch of recordings (S_i,), float32, 16 kHz; those longer than 30 s are read one by one."""
        if self.processor is not None:
            return self._ask(waveforms)
        texts: dict[int, str] = {}
        # Whisper reads longer ones piece by piece.
        short = [i for i, waveform in enumerate(waveforms) if len(waveform) <= MAX_CLIP_SAMPLES]
        if short:
            found = self.model(
                [self._input(waveforms[i]) for i in short], batch_size=len(short), **self._options(long=False)
            )
            texts |= {i: one["text"] for i, one in zip(short, found, strict=True)}
        for i, waveform in enumerate(waveforms):
            if i not in texts:
                texts[i] = self.model(self._input(waveform), **self._options(long=True))["text"]
        return [texts[i].strip() for i in range(len(waveforms))]

    @staticmethod
    def _input(waveform: np.ndarray) -> dict[str, Any]:
        return {"raw": waveform, "sampling_rate": SAMPLE_RATE}

    def _options(self, long: bool) -> dict[str, Any]:
        if not self.model.type.startswith("seq2seq"):
            return {}
        options: dict[str, Any] = {"num_beams": 1, "max_new_tokens": self.max_new_tokens}
        if self.model.type != "seq2seq_whisper":
            return {"generate_kwargs": options}
        if getattr(self.model.model.generation_config, "is_multilingual", False):
            options |= {"task": "transcribe", **({"language": self.language} if self.language else {})}
        return {"generate_kwargs": options, **({"return_timestamps": True} if long else {})}

    def _ask(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        assert self.processor is not None
        inputs = self.processor.apply_transcription_request(list(waveforms)).to(self.device)
        inputs = inputs.to(self.dtype)
        written = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1)
        new = written[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


def judge_model(name: str, title: str, sets: Sets) -> Result:
    """Transcribe and score all clips of the sets with a recognizer that transformers runs.

    Raises:
        UserError: it cannot be loaded, or the device's memory is too small.
    """
    texts = [text for apart in sets.apart for text in apart.texts]
    named = {entry.language for entry in sets.config.data.eval_datasets} - {None}
    language = named.pop() if len(named) == 1 else "en" if not named and is_english(texts) else None
    recognizer = ModelRecognizer(name, sets.config, language)
    scores: dict[str, Score] = {}
    transcripts: list[Transcript] = []
    progress = Progress("Evaluating", sets.num_clips, "clips", quiet=False)
    try:
        for source, (rows, kinds, first, apart) in zip(sets.sources, _clips(sets), strict=True):
            seconds = _write(rows, kinds, first, sets, recognizer, progress)
            done = note_symptoms(rows)
            audio = sum(row.seconds or 0.0 for row in done if row.hypothesis is not None)
            scores[source.name] = score(done, None, apart.left_out, sets.rules, audio, seconds)
            transcripts += done
    except torch.OutOfMemoryError:
        raise UserError(f"the device's memory is too small for batch_size={recognizer.batch_size}; halve it.") from None
    finally:
        progress.close()
    result = Result(Path(name), title, None, scores, transcripts)
    logger.info("%s: WER %.1f%% (%s)", title, 100 * result.total.words.rate, sets.rules[0].name)
    return result


def _clips(sets: Sets) -> Iterator[tuple[list[Transcript], list[tuple[str, ...]], int, Apart]]:
    """Yield for each set its rows, the notes that some rows have already, and the number of its first clip."""
    first = 0
    for source, apart in zip(sets.sources, sets.apart, strict=True):
        rows = [row._replace(reference=text) for row, text in zip(blank_rows(source), apart.texts, strict=True)]
        speakers = apart.table.speakers
        for number, text in apart.rows:
            speaker = None if speakers is None else speakers[number] or None
            rows.append(Transcript(source.name, apart.table.names[number], text, None, speaker=speaker))
        kinds: list[tuple[str, ...]] = [()] * len(source)
        kinds += [(NO_SPEECH,) * (kind_of(row) == NO_SPEECH) for row in rows[len(source) :]]
        yield rows, kinds, first, apart
        first += len(rows)


def _write(
    rows: list[Transcript],
    kinds: Sequence[tuple[str, ...]],
    first: int,
    sets: Sets,
    recognizer: ModelRecognizer,
    progress: Progress,
) -> float:
    """Fill in the transcripts of the rows, in place, clips of similar length at once; return the seconds it took."""
    taken = 0.0
    window = READ_AT_ONCE * recognizer.batch_size
    order = sorted(range(len(rows)), key=lambda i: rows[i].seconds or 0.0)
    for start in range(0, len(order), window):
        waveforms: dict[int, np.ndarray] = {}
        for i in order[start : start + window]:
            try:
                waveform = sets.read(first + i).astype(np.float32)
                check_recording(waveform)
                waveforms[i] = waveform
            except AudioError as error:
                rows[i] = rows[i]._replace(notes=(error.reason,))
                progress.advance(1)
        chosen = sorted(waveforms, key=lambda i: len(waveforms[i]))
        for place in range(0, len(chosen), recognizer.batch_size):
            batch = chosen[place : place + recognizer.batch_size]
            begun = perf_counter()
            texts = recognizer.transcribe([waveforms[i] for i in batch])
            taken += perf_counter() - begun
            for i, text in zip(batch, texts, strict=True):
                seconds = round(len(waveforms[i]) / SAMPLE_RATE, 3)
                rows[i] = rows[i]._replace(hypothesis=text, notes=kinds[i], seconds=seconds)
            progress.advance(len(batch))
    return taken
