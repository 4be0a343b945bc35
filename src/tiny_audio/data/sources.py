"""Sources: a corpus as arrays of durations, transcripts and names; recordings are read when drawn."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..audio import AudioError, Segment, load_audio
from ..config import DataConfig, DatasetConfig
from ..errors import UserError
from .corpora import Corpus, hub_location, known_corpus
from .features import CachedClips
from .folders import ARCHIVE_SUFFIXES, is_archive, open_path, unpack
from .hub import download, find_split, select_files
from .index import Index, index_table
from .manifests import MANIFEST_SUFFIXES
from .parquet import open_parquet
from .remote import fetch_first_rows, open_stream
from .skips import Skip
from .strings import Labels, Strings
from .tables import FileRecordings, Recordings, Table

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Source:
    """The usable clips of one corpus. N counts them; a row is a number from 0 to N - 1.

    Attributes:
        name: as in the configuration; unique among the sources that `open_sources` returns.
        weight: the corpus's share of the mixture, as configured, not normalised.
        durations: (N,) float32 seconds, as listed or as the recordings' headers say.
        texts: N cleaned transcripts, none of them empty where there is speech.
        names: N file paths (relative to their manifest) or ids.
        speakers: N names, empty where the corpus does not say whose; None where it never does.
        origin: what it was read from; of the Hub, with the commit.
        blocks: (N,) int32, of a corpus that is streamed: which rows are fetched together; else None.
        estimated: whether durations are guesses from the transcripts, as in a stream that does not list them.
        skipped: what was left out when the corpus was indexed.
        has_speech: whether a clip that is silent throughout is a fault.
        features: encoder outputs of the rows that a run reads, where they are cached; recordings are then not read.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        durations: np.ndarray,
        texts: Sequence[str],
        names: Sequence[str],
        skipped: list[Skip],
        recordings: Recordings,
        rows: np.ndarray,
        speakers: Sequence[str] | None = None,
        origin: str = "",
        blocks: np.ndarray | None = None,
        estimated: bool = False,
        has_speech: bool = True,
    ) -> None:
        assert len(durations) == len(texts) == len(names) == len(rows)
        self.name = name
        self.weight = weight
        self.durations = durations.astype(np.float32)
        self.texts = texts if isinstance(texts, Strings) else Strings(texts)
        self.names = names if isinstance(names, Strings) else Strings(names)
        self.speakers = speakers if speakers is None or isinstance(speakers, Labels) else Labels(speakers)
        self.origin = origin or name
        self.blocks = blocks
        self.estimated = estimated
        self.has_speech = has_speech
        self.skipped = skipped
        self.features: CachedClips | None = None
        self._recordings = recordings
        self._rows = rows  # (N,) which recording is whose

    def __len__(self) -> int:
        return len(self.durations)

    @property
    def fingerprint(self) -> str:
        """A hash of what the rows are: their names, transcripts and durations."""
        digest = hashlib.sha256()
        for strings in (self.names, self.texts):
            digest.update(strings.ends.tobytes())
            digest.update(strings.data)
        digest.update(self.durations.tobytes())
        return digest.hexdigest()[:16]

    def read(self, row: int) -> np.ndarray:
        """Decode a clip.

        Returns:
            float32 samples (S,), mono, 16 kHz.

        Raises:
            AudioError: it is missing, cannot be decoded, or holds NaN or infinite samples.
        """
        return load_audio(self._recordings[int(self._rows[row])])

    def recording(self, row: int) -> Path | bytes | Segment:
        """Return a clip's recording, not decoded; raises AudioError if the corpus has none for it."""
        return self._recordings[int(self._rows[row])]

    @property
    def in_files(self) -> bool:
        """Whether each clip is a file of its own; else `recording` reads from a table, or fetches."""
        return isinstance(self._recordings, FileRecordings)

    @property
    def table_rows(self) -> np.ndarray:
        """(N,) which row of `open_table` is whose."""
        return self._rows

    def rows_at_hand(self, seed: int) -> np.ndarray:
        """Return the rows to sample recordings from: all, but of a stream those of one row group, to fetch no more.

        Where encoder outputs are read, those that are there.
        """
        if self.features is not None:
            return self.features.rows
        if self.blocks is None:
            return np.arange(len(self))
        return np.flatnonzero(self.blocks == self.blocks[np.random.default_rng(seed).integers(len(self))])

    def recording_versions(self, rows: Sequence[int]) -> list[str]:
        """A text for each of `rows`: no two recordings share one, and it changes whenever the recording does."""
        return self._recordings.versions(self._rows[np.asarray(rows, dtype=np.int64)].tolist())

    def subset(self, rows: np.ndarray) -> Source:
        """Return the source with only these rows, in this order; what was skipped stays on record."""
        assert self.features is None, "features are looked up last, by row"
        return Source(
            self.name,
            self.weight,
            self.durations[rows],
            Strings(self.texts[row] for row in rows.tolist()),
            Strings(self.names[row] for row in rows.tolist()),
            self.skipped,
            self._recordings,
            self._rows[rows],
            None if self.speakers is None else [self.speakers[row] for row in rows.tolist()],
            self.origin,
            None if self.blocks is None else self.blocks[rows],
            self.estimated,
            self.has_speech,
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
) -> list[Source]:
    """Open the corpora of a mixture.

    Args:
        entries: `data.datasets` or `data.eval_datasets`.
        data: lengths and text form.
        cache_dir: `paths.cache_dir`.
        limit: `data.max_samples` or `data.max_eval_samples`: a seeded subset of that many clips over all
            sources, in proportion to their weights as far as they have enough. A source that is left with
            none is dropped.
        seed: of the subset.
        data_dir: `paths.data_dir`, where archives are unpacked.
        evaluation: keep clips that cannot be opened: what was said in them counts as wrong.

    Returns:
        Sources with different names, in the order of the entries.

    Raises:
        UserError: there is no entry, or one of them cannot be opened.
    """
    if not entries:
        raise UserError("data.datasets is empty: name at least one corpus.")
    sources = [
        open_source(entry, data, cache_dir, limit, name, data_dir, evaluation)
        for entry, name in zip(entries, unique_names(entries), strict=True)
    ]
    return sources if limit is None else _take(sources, limit, seed)


