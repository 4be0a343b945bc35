"""Archives, unpacked once: each into its own folder, which is named by the archive's place, time and size."""

from __future__ import annotations

import hashlib
import logging
import lzma
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..errors import UserError
from ..files import locked, write_whole
from .files import MAX_NAME_BYTES
from .strings import shown

logger = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
PROGRESS_SECONDS = 5.0
MAX_TOLD = 5
_SHARD = re.compile(r"(.*?)[-_.]?\d+")
_BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, OverflowError, NotImplementedError, RuntimeError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def is_archive(path: Path) -> bool:
    """Whether a path is named like a tar or zip archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def stem_of(archive: Path) -> str:
    """Return an archive's name without its suffix."""
    name = archive.name
    return name[: len(name) - max((len(end) for end in ARCHIVE_SUFFIXES if name.lower().endswith(end)), default=0)]


def shards_of(folder: Path, split: str | None) -> list[Path]:
    """Return the numbered tars of a folder that holds nothing else (webdataset); with a split, those named by it."""
    found = sorted(path for path in folder.iterdir() if not _is_hidden(path.name))
    shards = [(path, match[1]) for path in found if (match := _SHARD.fullmatch(stem_of(path)))]
    if len(shards) < len(found) or not all(path.name.lower().endswith(TAR_SUFFIXES) for path in found):
        return []
    ends = (f"-{split}", f"_{split}")
    return [path for path, name in shards if split in (None, name) or name.endswith(ends)]


def unpack(archives: Sequence[Path], data_dir: Path) -> Path:
    """Unpack archives below `data_dir`, once, and return their folder.

    The folder's name depends on where the archives are, when they were written, and how large they are: so a corrected
    archive is unpacked again. After an interruption it is also unpacked again, over the files that are there already.

    Raises:
        UserError: one of them cannot be read or written.
    """
    folder = data_dir / _name(archives)
    done = folder / ".unpacked"
    if done.is_file():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", f"Another process is unpacking {archives[0]}; waiting for it..."):
            if not done.is_file():
                for archive in archives:
                    _unpack(archive, folder if len(archives) == 1 else folder / stem_of(archive), folder)
                places = "\n".join(str(archive.absolute()) for archive in archives)
                write_whole(done, places.encode("utf-8", "surrogateescape"))
                _report_older(folder)
    except OSError as error:
        raise UserError(f"paths.data_dir: {folder} cannot be written ({error.strerror or error}).") from None
    return folder


def content_of(folder: Path) -> Path:
    """Return the only folder in an unpacked folder, else the unpacked folder itself."""
    inside = [path for path in folder.iterdir() if not _is_hidden(path.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _name(archives: Sequence[Path]) -> str:
    what = [(str(path.resolve()), stat.st_mtime_ns, stat.st_size) for path in archives for stat in [path.stat()]]
    digest = hashlib.sha256(repr(what).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{stem_of(archives[0])[:100]}-{digest[:12]}"


def _report_older(folder: Path) -> None:
    """Name the folders that hold older versions of the same archives: only this code knows that they can be deleted."""
    own = (folder / ".unpacked").read_bytes()
    for done in folder.parent.glob("*/.unpacked"):
        if done.parent != folder and done.read_bytes() == own:
            logger.warning("%s holds an earlier version of the archive, and can be deleted.", done.parent)


def _unpack(archive: Path, folder: Path, root: Path) -> None:
    """Unpack an archive into a folder; `root` is for messages."""
    try:
        _write_members(archive, folder)
    except _BROKEN as error:
        what = shown(error, 200)
        raise UserError(f"data.datasets: {archive} cannot be unpacked into {root} ({what}).") from None


def _write_members(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    logger.info("Unpacking %s (%.1f GB) into %s, once...", archive, size / 1e9, folder)
    folder.mkdir(parents=True, exist_ok=True)
    members = _zip_members(archive, folder) if archive.name.lower().endswith(".zip") else _tar_members(archive, folder)
    reported, unwritable = time.monotonic(), []
    for name, done in members:
        if done is None:
            unwritable.append(name)
        elif time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            logger.info("Unpacking %s: %.0f %%", archive.name, 100 * done / max(size, 1))
    if unwritable:
        names = ", ".join(shown(name) for name in unwritable[:MAX_TOLD])
        logger.warning(
            "%s: %s files have names that a disk does not allow, and are left out: %s", archive, len(unwritable), names
        )


def _tar_members(archive: Path, folder: Path) -> Iterator[tuple[str, int | None]]:
    """Unpack the members of a tar: name, and bytes of the archive read; None if the name cannot be written."""
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            if _is_hidden(PurePosixPath(member.name).name) and not member.isdir():
                continue
            if _is_unwritable(member.name):
                yield member.name, None
                continue
            tar.extract(member, folder, filter="data")  # no absolute paths, nothing outside of the folder
            yield member.name, file.tell()


def _zip_members(archive: Path, folder: Path) -> Iterator[tuple[str, int | None]]:
    """Unpack the members of a zip, as `_tar_members` does; refuse a zip that would fill the disk."""
    try:
        opened = zipfile.ZipFile(archive, metadata_encoding="utf-8")  # macOS writes UTF-8 without the flag for it
    except UnicodeDecodeError:
        opened = zipfile.ZipFile(archive)
    with opened as file:
        needed, free = sum(member.file_size for member in file.infolist()), shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(f"it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        done = 0
        for member in file.infolist():
            done += member.compress_size
            name = PurePosixPath(member.filename)
            if (_is_hidden(name.name) and not member.is_dir()) or "__MACOSX" in name.parts:
                continue
            if _is_unwritable(member.filename):
                yield member.filename, None
                continue
            file.extract(member, folder)  # drops parts of names that would lead out of the folder
            yield member.filename, done


def _is_hidden(name: str) -> bool:
    """Whether a name is hidden or left by an operating system, such as ._x.wav and __MACOSX of macOS."""
    return name.startswith(".") or name == "__MACOSX"


def _is_unwritable(name: str) -> bool:
    parts = name.encode("utf-8", "surrogateescape").split(b"/")
    return b"\0" in parts[-1] or max(map(len, parts)) > MAX_NAME_BYTES
