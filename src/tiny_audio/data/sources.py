"""Sources: a corpus as arrays of durations, transcripts and names; recordings are read when drawn."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import Segment, change_speed, load_audio
from ..config import DataConfig, DatasetConfig
from ..errors import UserError
from .contexts import clean_contexts
from .entries import entry_keys, entry_name, find_on_hub, on_hub, open_table, stream_bytes, under_key, unique_names
from .features import CachedClips
from .index import UNREADABLE, Index, Skip, index_table
from .remote import RemoteStream, StreamedRecordings
from .stream import DrawnClips, DrawnColumn, DrawnDurations
from .strings import Labels, Strings
from .subsets import allot, seeded_order
from .tables import FileRecordings, Recordings, Table

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Source:
    """The usable clips of one corpus. N counts them; a row is a number from 0 to N - 1.

    Attributes:
        name: as in the configuration; unique among the sources that `open_sources` returns.
        weight: the corpus's share of the mixture, as configured, not normalized.
        durations: (N,) float32 seconds, as listed or as the recordings' headers say; or `DrawnDurations`, which read
            them for some rows at a time.
        texts: N cleaned transcripts, none of them empty if there is speech.
        names: N file paths (relative to their manifest) or ids.
        skipped: the clips that were left out when the corpus was indexed.
        recordings: all recordings of the corpus.
        table_rows: (N,) the row of `open_table`, and of `recordings`, for each clip.
        speakers: N names, empty if the corpus does not name the speaker; None if it names none.
        origin: what it was read from; for the Hub, with the commit.
        blocks: (N,) int32, the block of each row of a stream: a block is fetched as a whole; else None.
        estimated: whether durations are estimates from the transcripts, as in a stream that does not list them.
        channel: the channel of its recordings that is read, 0 being the first; None: their mix.
        has_speech: whether a clip that is silent throughout is a fault.
        contexts: N contexts as the model reads them, empty if there is none; None if no clip has one.
        asked: how many rows its table was to hold; None: all.
        whole: whether these are all rows of the corpus.
        percent: the speed at which the recordings are played, in per cent: see `at_speed`.
        features: cached encoder outputs of the rows that a run reads; recordings are then not read. None: no cache.
    """

    name: str
    weight: float
    durations: Any
    texts: Sequence[str]
    names: Sequence[str]
    skipped: list[Skip]
    recordings: Recordings
    table_rows: np.ndarray
    speakers: Sequence[str] | None = None
    origin: str = ""
    blocks: np.ndarray | None = None
    estimated: bool = False
    channel: int | None = None
    has_speech: bool = True
    contexts: Sequence[str] | None = None
    asked: int | None = None
    whole: bool = True
    percent: int = 100
    features: CachedClips | None = None

    def __post_init__(self) -> None:
        assert len(self.durations) == len(self.texts) == len(self.names) == len(self.table_rows)

    def __len__(self) -> int:
        return len(self.durations)

    @property
    def hours(self) -> float | None:
        """Speech in all rows; None where rows are read only when they are drawn."""
        return None if isinstance(self.durations, DrawnDurations) else float(self.durations.sum()) / 3600

    @property
    def num_contexts(self) -> int | None:
        """How many clips have a context; None where clips are read only when they are drawn."""
        if self.contexts is None:
            return 0
        return None if isinstance(self.contexts, DrawnColumn) else sum(map(bool, self.contexts))

    @property
    def stream(self) -> RemoteStream | None:
        """The stream that its recordings are fetched from when they are drawn; None if they are on this disk."""
        return self.recordings.stream if isinstance(self.recordings, StreamedRecordings) else None

    def listed_seconds(self, row: int) -> float:
        """Return the length of a clip from the corpus or its header; NaN where neither is known."""
        if isinstance(self.durations, DrawnDurations):
            return self.durations.listed(row)
        return math.nan if self.estimated else float(self.durations[row])

    def longest_texts(self, count: int) -> list[str]:
        """Return the transcripts with the most bytes; from a stream those of one row group, to fetch no more."""
        return self._longest(self.texts, count)

    def longest_contexts(self, count: int) -> list[str]:
        """Return the contexts with the most bytes, in the same way; an empty list if there are none."""
        return [] if self.contexts is None else self._longest(self.contexts, count)

    def _longest(self, texts: Sequence[str], count: int) -> list[str]:
        rows = self.rows_at_hand(0).tolist() if isinstance(texts, DrawnColumn) else range(len(self))
        sizes = [len(texts[row].encode()) for row in rows]
        return [texts[rows[i]] for i in np.argsort(-np.array(sizes), kind="stable")[:count].tolist()]

    def read(self, row: int, max_seconds: float = math.inf) -> np.ndarray:
        """Decode a clip, unless it is longer than `max_seconds`.

        Returns:
            float32 samples (S,), mono, 16 kHz.

        Raises:
            AudioError: it is missing, cannot be decoded, is too long, or holds NaN or infinite samples.
        """
        waveform = load_audio(self.recording(row), channel=self.channel, max_seconds=max_seconds * self.percent / 100)
        return change_speed(waveform, self.percent)

    def recording(self, row: int) -> Path | bytes | Segment:
        """Return a clip's recording, not decoded; raises AudioError if the corpus has none for it."""
        return self.recordings[int(self.table_rows[row])]

    @property
    def in_files(self) -> bool:
        """Whether each clip is a single file; else `recording` reads from a table, or fetches."""
        return isinstance(self.recordings, FileRecordings)

    def rows_at_hand(self, seed: int) -> np.ndarray:
        """Return the rows to sample recordings from: all, but in a stream those of one row group, to fetch no more.

        If encoder outputs are cached, only the rows in the cache.
        """
        if self.features is not None:
            return self.features.rows
        if self.blocks is None:
            return np.arange(len(self))
        return np.flatnonzero(self.blocks == self.blocks[np.random.default_rng(seed).integers(len(self))])

    def recording_versions(self, rows: Sequence[int]) -> list[str]:
        """A text for each of `rows`: different for every recording, and it changes whenever the recording does."""
        versions = self.recordings.versions(self.table_rows[np.asarray(rows, dtype=np.int64)].tolist())
        how = "" if self.channel is None else f" channel {self.channel}"
        how += "" if self.percent == 100 else f" speed {self.percent}"
        return [version + how for version in versions]

    def subset(self, rows: np.ndarray) -> Source:
        """Return the source with only these rows, in this order; `skipped` is unchanged."""
        assert self.features is None, "features are looked up last, by row"
        numbers = rows.tolist()
        return replace(
            self,
            durations=self.durations[rows],
            texts=Strings(self.texts[row] for row in numbers),
            names=Strings(self.names[row] for row in numbers),
            table_rows=self.table_rows[rows],
            speakers=None if self.speakers is None else Labels(self.speakers[row] for row in numbers),
            blocks=None if self.blocks is None else self.blocks[rows],
            contexts=None if self.contexts is None else Strings(self.contexts[row] for row in numbers),
        )

    def at_speed(self, percent: int, data: DataConfig) -> Source:
        """Return the source with its recordings played at `percent` of their speed, named like `librispeech at 0.9x`.
        Clips outside of the limits on length are dropped; `skipped` is empty. None of its durations may be unknown.
        """
        seconds = self.durations * np.float32(100 / percent)
        fits = (seconds >= data.min_audio_length) & (seconds <= data.max_audio_length)
        name = f"{self.name} at {percent / 100:g}x"
        return replace(
            self.subset(np.flatnonzero(fits)), name=name, durations=seconds[fits], skipped=[], percent=percent
        )