def unique_names(entries: Sequence[DatasetConfig]) -> list[str]:
    """Names for console and logs: `librispeech`, or `librispeech:dev-clean` where there are several."""
    names = [_name(entry) for entry in entries]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    names = [
        f"{name}:{entry.split}" if name in repeated and entry.split else name
        for name, entry in zip(names, entries, strict=True)
    ]
    seen: Counter[str] = Counter()
    for number, name in enumerate(names):
        seen[name] += 1
        names[number] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


def _name(entry: DatasetConfig) -> str:
    return Path(entry.path).name if entry.name == "custom" and entry.path is not None else entry.name


def open_source(
    entry: DatasetConfig,
    data: DataConfig,
    cache_dir: Path,
    limit: int | None = None,
    name: str | None = None,
    data_dir: Path = Path("data"),
    evaluation: bool = False,
) -> Source:
    """Open one corpus and index its usable rows.

    Left out here, with a reason: rows without a transcript (empty_text), too short or too long (too_short,
    too_long), and, where durations have to be read from the recordings, those that cannot be opened
    (missing, decode_error). Where the corpus lists durations, its recordings are not touched before they
    are drawn.

    Args:
        entry: the corpus.
        data: lengths and text form.
        cache_dir: `paths.cache_dir`.
        limit: how many clips will be used at most; a corpus of the Hub is only downloaded that far.
        name: of the source; the entry's own, if left out.
        data_dir: `paths.data_dir`, where archives are unpacked.
        evaluation: see `open_sources`.

    Raises:
        UserError: it cannot be found, fetched or read, has no usable row, or more of its recordings cannot be opened
            than `data.max_skipped_share` allows.
    """
    name = name or _name(entry)
    table = open_table(entry, data, cache_dir, limit, data_dir)
    source = _to_source(name, entry.weight, table, index_table(entry.name, table, data, cache_dir, evaluation))
    reasons = Counter(skip.reason for skip in source.skipped)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    if not len(source):
        raise UserError(f"data.datasets: {table.origin} has no usable clip ({left_out or 'it is empty'}).")
    unreadable = sum(reasons[reason] for reason in AudioError.UNREADABLE)
    if unreadable > data.max_skipped_share * len(table.names):
        example = next(skip for skip in source.skipped if skip.reason in AudioError.UNREADABLE)
        raise UserError(
            f"data.datasets: {unreadable:,} of the {len(table.names):,} recordings of {table.origin} cannot be opened, "
            f"more than data.max_skipped_share={data.max_skipped_share:g} allows; {example.name}: {example.detail}."
        )
    return source


