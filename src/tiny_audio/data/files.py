"""Finds the files that a manifest names, also by names that another machine or system wrote."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ..audio import AudioError
from ..decoding import AUDIO_SUFFIXES
from .strings import shown

logger = logging.getLogger(__name__)

USUAL_FOLDERS = ("clips", "wavs", "wav", "audio")  # clips as Common Voice has it, wavs as LJSpeech
LEFT_OUT_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")  # tried for names without a suffix
MAX_NAME_BYTES = 255  # of a file, on every usual file system
SAMPLED_NAMES = 50  # the first one may be the one that is missing
GUESSED_NAMES = 5
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts this before the names of files
_SERVED = "/data/local-files/?d="  # Label Studio's address of a file on its disk
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://")


@dataclass(frozen=True)
class Files:
    """How the names in a manifest become paths.

    Attributes:
        folder: the names start from it.
        prefix: a folder of another machine at the beginning of names, which `folder` replaces.
        suffix: the suffix that names lack.
        uploaded: whether names begin with Label Studio's numbers, and files do not.
    """

    folder: Path
    prefix: str = ""
    suffix: str = ""
    uploaded: bool = False

    @classmethod
    def of(cls, manifest: Path, names: Sequence[str]) -> Files:
        """Find out how a manifest writes its paths, by the first ones that lead to a file."""
        some = [name for name in names[:SAMPLED_NAMES] if name]
        usual = [cls(folder) for folder in (manifest.parent, *(manifest.parent / name for name in USUAL_FOLDERS))]
        for files in usual:
            if any(files.has(name) for name in some):
                return files
        for name in some[:GUESSED_NAMES]:
            for files in cls._guesses(manifest.parent, _plain(name)):
                if files.has(name):
                    logger.info("%s: %s is read as %s.", manifest, shown(name, 200), files.guess(name))
                    return files
        return usual[0]

    @classmethod
    def _guesses(cls, folder: Path, name: str) -> Iterator[Files]:
        """Fewest parts of the path cut first: from the manifest's folder, the current one, or those above."""
        parts = name.replace("\\", "/").split("/")
        bare = PurePosixPath(name).suffix.lower() not in AUDIO_SUFFIXES
        above = [Path(), *folder.absolute().parents[:3]]  # Kaldi's data/train starts from the folder above data
        folders = [folder, *(folder / usual for usual in USUAL_FOLDERS), *above]
        for cut in range(len(parts)):
            prefix = "".join(part + "/" for part in parts[:cut])
            for place in folders:
                for suffix in ("", *LEFT_OUT_SUFFIXES) if bare else ("",):
                    yield cls(place, prefix, suffix)
                    if cut == len(parts) - 1 and _UPLOADED.match(parts[-1]):
                        yield cls(place, prefix, suffix, uploaded=True)

    def path(self, name: str) -> Path:
        """Return where a file is, or should be.

        Raises:
            AudioError: missing, for what cannot be the name of a file here.
        """
        if (fault := _fault(name)) is not None:
            raise AudioError("missing", fault)
        return self.guess(name)

    def guess(self, name: str) -> Path:
        """Return where a file is; try the spellings of other systems until one leads to a file."""
        path = self._place(name)
        if name.isascii() and "\\" not in name and "%" not in name:
            return path
        return next((other for other in map(self._place, _spellings(name)) if _is_there(other)), path)

    def has(self, name: str) -> bool:
        """Whether a name leads to a file, or into a folder that is packed as one."""
        if _fault(name) is not None:
            return False
        path = self.guess(name)
        return _is_there(path) or archive_of(path) is not None

    def _place(self, name: str) -> Path:
        name = _plain(name)
        if self.prefix and name.replace("\\", "/").startswith(self.prefix):
            name = name[len(self.prefix) :]
        return self.folder / ((_UPLOADED.sub("", name) if self.uploaded else name) + self.suffix)


def _plain(name: str) -> str:
    """A name without the address of its machine or server."""
    if name.startswith("file://"):
        return unquote(name.removeprefix("file://").removeprefix("localhost"))
    return unquote(name.partition(_SERVED)[2]) if _SERVED in name else name


def _spellings(name: str) -> Iterator[str]:
    """A name as written, then as Windows, macOS, a browser, or an old file system would spell it."""
    for slashed in dict.fromkeys((name, name.replace("\\", "/"))):
        for decoded in dict.fromkeys((slashed, unquote(slashed) if "%" in slashed else slashed)):
            yield decoded
            yield unicodedata.normalize("NFC", decoded)
            yield unicodedata.normalize("NFD", decoded)  # macOS keeps accents apart from their letters
        with contextlib.suppress(UnicodeEncodeError):
            yield os.fsdecode(slashed.encode("cp1252"))


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _fault(name: str) -> str | None:
    """Why a name cannot be the name of a file, or None."""
    if not name:
        return "the row names no recording"
    if _REMOTE.match(name):
        return f"{shown(name)} is on a server: download it, and name the file"
    try:
        parts = os.fsencode(name).replace(b"\\", b"/").split(b"/")
    except UnicodeEncodeError:
        return f"{shown(name)} is not a text, so not the name of a file"
    if "\0" in name:
        return f"{shown(name)} is not the name of a file"
    longest = max(parts, key=len)
    if len(longest) > MAX_NAME_BYTES:
        return f"{shown(name)} has {len(longest)} bytes; names of files have at most {MAX_NAME_BYTES}"
    return None


def archive_of(recording: Path) -> Path | None:
    """Return the zip that replaces a recording's folder; None if there is none."""
    folder = recording.parent
    if not folder.name or _is_there(recording):
        return None
    archive = folder.with_name(f"{folder.name}.zip")
    return archive if _is_there(archive) and not folder.is_dir() else None


def file_versions(paths: Sequence[Path]) -> list[str]:
    """A text for each file from its path, its size, and the time when it was last written."""

    def versions(block: Sequence[Path]) -> list[str]:
        found = []
        for path in block:
            try:
                stat = path.stat()
                found.append(f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}")
            except (OSError, ValueError):  # or a name that no file system takes
                found.append(f"{path.absolute()} missing")
        return found

    # Threads, since each file costs a round trip on network disks, as headers do.
    blocks = [paths[start : start + 512] for start in range(0, len(paths), 512)]
    with ThreadPoolExecutor(8) as pool:
        return list(chain.from_iterable(pool.map(versions, blocks)))