def open_sources(
    entries: Sequence[DatasetConfig],
    data: DataConfig,
    cache_dir: Path,
    *,
    limit: int | None,
    seed: int,
    data_dir: Path = Path("data"),
    evaluation: bool = False,
    as_drawn: bool = False,
    allow_empty: bool = False,
) -> list[Source]:
    """Open the corpora of a mixture.

    Args:
        entries: `data.datasets` or `data.eval_datasets`.
        data: lengths and text form.
        cache_dir: `paths.cache_dir`.
        limit: `data.max_samples` or `data.max_eval_samples`: a seeded subset of that many clips over all
            sources, in proportion to their weights as far as they have enough. It depends only on the seed and the
            corpora, not on which parts of them are on this disk. A source without a clip in it is dropped.
        seed: of the subset.
        data_dir: `paths.data_dir`, where archives are unpacked.
        evaluation: keep clips that cannot be opened: their words count as errors.
        as_drawn: read the clips of a stream only when they are drawn: rows may then have no transcript.
        allow_empty: return a source without a usable clip, too: the caller decides about it.

    Returns:
        Sources with different names, in the order of the entries.

    Raises:
        UserError: there is no entry, or one of them cannot be opened.
    """
    if not entries:
        raise UserError("data.datasets is empty: name at least one corpus.")
    names, keys = unique_names(entries), entry_keys(entries, data)

    def open_one(number: int, wanted: int | None) -> Source:
        entry = entries[number]
        try:
            if wanted is None and as_drawn and data.streaming and on_hub(entry):
                return open_drawn(entry, data, cache_dir, names[number])
            return open_source(entry, data, cache_dir, wanted, names[number], data_dir, evaluation, seed, allow_empty)
        except UserError as error:
            raise under_key(error, keys[number]) from None

    numbers = range(len(entries))
    if limit is None:
        return [open_one(number, None) for number in numbers]
    weights = [entry.weight for entry in entries]
    counts = allot(limit, weights, [limit] * len(entries))
    sources = [open_one(number, max(1, count)) for number, count in zip(numbers, counts, strict=True)]
    while True:  # if a corpus has too few clips, the others give more
        sizes = [len(source) if source.whole else max(limit, len(source)) for source in sources]
        counts = allot(limit, weights, sizes)
        short = [number for number in numbers if len(sources[number]) < counts[number]]
        if not short:
            return _take(sources, limit, seed)
        for number in short:
            sources[number] = open_one(number, counts[number])


