"""Entries of `data.datasets`: what each of them means, a path, a dataset of the Hub, or a known corpus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config import DataConfig, DatasetConfig
from ..errors import UserError
from .archives import ARCHIVE_SUFFIXES, content_of, is_archive, shards_of, unpack
from .corpora import Corpus, hub_location, known_corpus
from .folders import open_path
from .hub import RepoSplit, download, find_split, select_files
from .parquet import open_parquet
from .remote import RemoteStream, fetch_sample
from .rows import MANIFEST_SUFFIXES
from .tables import Columns, Table

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_table(
    entry: DatasetConfig,
    data: DataConfig,
    cache_dir: Path,
    limit: int | None = None,
    data_dir: Path = Path("data"),
    seed: int = 0,
) -> Table:
    """Find out what an entry is (a path, a dataset of the Hub, or a known corpus), and read what it lists.

    Args and errors: see `sources.open_source`; no row is left out here. `limit` counts rows. A corpus of the Hub is
    read by row groups that the seed chooses, whether or not parts of it are on this disk.
    """
    if entry.path is None and entry.name == "pocket":
        from ..pocket import SPEECH_DIR

        return open_path(Path(SPEECH_DIR), entry.split or "train", columns_of(entry))
    corpus = known_corpus(entry)
    if entry.path is not None and not is_hub_id(entry.path):
        return _open_local(entry, corpus, Path(entry.path).expanduser(), data_dir)
    found, columns = find_on_hub(entry, cache_dir)
    if limit is not None:
        files, whole = fetch_sample(found, limit, seed, cache_dir)
        table = open_parquet(files, found.origin, columns)
        return replace(table, whole=whole)
    if data.streaming:
        return RemoteStream(found, columns, cache_dir, stream_bytes(data)).read_all()
    return open_parquet(download(found), found.origin, columns)


def on_hub(entry: DatasetConfig) -> bool:
    """Whether an entry means a dataset of the Hub.

    Raises:
        UserError: the entry names an unknown corpus.
    """
    if entry.path is not None:
        return is_hub_id(entry.path)
    return entry.name != "pocket" and known_corpus(entry) is not None


def find_on_hub(entry: DatasetConfig, cache_dir: Path) -> tuple[RepoSplit, Columns]:
    """Return the files of an entry that is on the Hub, and its columns.

    Raises:
        UserError: it cannot be reached, does not exist, refuses, or has no such files.
    """
    corpus = known_corpus(entry)
    places = [(entry.subset or entry.language, entry.split or "train")]
    if corpus is not None:
        places = [hub_location(entry, corpus), *places] if entry.path else [hub_location(entry, corpus)]
    if entry.path is not None:  # a mirror, or the user's own repository
        corpus = replace(corpus or Corpus(""), hub_id=entry.path, guessed=True, terms=None, note=None)
    assert corpus is not None  # known_corpus refuses an unknown name without a path
    found = find_split(corpus, places, revision=entry.revision, cache_dir=cache_dir)
    return found, columns_of(entry, corpus)


def columns_of(entry: DatasetConfig, corpus: Corpus | None = None) -> Columns:
    """Return the columns that an entry names, or else those of its known corpus."""
    audio, text = (None, None) if corpus is None else (corpus.audio_column, corpus.text_column)
    return Columns(entry.audio_column or audio, entry.text_column or text, entry.context_column)


def stream_bytes(data: DataConfig) -> int:
    """Return how many bytes of each corpus a stream may keep."""
    return round(data.streaming_disk_gb * 1e9)


def _open_local(entry: DatasetConfig, corpus: Corpus | None, path: Path, data_dir: Path) -> Table:
    """Read files on this disk; a known corpus may be laid out as on the Hub, or as its authors distribute it."""
    if path.is_file() and is_archive(path):
        unpacked = unpack([path], data_dir)
        path = unpacked if (unpacked / (entry.language or "en")).is_dir() else content_of(unpacked)
    elif path.is_dir() and (shards := shards_of(path, entry.split)):
        path = unpack(shards, data_dir)
        entry = replace(entry, split=None)
    split, columns = entry.split, columns_of(entry)
    if corpus is not None and path.is_dir():
        language = path / (entry.language or "en")  # an unpacked Common Voice: cv-corpus-*/en/train.tsv
        if entry.name == "common_voice" and language.is_dir() and any(language.glob("*.tsv")):
            return open_path(language, split or corpus.split, columns)
        configuration, hub_split = hub_location(entry, corpus)
        files = [file.relative_to(path).as_posix() for file in path.rglob("*.parquet")]
        if chosen := select_files(files, configuration, hub_split):
            origin = f"{path} ({split or corpus.split})"
            return open_parquet([path / name for name in chosen], origin, columns_of(entry, corpus))
    return open_path(path, split, columns)


def is_hub_id(path: str) -> bool:
    """Whether a path means an `owner/name` of the Hub: neither it nor its owner is a path on this disk."""
    return (
        _HUB_ID.fullmatch(path) is not None
        and not path.endswith((*MANIFEST_SUFFIXES, *ARCHIVE_SUFFIXES, ".parquet"))
        and not Path(path).exists()
        and not Path(path).parent.exists()
    )


def entry_keys(entries: Sequence[DatasetConfig], data: DataConfig) -> list[str]:
    """Return the name under which each entry of `data.datasets` or `data.eval_datasets` was typed."""
    lists = (
        ("data.eval_path", data.eval_path, "data.eval_datasets"),
        ("data.train_path", data.train_path, "data.datasets"),
    )
    short, path, long = lists[entries is not data.eval_datasets]
    return [short if path is not None and entry.path == path else long for entry in entries]


def under_key(error: UserError, key: str) -> UserError:
    """Return an error about an entry that names the setting as it was typed."""
    message = str(error)
    return (
        UserError(f"{key}:{message.removeprefix('data.datasets:')}") if message.startswith("data.datasets:") else error
    )


def unique_names(entries: Sequence[DatasetConfig]) -> list[str]:
    """Names for console and logs: `librispeech`, or `librispeech:dev-clean` if there are several."""
    counts = Counter(map(entry_name, entries))
    seen: Counter[str] = Counter()
    names = []
    for entry in entries:
        name = entry_name(entry)
        if counts[name] > 1 and entry.split:
            name = f"{name}:{entry.split}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def entry_name(entry: DatasetConfig) -> str:
    """Return the name of the corpus, or of the file or folder that holds it."""
    return Path(entry.path).name if entry.name == "custom" and entry.path is not None else entry.name
