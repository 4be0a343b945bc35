"""Transcripts as the corpus has them, and the clips that an evaluation in training leaves out.

Those clips are transcribed as `ta infer` would do it and scored, or counted by reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import AudioError, load_audio
from ..config import Config, DatasetConfig
from ..data.contexts import clean_contexts
from ..data.entries import open_table, unique_names
from ..data.index import index_table
from ..data.sources import Source
from ..data.tables import Table
from ..evaluation.score import LIMIT, NO_SPEECH, PIECES, Transcript
from ..evaluation.symptoms import LOOP
from ..lengths import SAMPLE_RATE
from ..text import CLEANERS, clean_transcript
from .inputs import check_recording
from .transcribe import Recognizer
from .transcription import join


@dataclass
class Apart:
    """What the corpus of one set holds besides the indexed set.

    Attributes:
        table: of the corpus.
        texts: the transcripts of the set's clips as the corpus has them: scoring rules need `$20` and `Mr.`.
        rows: (row of the table, transcript) of the left-out clips that are scored: too long or too short to train on,
            or without speech, with an empty transcript.
        left_out: number of the others, by reason.
        contexts: of each of the rows; empty: there is none.
    """

    table: Table
    texts: list[str]
    rows: list[tuple[int, str]]
    left_out: Counter[str]
    contexts: Sequence[str]


def open_apart(sources: Sequence[Source], config: Config) -> list[Apart]:
    """Find the clips that were left out of each evaluation set; if a part of a set is evaluated, an equal share."""
    entries = config.data.eval_datasets
    by_name = dict(zip(unique_names(entries), entries, strict=True))
    return [_open(source, by_name[source.name], config) for source in sources]


def _open(source: Source, entry: DatasetConfig, config: Config) -> Apart:
    data, cache_dir, seed = config.data, Path(config.paths.cache_dir), config.training.seed
    table = open_table(entry, data, cache_dir, source.asked, Path(config.paths.data_dir), seed)  # as `source` was
    index = index_table(entry.name, table, data, cache_dir, evaluation=True) if source.skipped else None
    reasons = {} if index is None else {row: why for row, why, _ in index.left_out}
    prepare = CLEANERS.get(entry.name)
    wanted = {row: place for place, row in enumerate(source.table_rows.tolist())}
    texts = [""] * len(source)
    rows, left_out = [], Counter[str]()
    for row, raw in enumerate(table.texts):
        prepared = prepare(raw) if prepare and raw else raw
        if row in wanted:
            texts[wanted[row]] = prepared or ""
        if row not in reasons:
            continue
        # A corpus's own cleaner drops rows whose transcript is incomplete, and a row may have no transcript.
        if prepared is None or (not prepared and raw):
            left_out["no_transcript"] += 1
        elif reasons[row] in ("too_long", "too_short", "empty_text"):
            rows.append((row, prepared))
        else:
            left_out[reasons[row]] += 1
    if index is not None and len(source) < len(index.rows):  # `data.max_eval_samples`
        count = math.ceil(len(rows) * len(source) / len(index.rows))
        chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
        rows = [rows[i] for i in sorted(chosen.tolist())]
    numbers = [number for number, _ in rows]
    contexts = clean_contexts(table.contexts, numbers, data, source.name) or [""] * len(rows)
    return Apart(table, texts, rows, left_out, contexts)


def read_apart(apart: Apart, source: Source) -> Iterator[tuple[Transcript, np.ndarray | None]]:
    """Yield the clips that were left out, and their samples (S,); None if a note says why they cannot be read."""
    for number, text in apart.rows:
        speaker = None if apart.table.speakers is None else apart.table.speakers[number] or None
        row = Transcript(source.name, apart.table.names[number], text, None, speaker=speaker)
        try:
            waveform = load_audio(apart.table.recordings[number], channel=source.channel)
            check_recording(waveform)
            yield row._replace(seconds=round(len(waveform) / SAMPLE_RATE, 3)), waveform
        except AudioError as error:
            yield row._replace(notes=(error.reason,)), None


def judge(apart: Apart, source: Source, recognizer: Recognizer, batch_size: int) -> Iterator[Transcript]:
    """Transcribe the clips that were left out."""
    for (row, waveform), context in zip(read_apart(apart, source), apart.contexts, strict=True):
        yield row if waveform is None else write_down(row, waveform, recognizer, batch_size, context)


def kind_of(row: Transcript) -> str:
    """Return the note of a clip that was left out: it has no speech, or it is read in pieces."""
    return PIECES if clean_transcript(row.reference) else NO_SPEECH


def judge_longer(rows: list[Transcript], source: Source, recognizer: Recognizer, batch_size: int) -> None:
    """Transcribe, in place, the clips that proved to be too long when they were read."""
    for number, row in enumerate(rows):
        if row.hypothesis is None and "too_long" in row.notes:
            waveform = source.read(number)
            check_recording(waveform)
            row = row._replace(seconds=round(len(waveform) / SAMPLE_RATE, 3))
            context = "" if source.contexts is None else source.contexts[number]
            rows[number] = write_down(row, waveform, recognizer, batch_size, context)


def write_down(
    row: Transcript, waveform: np.ndarray, recognizer: Recognizer, batch_size: int, context: str
) -> Transcript:
    """Return a row with the transcript that `ta infer` writes of its recording."""
    [segments] = recognizer.transcribe_segments([waveform], batch_size, contexts=[context])
    flags = {flag for segment in segments for flag in segment.flags}
    notes = (kind_of(row), *(flag for flag in (LIMIT, LOOP) if flag in flags))
    return row._replace(hypothesis=join(segments), notes=notes)
