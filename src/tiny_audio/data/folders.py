"""What lies on this disk: a manifest, a folder with one, a LibriSpeech tree, parquet files, or an archive of these."""

from __future__ import annotations

import difflib
import hashlib
import logging
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import UserError
from .hub import select_files
from .manifests import MANIFEST_SUFFIXES, open_manifest
from .parquet import open_parquet
from .strings import Labels
from .tables import FileRecordings, Table, compact

logger = logging.getLogger(__name__)

MANIFEST_NAMES = ("manifest", "metadata", "cuts")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PROGRESS_SECONDS = 5.0


def is_archive(path: Path) -> bool:
    """Whether a path is named like a tar archive."""
    return path.name.endswith(ARCHIVE_SUFFIXES)


def open_path(path: Path, split: str | None, audio_column: str | None, text_column: str | None) -> Table:
    """Read a manifest, or what a folder holds: a manifest by a usual name, a LibriSpeech tree, or parquet files.

    Raises:
        UserError: nothing is there, it cannot be read, or it lacks the column or the split.
    """
    if path.is_file():
        if path.suffix == ".parquet":
            return open_parquet([path], str(path), audio_column, text_column)
        return open_manifest(path, split, audio_column, text_column)
    if not path.is_dir():
        raise missing_path(path)
    for folder, stems, column_split in _manifest_places(path, split):
        for stem in stems:
            for suffix in MANIFEST_SUFFIXES:
                manifest = folder / (stem + suffix)
                if manifest.is_file():
                    return open_manifest(manifest, column_split, audio_column, text_column)
    if (tree := _librispeech_tree(path, split)) is not None:
        return tree
    files = [file.relative_to(path).as_posix() for file in path.rglob("*.parquet")]
    chosen = select_files(files, None, split)
    if chosen:
        return open_parquet([path / name for name in chosen], str(path), audio_column, text_column)
    wanted = [f"{split}.jsonl"] if split else []
    raise UserError(
        f"data.datasets: {path} holds no {', '.join([*wanted, 'manifest.jsonl', 'metadata.csv'])}, "
        "LibriSpeech tree or parquet files" + (f" of the split {split}." if split else ".")
    )


def _manifest_places(path: Path, split: str | None) -> Iterator[tuple[Path, tuple[str, ...], str | None]]:
    """Where a folder's manifest may lie: the folder, names to try, and the split still to be chosen in it."""
    if split is not None:
        yield path, (split,), None
        yield path / split, MANIFEST_NAMES, None
    yield path, MANIFEST_NAMES, split


def missing_path(path: Path) -> UserError:
    """Return the error that a path is not there, with what may have been meant."""
    return UserError(f"data.datasets: there is no {path}{_nearest(path)}")


def _nearest(path: Path) -> str:
    """The entry of the nearest existing folder that a misspelt path most resembles."""
    parent, missing = path.absolute().parent, path.name
    while not parent.is_dir():
        parent, missing = parent.parent, parent.name
    near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir()], 1, 0.5)
    return f"; did you mean {parent / near[0]}?" if near else f"; {parent} has no {missing}."


def _librispeech_tree(path: Path, split: str | None) -> Table | None:
    """Read `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` with its recordings beside it, or return None.

    LibriSpeech (Panayotov et al. 2015, ICASSP) as it comes from openslr.org; Multilingual LibriSpeech and LibriTTS are
    laid out otherwise.
    """
    splits = [folder for folder in (path, path / "LibriSpeech") if any(folder.glob("*/*/*/*.trans.txt"))]
    if splits and split is None:
        there = ", ".join(sorted({file.parts[-4] for file in splits[0].glob("*/*/*/*.trans.txt")}))
        raise UserError(f"data.datasets: {path} holds {there}; choose one by split.")
    root = splits[0] / split if splits and split else path
    names, texts, versions = [], [], []
    for file in sorted(root.glob("*/*/*.trans.txt")):
        chapter = file.parent.relative_to(root).as_posix()
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(" ")
            names.append(f"{chapter}/{name}.flac")
            texts.append(text)
        versions.append(f"{chapter} {file.stat().st_mtime_ns}")
    if not names:
        return None
    return Table(
        origin=str(root),
        names=compact(names),
        texts=texts,
        durations=np.full(len(names), np.nan, dtype=np.float32),
        recordings=FileRecordings(root, compact(names)),
        version=f"{root.absolute()} {hashlib.sha256(repr(versions).encode()).hexdigest()}",
        speakers=Labels(name.split("/")[0] for name in names),
    )


def unpack(archive: Path, data_dir: Path) -> Path:
    """Unpack a tar archive below `data_dir`, once, and return its folder.

    It is unpacked again from the beginning where it was interrupted: what is there already is written over.

    Raises:
        UserError: it cannot be read or written.
    """
    name = archive.name.removesuffix(next(suffix for suffix in ARCHIVE_SUFFIXES if archive.name.endswith(suffix)))
    folder, size = data_dir / name, archive.stat().st_size
    done = folder / ".unpacked"
    if done.is_file() and done.read_text() == str(size):
        return folder
    logger.info("Unpacking %s (%.1f GB) into %s, once...", archive, size / 1e9, folder)
    said = time.monotonic()
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                tar.extract(member, folder, filter="data")  # no absolute paths, nothing outside of the folder
                if time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    logger.info("Unpacking %s: %.0f %%", archive.name, 100 * file.tell() / size)
        done.write_text(str(size))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(f"data.datasets: {archive} cannot be unpacked into {folder} ({error}).") from None
    return folder
