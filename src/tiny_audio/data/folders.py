"""Corpora on this disk: a manifest, or a folder of one of the known layouts."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from .archives import is_archive
from .files import Files
from .hub import select_files
from .kaldi import open_kaldi
from .manifests import open_manifest
from .parquet import open_parquet, open_saved
from .rows import MANIFEST_SUFFIXES, kind_of
from .sidecars import UNREAD, open_sidecars
from .strings import Labels, shown
from .tables import Columns, Table, make_table
from .textfiles import numbered_lines, open_text

MANIFEST_NAMES = ("manifest", "metadata", "cuts")


def open_path(path: Path, split: str | None, columns: Columns) -> Table:
    """Read a manifest or parquet file, or a folder of one of the `LAYOUTS`.

    Raises:
        UserError: the path does not exist, cannot be read, or lacks the column or the split.
    """
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return open_parquet([path], str(path), columns)
        return open_manifest(path, split, columns)
    if not path.is_dir():
        raise missing_path(path)
    for read in LAYOUTS.values():
        if (table := read(path, split, columns)) is not None:
            return table
    wanted = [f"{split}.jsonl"] if split else []
    raise UserError(
        f"data.datasets: {path} holds no {', '.join([*wanted, *list(LAYOUTS)[:-1]])} or {list(LAYOUTS)[-1]}"
        + (f" of the split {split}." if split else ".")
        + _what_is_there(path)
    )


def _what_is_there(path: Path) -> str:
    """What a folder holds that the user may have meant, in a sentence."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    manifests = [name for name in names if kind_of(Path(name)) in MANIFEST_SUFFIXES or is_archive(Path(name))]
    if manifests:
        there = ", ".join(shown(name) for name in manifests[:3]) + (", ..." if len(manifests) > 3 else "")
        return f" It holds {there}: set path to the file."
    unread = sorted({Path(name).suffix for name in names if Path(name).suffix.lower() in UNREAD})
    return (
        f" Files of the kind {', '.join(unread)} are not read: export them as a table, SRT or labels." if unread else ""
    )


def _open_named(path: Path, split: str | None, columns: Columns) -> Table | None:
    """Read a manifest by one of the usual names, or by that of the split."""
    places: list[tuple[Path, tuple[str, ...], str | None]] = [(path, MANIFEST_NAMES, split)]
    if split is not None:
        places = [(path, (split,), None), (path / split, MANIFEST_NAMES, None), *places]
    for folder, stems, column_split in places:
        for stem in stems:
            for suffix in MANIFEST_SUFFIXES:
                manifest = folder / (stem + suffix)
                if manifest.is_file():
                    return open_manifest(manifest, column_split, columns)
    return None


def _open_parquet(path: Path, split: str | None, columns: Columns) -> Table | None:
    """Read the parquet files of a folder and of its subfolders."""
    files = [file.relative_to(path).as_posix() for file in path.rglob("*.parquet") if not file.name.startswith(".")]
    chosen = select_files(files, None, split)
    return open_parquet([path / name for name in chosen], str(path), columns) if chosen else None


def missing_path(path: Path) -> UserError:
    """Return the error that a path does not exist, with a suggestion."""
    return UserError(f"data.datasets: there is no {path}{_nearest(path)}")


def _nearest(path: Path) -> str:
    """The entry of the nearest existing folder whose name is most like a misspelled path."""
    parent, missing = path.absolute().parent, path.name
    while not parent.is_dir():
        parent, missing = parent.parent, parent.name
    near = difflib.get_close_matches(missing, [entry.name for entry in parent.iterdir()], 1, 0.5)
    return f"; did you mean {parent / near[0]}?" if near else f"; {parent} has no {missing}."


def _librispeech_tree(path: Path, split: str | None, columns: Columns) -> Table | None:
    """Read `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` with its recordings beside it, or return None.

    LibriSpeech (Panayotov et al. 2015, ICASSP) as openslr.org distributes it. Multilingual LibriSpeech and LibriTTS
    have other layouts.
    """
    splits = [folder for folder in (path, path / "LibriSpeech") if any(folder.glob("*/*/*/*.trans.txt"))]
    if splits and split is None:
        there = ", ".join(sorted({file.parts[-4] for file in splits[0].glob("*/*/*/*.trans.txt")}))
        raise UserError(f"data.datasets: {path} holds {there}; choose one by split.")
    root = splits[0] / split if splits and split else path
    names, texts, versions = [], [], []
    for file in sorted(root.glob("*/*/*.trans.txt")):
        chapter = file.parent.relative_to(root).as_posix()
        with open_text(file) as opened:
            lines = [line.strip() for _, line in numbered_lines(opened) if line]
        for line in filter(None, lines):
            name, _, text = line.partition(" ")
            names.append(f"{chapter}/{name}.flac")
            texts.append(text)
        versions.append(f"{chapter} {file.stat().st_mtime_ns}")
    if not names:
        return None
    version = f"{root.absolute()} {hashlib.sha256(repr(versions).encode()).hexdigest()}"
    speakers = Labels(name.split("/")[0] for name in names)
    return make_table(root, version, Files(root), names, texts, speakers=speakers)


#: The known layouts, the most certain first; each function reads the folder, or returns None for another one.
LAYOUTS: dict[str, Callable[[Path, str | None, Columns], Table | None]] = {
    "manifest.jsonl, metadata.csv": _open_named,
    "wav.scp (Kaldi)": open_kaldi,
    "dataset of save_to_disk": open_saved,
    "LibriSpeech tree": _librispeech_tree,
    "parquet files": _open_parquet,
    "recordings with a transcript (.txt, .json, .srt, ...) beside each": open_sidecars,
}