def open_table(
    entry: DatasetConfig, data: DataConfig, cache_dir: Path, limit: int | None = None, data_dir: Path = Path("data")
) -> Table:
    """Find out what an entry is, a path, a dataset of the Hub, or a known corpus, and read what it lists.

    Args and errors: see `open_source`; nothing is left out here.
    """
    if entry.path is None and entry.name == "pocket":
        from ..pocket import SPEECH_DIR

        return open_path(Path(SPEECH_DIR), entry.split or "train", entry.audio_column, entry.text_column)
    corpus = known_corpus(entry)
    if entry.path is not None and not _is_hub_id(entry.path):
        return _open_local(entry, corpus, Path(entry.path).expanduser(), data_dir)
    places = [(entry.subset or entry.language, entry.split or "train")]
    if corpus is not None:
        places = [hub_location(entry, corpus), *places] if entry.path else [hub_location(entry, corpus)]
    if entry.path is not None:  # a mirror, or a repository of one's own
        corpus = replace(corpus or Corpus(""), hub_id=entry.path, guessed=True, terms=None, note=None)
    assert corpus is not None  # known_corpus has refused an unknown name without a path
    audio, text = entry.audio_column or corpus.audio_column, entry.text_column or corpus.text_column
    found = find_split(corpus, places, revision=entry.revision, cache_dir=cache_dir)
    if limit is not None:
        return open_parquet(fetch_first_rows(found, limit, cache_dir), found.origin, audio, text)
    if data.streaming:
        return open_stream(found, audio, text, cache_dir, round(data.streaming_disk_gb * 1e9))
    return open_parquet(download(found), found.origin, audio, text)


def _open_local(entry: DatasetConfig, corpus: Corpus | None, path: Path, data_dir: Path) -> Table:
    """Read what lies on this disk; of a known corpus also as it lies on the Hub or comes from its makers."""
    if path.is_file() and is_archive(path):
        path = unpack(path, data_dir)
        inside = [one for one in path.iterdir() if one.is_dir()]
        path = inside[0] if len(inside) == 1 and not (path / (entry.language or "en")).is_dir() else path
    split, audio, text = entry.split, entry.audio_column, entry.text_column
    if corpus is not None and path.is_dir():
        language = path / (entry.language or "en")  # an unpacked Common Voice: cv-corpus-*/en/train.tsv
        if entry.name == "common_voice" and language.is_dir() and any(language.glob("*.tsv")):
            return open_path(language, split or corpus.split, audio, text)
        configuration, hub_split = hub_location(entry, corpus)
        files = [file.relative_to(path).as_posix() for file in path.rglob("*.parquet")]
        if chosen := select_files(files, configuration, hub_split):
            columns = (audio or corpus.audio_column, text or corpus.text_column)
            return open_parquet([path / name for name in chosen], f"{path} ({split or corpus.split})", *columns)
    return open_path(path, split, audio, text)


def _is_hub_id(path: str) -> bool:
    """Whether a path means an `owner/name` of the Hub: nothing on this disk goes by it, or by its owner."""
    return (
        _HUB_ID.fullmatch(path) is not None
        and not path.endswith((*MANIFEST_SUFFIXES, *ARCHIVE_SUFFIXES, ".parquet"))
        and not Path(path).exists()
        and not Path(path).parent.exists()
    )


def _to_source(name: str, weight: float, table: Table, index: Index) -> Source:
    rows = index.rows.tolist()
    return Source(
        name=name,
        weight=weight,
        durations=index.durations,
        texts=index.texts,
        names=Strings(table.names[row] for row in rows),
        skipped=[Skip(name, table.names[row], why, how) for row, why, how in index.left_out],
        recordings=table.recordings,
        rows=index.rows,
        speakers=None if table.speakers is None else Labels(table.speakers[row] for row in rows),
        origin=table.origin,
        blocks=None if table.blocks is None else table.blocks[index.rows],
        estimated=table.blocks is not None and bool(np.isnan(table.durations[index.rows]).any()),
    )


def _take(sources: Sequence[Source], limit: int, seed: int) -> list[Source]:
    """A seeded subset of `limit` clips over all sources, in proportion to their weights."""
    counts = _allot(limit, [source.weight for source in sources], [len(source) for source in sources])
    taken = []
    for number, (source, count) in enumerate(zip(sources, counts, strict=True)):
        if count == 0:
            logger.warning("%s: none of its clips is among the %d asked for", source.name, limit)
        else:
            rows = np.random.default_rng([seed, number]).permutation(len(source))[:count]
            taken.append(source.subset(np.sort(rows)))
    return taken


def _allot(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Share `total` out in proportion to weights, at most its size to each; large remainders round up."""
    room, shares = np.array(sizes, dtype=np.int64), np.array(weights, dtype=np.float64)
    total = min(total, int(room.sum()))
    full = np.zeros(len(room), dtype=bool)
    quotas = room.astype(np.float64)
    while not full.all():
        left = total - room[full].sum()
        quotas = np.where(full, room, left * shares / shares[~full].sum())
        if not (over := ~full & (quotas > room)).any():
            break
        full |= over
        quotas = np.where(full, room, quotas)
    counts = np.floor(quotas).astype(np.int64)
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts.tolist()
