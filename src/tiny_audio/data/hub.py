"""Parquet files of dataset repositories on the Hugging Face Hub.

A repository is looked up once: its commit and its files are noted in the cache, and every later run reads
that very commit, without a network where the files are already there. Delete the note, or set `revision`,
to move on.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ..errors import UserError
from .corpora import HUB, SPLIT_SPELLINGS, Corpus

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0  # to look a repository up: without a network, a run should say so at once
PARALLEL_DOWNLOADS = 8
HTTP_CLIENTS = (
    "httpx",
    "httpx2",
    "requests",
)  # of the versions of huggingface_hub: their errors mean no network
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


def fetch_parquet(
    corpus: Corpus,
    configuration: str | None,
    split: str,
    *,
    revision: str | None,
    cache_dir: Path,
    limit: int | None = None,
) -> list[Path]:
    """Download a split's parquet files into the Hugging Face cache (`HF_HOME`) and return their paths.

    Args:
        corpus: the repository, and what to say where it refuses or lacks the files.
        configuration: a folder of it; None takes any.
        split: as typed.
        revision: a branch, tag or commit; None takes the newest at first use, and that one from then on.
        cache_dir: where the note of that commit is kept.
        limit: rows that are needed: no more files than hold them are fetched, the first ones.

    Raises:
        UserError: it cannot be reached, does not exist, refuses, or has no such files.
    """
    commit, files = _look_up(corpus, revision, cache_dir)
    chosen = select_files(files, configuration, split)
    _check_choice(corpus, configuration, split, files, chosen)
    if limit is None:
        logger.info("%s: %d parquet files of %s, from the cache or the Hub", corpus.hub_id, len(chosen), split)
        with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            return list(pool.map(lambda name: _download(corpus, name, commit), chosen))
    return _download_rows(corpus, chosen, commit, limit)


def _check_choice(
    corpus: Corpus, configuration: str | None, split: str, files: Sequence[str], chosen: Sequence[str]
) -> None:
    """Refuse an empty choice, and one that would mix what the repository keeps apart, such as languages."""
    folders = sorted({str(PurePosixPath(f).parent) for f in chosen or files if f.endswith(".parquet")})
    listed = ", ".join(folders[:12]) + (", ..." if len(folders) > 12 else "")
    where = f"(see {HUB}/{corpus.hub_id})"
    if not chosen:
        part = "/".join(filter(None, (configuration, split)))
        there = f"its parquet files lie in {listed}" if folders else "it has no parquet files at all"
        advice = f"; {corpus.note}" if corpus.note else "."
        raise UserError(f"{corpus.hub_id} has no parquet files of {part}; {there} {where}{advice}")
    if configuration is None and len(folders) > 1:
        raise UserError(f"{corpus.hub_id} has {split} in {listed} {where}; choose one by subset.")


def _download_rows(corpus: Corpus, files: list[str], commit: str, limit: int) -> list[Path]:
    """As many files, from the first on, as hold `limit` rows."""
    import pyarrow.parquet

    paths: list[Path] = []
    rows = 0
    for name in files:
        paths.append(_download(corpus, name, commit))
        rows += pyarrow.parquet.read_metadata(paths[-1]).num_rows
        if rows >= limit:
            break
    if len(paths) < len(files):
        logger.info("%s: %d of %d files hold the %d clips asked for", corpus.hub_id, len(paths), len(files), limit)
    return paths


def _look_up(corpus: Corpus, revision: str | None, cache_dir: Path) -> tuple[str, list[str]]:
    """The commit of a repository and its files, from the note in the cache or else from the Hub."""
    name = f"{corpus.hub_id}@{revision or 'newest'}.json"
    note = cache_dir / "hub" / name.replace("/", "--")
    if note.is_file():
        noted = json.loads(note.read_text(encoding="utf-8"))
        return noted["commit"], noted["files"]

    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(corpus.hub_id, revision=revision, timeout=TIMEOUT_SECONDS)
    except Exception as error:
        raise _explained(error, corpus, revision) from None
    assert info.sha is not None
    files = [sibling.rfilename for sibling in info.siblings or []]
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"commit": info.sha, "files": files}), encoding="utf-8")
    temporary.replace(note)
    logger.info("%s: using revision %s from now on", corpus.hub_id, info.sha[:12])
    return info.sha, files


def _download(corpus: Corpus, name: str, commit: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(corpus.hub_id, name, repo_type="dataset", revision=commit))
    except Exception as error:
        raise _explained(error, corpus, commit) from None


def _explained(error: Exception, corpus: Corpus, revision: str | None) -> Exception:
    """One line for the ways in which the Hub cannot be had; any other exception is returned as it is."""
    from huggingface_hub import errors

    page = corpus.terms or f"{HUB}/{corpus.hub_id}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set and it is not in the cache; unset it, or download the corpus first"
    elif isinstance(error, errors.GatedRepoError):
        why = f"accept its terms at {page}, then set HF_TOKEN to a token of that account"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"it has no revision {revision}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = "there is no such dataset, or it is private: check the id, or set HF_TOKEN"
    elif isinstance(error, errors.HfHubHTTPError):
        why = f"the Hub answered: {str(error).strip().splitlines()[0]}"
    elif isinstance(error, errors.HFValidationError):
        why = "that is no dataset id (owner/name)"
    elif isinstance(error, (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)) or (
        type(error).__module__.split(".")[0] in HTTP_CLIENTS
    ):
        why = (
            "the Hugging Face Hub cannot be reached; check the network, set HF_ENDPOINT to a mirror, or set "
            "path to a local copy (data=pocket trains on bundled speech)"
        )
    elif isinstance(error, OSError):  # such as a full disk
        why = str(error)
    else:
        return error
    here = f"There is no {corpus.hub_id} on this disk. " if corpus.guessed else ""
    return UserError(f"{here}Could not fetch the dataset {corpus.hub_id}: {why}.")
