"""Sources: a corpus as arrays of durations, transcripts and names; recordings are read when drawn."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..audio import load_audio
from ..config import DataConfig, DatasetConfig
from ..errors import UserError
from ..text import CLEANERS, clean_transcript
from .corpora import Corpus, hub_location, known_corpus
from .durations import read_durations
from .features import CachedClips
from .hub import fetch_parquet
from .manifests import MANIFEST_SUFFIXES, Recordings, Table, open_parquet, open_path
from .skips import Skip
from .strings import Labels, Strings

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Source:
    """The usable clips of one corpus. N counts them; a row is a number from 0 to N - 1.

    Attributes:
        name: as in the configuration; unique among the sources that `open_sources` returns.
        weight: the corpus's share of the mixture, as configured, not normalised.
        durations: (N,) float32 seconds, as listed or as the recordings' headers say.
        texts: N cleaned transcripts, none of them empty.
        names: N file paths (relative to their manifest) or ids.
        speakers: N names, empty where the corpus does not say whose; None where it never does.
        skipped: what was left out when the corpus was indexed.
        features: encoder outputs of the N rows, where they are cached; recordings are then not read.
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
    ) -> None:
        assert len(durations) == len(texts) == len(names) == len(rows)
        self.name = name
        self.weight = weight
        self.durations = durations.astype(np.float32)
        self.texts = texts if isinstance(texts, Strings) else Strings(texts)
        self.names = names if isinstance(names, Strings) else Strings(names)
        self.speakers = speakers if speakers is None or isinstance(speakers, Labels) else Labels(speakers)
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

    def recording(self, row: int) -> Path | bytes:
        """Return a clip's recording, not decoded; raises AudioError if the corpus has none for it."""
        return self._recordings[int(self._rows[row])]

    @property
    def table_rows(self) -> np.ndarray:
        """(N,) which row of `open_table` is whose."""
        return self._rows

    def recording_versions(self) -> list[str]:
        """N texts: no two recordings share one, and it changes whenever the recording does."""
        return self._recordings.versions(self._rows.tolist())

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
        )


def open_sources(
    entries: Sequence[DatasetConfig], data: DataConfig, cache_dir: Path, *, limit: int | None, seed: int
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

    Returns:
        Sources with different names, in the order of the entries.

    Raises:
        UserError: there is no entry, or one of them cannot be opened.
    """
    if not entries:
        raise UserError("data.datasets is empty: name at least one corpus.")
    sources = [
        open_source(entry, data, cache_dir, limit, name)
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

    Raises:
        UserError: it cannot be found, fetched or read, or has no usable row.
    """
    name = name or _name(entry)
    table = open_table(entry, cache_dir, limit)
    source = _index(name, entry.weight, table, CLEANERS.get(entry.name), data, cache_dir)
    reasons = Counter(skip.reason for skip in source.skipped)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    if not len(source):
        raise UserError(f"data.datasets: {table.origin} has no usable clip ({left_out or 'it is empty'}).")
    return source


def open_table(entry: DatasetConfig, cache_dir: Path, limit: int | None) -> Table:
    """Find out what an entry is, a path, a dataset of the Hub, or a known corpus, and read what it lists."""
    if entry.path is None and entry.name == "pocket":
        from ..pocket import SPEECH_DIR

        return open_path(Path(SPEECH_DIR), entry.split or "train", entry.audio_column, entry.text_column)
    corpus = known_corpus(entry)
    if entry.path is not None and not _is_hub_id(entry.path):
        path = Path(entry.path).expanduser()
        return open_path(path, entry.split, entry.audio_column, entry.text_column)
    if entry.path is not None or corpus is None:
        assert entry.path is not None  # known_corpus has refused an unknown name without a path
        corpus = Corpus(entry.path, guessed=True)
        return _open_hub(entry, corpus, entry.subset or entry.language, entry.split, cache_dir, limit)
    return _open_hub(entry, corpus, *hub_location(entry, corpus), cache_dir, limit)


def _open_hub(
    entry: DatasetConfig,
    corpus: Corpus,
    configuration: str | None,
    split: str | None,
    cache_dir: Path,
    limit: int | None,
) -> Table:
    """Fetch what is needed of a repository; the entry's own columns and revision go first."""
    files = fetch_parquet(
        corpus,
        configuration,
        split or corpus.split,
        revision=entry.revision,
        cache_dir=cache_dir,
        limit=limit,
    )
    return open_parquet(
        files,
        f"{corpus.hub_id} ({split or corpus.split})",
        entry.audio_column or corpus.audio_column,
        entry.text_column or corpus.text_column,
    )


def _is_hub_id(path: str) -> bool:
    """Whether a path means an `owner/name` of the Hub: nothing on this disk goes by it, or by its owner."""
    return (
        _HUB_ID.fullmatch(path) is not None
        and Path(path).suffix not in (*MANIFEST_SUFFIXES, ".parquet")
        and not Path(path).exists()
        and not Path(path).parent.exists()
    )


def _index(
    name: str,
    weight: float,
    table: Table,
    prepare: Callable[[str], str] | None,
    data: DataConfig,
    cache_dir: Path,
) -> Source:
    """Clean the transcripts, complete the durations, and leave out what cannot be used."""
    texts: list[str] = []
    for raw in table.texts:
        text = raw or ""
        text = prepare(text) if prepare else text
        texts.append(clean_transcript(text, data.text_case, data.keep_punctuation))
    usable = np.array([bool(text) for text in texts], dtype=bool)
    empty = np.flatnonzero(~usable).tolist()
    reasons: dict[int, tuple[str, str]] = dict.fromkeys(empty, ("empty_text", "has no transcript"))
    seconds = table.durations.copy()
    unknown = np.flatnonzero(usable & np.isnan(seconds))
    if len(unknown):
        seconds[unknown], failures = read_durations(table, unknown, cache_dir)
        reasons |= {row: (error.reason, str(error)) for row, error in failures.items()}
        usable[list(failures)] = False
    for reason, outside, limit, word in (
        ("too_short", seconds < data.min_audio_length, data.min_audio_length, "shorter"),
        ("too_long", seconds > data.max_audio_length, data.max_audio_length, "longer"),
    ):
        for row in np.flatnonzero(usable & outside).tolist():
            reasons[row] = (reason, f"{seconds[row]:.2f} s is {word} than {limit:g} s")
        usable &= ~outside
    rows = np.flatnonzero(usable)
    return Source(
        name=name,
        weight=weight,
        durations=seconds[rows],
        texts=Strings(texts[row] for row in rows.tolist()),
        names=Strings(table.names[row] for row in rows.tolist()),
        skipped=[Skip(name, table.names[row], *reasons[row]) for row in sorted(reasons)],
        recordings=table.recordings,
        rows=rows,
        speakers=None if table.speakers is None else [table.speakers[row] for row in rows.tolist()],
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
