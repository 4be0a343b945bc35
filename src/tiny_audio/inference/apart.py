"""Clips that an evaluation in training leaves out, judged as `ta infer` would write them down, or counted by reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import AudioError, load_audio
from ..config import Config, DatasetConfig
from ..data.entries import open_table
from ..data.index import index_table
from ..data.sources import Source, unique_names
from ..data.tables import Table
from ..evaluation.score import LIMIT, LOOP, NO_SPEECH, PIECES, Transcript
from ..text import CLEANERS, clean_transcript
from .transcribe import Recogniser, check_recording, join


@dataclass
class Apart:
    """The clips of one set that were left out when it was indexed.

    Attributes:
        table: of the corpus.
        rows: (row of the table, transcript) of those that are judged: too long or too short to train on, or without
            speech, which have an empty transcript.
        left_out: of the others, by reason.
    """

    table: Table | None
    rows: list[tuple[int, str]]
    left_out: Counter[str]


def open_apart(sources: Sequence[Source], config: Config) -> list[Apart]:
    """Look up what was left out of each evaluation set; of a set of which only a part is evaluated, as large a part."""
    entries = config.data.eval_datasets
    by_name = dict(zip(unique_names(entries), entries, strict=True))
    return [_open(source, by_name[source.name], config) for source in sources]


def _open(source: Source, entry: DatasetConfig, config: Config) -> Apart:
    if not source.skipped:
        return Apart(None, [], Counter())
    data, cache_dir, seed = config.data, Path(config.paths.cache_dir), config.training.seed
    table = open_table(entry, data, cache_dir, source.asked, Path(config.paths.data_dir), seed)  # as `source` was
    index = index_table(entry.name, table, data, cache_dir, evaluation=True)
    reasons = {row: why for row, why, _ in index.left_out}
    prepare = CLEANERS.get(entry.name)
    rows, left_out = [], Counter[str]()
    for row, raw in enumerate(table.texts):
        if row not in reasons:
            continue
        prepared = prepare(raw) if prepare and raw else raw
        # A corpus's own cleaner drops rows whose transcript is not whole, and one without a transcript says nothing.
        if prepared is None or (not prepared and raw):
            left_out["no_transcript"] += 1
        elif reasons[row] in ("too_long", "too_short", "empty_text"):
            rows.append((row, clean_transcript(prepared, data.text_case, data.keep_punctuation)))
        else:
            left_out[reasons[row]] += 1
    if len(source) < len(index.rows):  # `data.max_eval_samples`
        count = math.ceil(len(rows) * len(source) / len(index.rows))
        chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
        rows = [rows[i] for i in sorted(chosen.tolist())]
    return Apart(table, rows, left_out)


def judge(apart: Apart, source: Source, recogniser: Recogniser, batch_size: int) -> Iterator[Transcript]:
    """Write down the clips that were left out."""
    for row, text in apart.rows:
        assert apart.table is not None
        name = apart.table.names[row]
        try:
            waveform = load_audio(apart.table.recordings[row], channel=source.channel)
            yield write_down(Transcript(source.name, name, text, None), waveform, recogniser, batch_size)
        except AudioError as error:
            yield Transcript(source.name, name, text, None, (error.reason,))


def judge_longer(rows: list[Transcript], source: Source, recogniser: Recogniser, batch_size: int) -> None:
    """Write down, in place, the clips that turned out to be too long when they were read."""
    for number, row in enumerate(rows):
        if row.hypothesis is None and "too_long" in row.notes:
            rows[number] = write_down(row, source.read(number), recogniser, batch_size)


def write_down(row: Transcript, waveform: np.ndarray, recogniser: Recogniser, batch_size: int) -> Transcript:
    """Return a row with what `ta infer` writes of its recording.

    Raises:
        AudioError: it cannot be transcribed.
    """
    check_recording(waveform)
    [segments] = recogniser.transcribe_segments([waveform], batch_size)
    flags = {flag for segment in segments for flag in segment.flags}
    notes = (PIECES if row.reference else NO_SPEECH, *(flag for flag in (LIMIT, LOOP) if flag in flags))
    return row._replace(hypothesis=join(segments), notes=notes)
