"""Parquet files of dataset repositories on the Hugging Face Hub.

A repository is looked up once: its commit and its files are noted in the cache. Every later run reads the same
commit, without a network if the files are already there. Delete the note, or set `revision`, to read a newer
commit. When a run is stopped during a download, the next run continues that download.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import UserError
from ..files import write_whole
from ..progress import Progress
from .corpora import HUB, SPLIT_SPELLINGS, Corpus
from .hub_requests import retry

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 15.0  # to look a repository up, sizes of thousands of files included
PARALLEL_DOWNLOADS = 8
_NUMBERING = r"([-_.]\d+(-of-\d+)?(-[0-9a-f]+)?)?\.parquet"  # train.parquet, train-00000-of-00012.parquet


def select_files(files: Sequence[str], configuration: str | None, split: str | None) -> list[str]:
    """Choose the parquet files of a configuration and a split by their paths.

    A name matches a folder (`clean/train.360/0000.parquet`) or the beginning of a file's name
    (`en/train-00000-of-00012.parquet`). Other spellings of the split (dev, validation) are tried in turn.
    """
    parquet = sorted(name for name in files if name.endswith(".parquet"))
    if configuration is not None:
        parquet = [name for name in parquet if _belongs(name, configuration)]
    if split is None:
        return parquet
    spellings = next((group for group in SPLIT_SPELLINGS if split in group), (split,))
    for spelling in (split, *spellings):
        chosen = [name for name in parquet if _belongs(name, spelling)]
        if chosen:
            return chosen
    return []


def _belongs(name: str, part: str) -> bool:
    path = PurePosixPath(name)
    return part in path.parent.parts or re.fullmatch(re.escape(part) + _NUMBERING, path.name) is not None


@dataclass(frozen=True)
class RepoSplit:
    """The parquet files of one split, at one commit.

    Attributes:
        corpus: the repository, and advice for when it refuses.
        commit: 40 hex digits.
        split: as typed.
        files: {path in the repository: bytes, 0 if the Hub did not say}, in order.
    """

    corpus: Corpus
    commit: str
    split: str
    files: dict[str, int]

    @property
    def origin(self) -> str:
        """Names repository, split and commit, for messages and for the record of a run."""
        return f"{self.corpus.hub_id}@{self.commit[:12]} ({self.split})"

    @property
    def folder_name(self) -> str:
        """A name for what is kept of it on this disk."""
        return f"{self.corpus.hub_id.replace('/', '--')}@{self.commit[:12]}"


def find_split(
    corpus: Corpus, places: Sequence[tuple[str | None, str]], *, revision: str | None, cache_dir: Path
) -> RepoSplit:
    """Look a repository up, in the cache or else on the Hub, and choose the files of a split.

    Args:
        corpus: the repository, and advice for when it refuses or lacks the files.
        places: (configuration, split) where the files may be, the first that holds any is taken; a configuration is a
            folder of the repository; None: any.
        revision: a branch, tag or commit; None: the commit that was the newest at first use.
        cache_dir: where the note of that commit is kept.

    Raises:
        UserError: it cannot be reached, does not exist, refuses, or has no such files.
    """
    commit, files = _look_up(corpus, revision, cache_dir)
    choices = [(place, select_files(list(files), *place)) for place in places]
    (configuration, split), chosen = next((choice for choice in choices if choice[1]), choices[-1])
    _check_choice(corpus, configuration, split, list(files), chosen)
    return RepoSplit(corpus, commit, split, {name: files[name] for name in chosen})


def download(split: RepoSplit) -> list[Path]:
    """Download a split's files into the Hugging Face cache (`HF_HOME`) and return their paths.

    Raises:
        UserError: they cannot be fetched, or the disk is too small.
    """
    from huggingface_hub import constants

    missing = {name: size for name, size in split.files.items() if cached_file(split, name) is None}
    if missing:
        needed, cache = sum(missing.values()), Path(constants.HF_HUB_CACHE)
        check_room(split, needed, cache, "set HF_HOME to a larger disk, or data.streaming=true")
        which = f"{len(missing)} of {len(split.files)} files, {needed / 1e9:.1f} GB"
        logger.info("%s: downloading %s, into %s", split.origin, which, cache)
        title = f"Downloading {split.corpus.hub_id}"
        with (
            closing(Progress(title, round(needed / 1e6), "MB")) as progress,
            _own_progress(),
            ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
        ):
            for name, _ in zip(missing, pool.map(lambda name: _download(split, name), missing), strict=True):
                progress.advance(round(missing[name] / 1e6))
    return [_download(split, name) for name in split.files]


def cached_file(split: RepoSplit, name: str) -> Path | None:
    """Return where a file is in the Hugging Face cache, if it was downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(split.corpus.hub_id, name, revision=split.commit, repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def check_room(split: RepoSplit, needed: int, cache: Path, advice: str) -> None:
    """Refuse a disk that is too small: `datasets` keeps the same clips as Arrow beside the files, so both have to fit.

    Raises:
        UserError: the disk is too small; the message says what to do.
    """
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if 2 * needed > free:
        raise UserError(
            f"{split.corpus.hub_id} needs {2 * needed / 1e9:,.0f} GB for {split.split} (files, and the same as Arrow), "
            f"and {cache} has {free / 1e9:,.0f} GB free; {advice}."
        )


@contextmanager
def _own_progress() -> Iterator[None]:
    """Show one line for all files, in place of the Hub's own bar for each."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _check_choice(
    corpus: Corpus, configuration: str | None, split: str, files: Sequence[str], chosen: Sequence[str]
) -> None:
    """Refuse an empty choice, and a choice that mixes parts of the repository, such as languages."""
    folders = sorted({str(PurePosixPath(f).parent) for f in chosen or files if f.endswith(".parquet")})
    listed = ", ".join(folders[:12]) + (", ..." if len(folders) > 12 else "")
    where = f"(see {HUB}/{corpus.hub_id})"
    if not chosen:
        part = "/".join(filter(None, (configuration, split)))
        there = f"its parquet files are in {listed}" if folders else "it has no parquet files"
        advice = f"; {corpus.note}" if corpus.note else "."
        raise UserError(f"{corpus.hub_id} has no parquet files of {part}; {there} {where}{advice}")
    if configuration is None and len(folders) > 1:
        raise UserError(f"{corpus.hub_id} has {split} in {listed} {where}; choose one by subset.")


def check_access(split: RepoSplit, cache_dir: Path) -> None:
    """Make sure that the files of a split may be fetched: ask for the first one, once, and note the result.

    A gated repository lists its files to everybody, so a look-up does not show whether they may be fetched.

    Raises:
        UserError: they may not, or the Hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    note = cache_dir / "repositories" / f"{split.folder_name}.granted"
    if note.is_file() or all(cached_file(split, name) for name in split.files):
        return
    url = hf_hub_url(split.corpus.hub_id, next(iter(split.files)), repo_type="dataset", revision=split.commit)
    retry(lambda: get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS), split.corpus, split.commit, tries=1)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _look_up(corpus: Corpus, revision: str | None, cache_dir: Path) -> tuple[str, dict[str, int]]:
    """The commit of a repository and its files with their sizes, from the note in the cache or else from the Hub."""
    name = f"{corpus.hub_id}@{revision or 'newest'}.json"
    note = cache_dir / "repositories" / name.replace("/", "--")
    if note.is_file():
        noted = json.loads(note.read_text(encoding="utf-8"))
        return noted["commit"], dict(noted["files"])

    from huggingface_hub import HfApi

    info = retry(
        lambda: HfApi().dataset_info(corpus.hub_id, revision=revision, timeout=TIMEOUT_SECONDS, files_metadata=True),
        corpus,
        revision,
        tries=1,
    )
    assert info.sha is not None
    files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    note.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps({"commit": info.sha, "files": files}).encode())
    logger.info("%s: using revision %s from now on", corpus.hub_id, info.sha[:12])
    return info.sha, files


def _download(split: RepoSplit, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    path = retry(
        lambda: hf_hub_download(split.corpus.hub_id, name, repo_type="dataset", revision=split.commit),
        split.corpus,
        split.commit,
    )
    return Path(path)