def open_source(
    entry: DatasetConfig,
    data: DataConfig,
    cache_dir: Path,
    limit: int | None = None,
    name: str | None = None,
    data_dir: Path = Path("data"),
    evaluation: bool = False,
    seed: int = 0,
    allow_empty: bool = False,
) -> Source:
    """Open one corpus and index its usable rows.

    Left out here, with a reason: rows without a transcript (empty_text), too short or too long (too_short,
    too_long), and, where durations have to be read from the recordings, those that cannot be opened
    (missing, decode_error). If the corpus lists durations, its recordings are opened only when they
    are drawn.

    Args:
        entry: the corpus.
        data: lengths and text form.
        cache_dir: `paths.cache_dir`.
        limit: how many clips will be used at most; no more of a corpus of the Hub is fetched.
        name: of the source; by default that of the entry.
        data_dir: `paths.data_dir`, where archives are unpacked.
        evaluation, allow_empty: see `open_sources`.
        seed: of the choice of what is fetched.

    Raises:
        UserError: it cannot be found, fetched or read, has no usable row, or more of its recordings cannot be opened
            than `data.max_skipped_share` allows.
    """
    name = name or entry_name(entry)
    asked = limit
    while True:
        table = open_table(entry, data, cache_dir, asked, data_dir, seed)
        index = index_table(entry.name, table, data, cache_dir, evaluation)
        if asked is None or table.whole or len(index.rows) >= (limit or 0):
            break
        asked *= 2  # too many of the rows are unusable
    source = _to_source(name, entry, data, table, index, asked)
    reasons = Counter(skip.reason for skip in source.skipped)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    if not len(source) and not (allow_empty and source.skipped):
        named = next((f"; {skip.name}: {skip.detail}" for skip in source.skipped), "")
        raise UserError(f"data.datasets: {table.origin} has no usable clip ({left_out or 'it is empty'}){named}.")
    unreadable = sum(reasons[reason] for reason in UNREADABLE)
    if unreadable > data.max_skipped_share * len(table.names):
        example = next(skip for skip in source.skipped if skip.reason in UNREADABLE)
        raise UserError(
            f"data.datasets: {unreadable:,} of the {len(table.names):,} recordings of {table.origin} cannot be opened, "
            f"more than data.max_skipped_share={data.max_skipped_share:g} allows; {example.name}: {example.detail}."
        )
    return source


def open_drawn(entry: DatasetConfig, data: DataConfig, cache_dir: Path, name: str) -> Source:
    """Open a corpus of the Hub whose clips are read when they are drawn: see `open_sources`."""
    found, columns = find_on_hub(entry, cache_dir)
    stream = RemoteStream(found, columns, cache_dir, stream_bytes(data))
    if not len(stream):
        raise UserError(f"data.datasets: {found.origin} has no clip.")
    clips = DrawnClips(stream, entry.name, data)
    return Source(
        name=name,
        weight=entry.weight,
        durations=DrawnDurations(clips),
        texts=DrawnColumn(clips, "texts"),
        names=DrawnColumn(clips, "names"),
        skipped=[],
        recordings=StreamedRecordings(stream),
        table_rows=np.arange(len(stream)),
        origin=found.origin,
        blocks=stream.blocks,
        estimated=True,
        channel=entry.channel,
        contexts=DrawnColumn(clips, "contexts") if stream.context else None,
    )


def _to_source(
    name: str, entry: DatasetConfig, data: DataConfig, table: Table, index: Index, asked: int | None
) -> Source:
    rows = index.rows.tolist()
    return Source(
        name=name,
        weight=entry.weight,
        durations=index.durations,
        texts=index.texts,
        names=Strings(table.names[row] for row in rows),
        skipped=[Skip(name, table.names[row], why, how) for row, why, how in index.left_out],
        recordings=table.recordings,
        table_rows=index.rows,
        speakers=None if table.speakers is None else Labels(table.speakers[row] for row in rows),
        origin=table.origin,
        blocks=None if table.blocks is None else table.blocks[index.rows],
        estimated=table.blocks is not None and bool(np.isnan(table.durations[index.rows]).any()),
        channel=entry.channel,
        contexts=clean_contexts(table.contexts, rows, data, name),
        asked=asked,
        whole=table.whole,
    )


def at_speeds(sources: Sequence[Source], data: DataConfig) -> list[Source]:
    """Return each source at each of `data.speeds`, with its share of the mixture divided among them.

    Each speed is a separate source, so that a cache of encoder outputs holds it like any other.
    """
    others = [percent for speed in data.speeds if (percent := round(100 * speed)) != 100]
    played = []
    for source in sources:
        at = [source, *(other for percent in others if len(other := source.at_speed(percent, data)))]
        share = source.weight / len(at)
        for one in at:
            one.weight = share
        played += at
    return played


def _take(sources: Sequence[Source], limit: int, seed: int) -> list[Source]:
    """Return a seeded subset of `limit` clips over all sources, in proportion to their weights.

    A source without a clip in the subset is dropped, and named.
    """
    counts = allot(limit, [source.weight for source in sources], [len(source) for source in sources])
    taken = []
    for source, count in zip(sources, counts, strict=True):
        if count == 0 and len(source):
            logger.warning("%s: none of its clips is among the %d that were chosen", source.name, limit)
        else:
            taken.append(source.subset(np.sort(seeded_order(source.names, seed)[:count])))
    return taken
