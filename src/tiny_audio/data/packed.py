"""Packed recordings: one zip instead of a folder of many small files.

If a manifest names `audio/train/0001.opus` and there is no folder `audio/train`, the recording is read from
`audio/train.zip`, without unpacking the others. Thousands of small files are slow to copy, to install and to keep in
git; one file is not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from ..audio import AudioError
from .files import archive_of, file_versions

WRITTEN = (1980, 1, 1, 0, 0, 0)  # the time of every member: the same recordings make the same file


@dataclass(eq=False)
class PackedRecordings:
    """Recordings in one zip.

    Attributes:
        archive: the zip.
        members: N names within it.
    """

    archive: Path
    members: Sequence[str]

    def __getitem__(self, row: int) -> bytes:
        return _read(self.archive, self.members[row])

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`. A recording changes with the zip that it is in."""
        (version,) = file_versions([self.archive])
        return [f"{version} {self.members[row]}" for row in rows]


def recording_at(path: Path) -> Path | bytes:
    """Return a recording for `load_audio`: its file, or its bytes where its folder is packed.

    Raises:
        AudioError: neither the file nor the zip holds it.
    """
    archive = archive_of(path)
    return path if archive is None else _read(archive, path.name)


def pack(folder: Path) -> Path:
    """Put the files of a folder into the zip that replaces it, delete them, and return the zip."""
    archive = folder.with_name(f"{folder.name}.zip")
    with ZipFile(archive, "w", ZIP_STORED) as packed:  # recordings are compressed already
        for file in sorted(folder.iterdir()):
            packed.writestr(ZipInfo(file.name, WRITTEN), file.read_bytes())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return archive


@lru_cache(8)
def _opened(archive: Path, process: int) -> ZipFile:
    """A zip, opened by this process: a forked worker must not share the file position with its parent."""
    return ZipFile(archive)


def _read(archive: Path, member: str) -> bytes:
    try:
        return _opened(archive, os.getpid()).read(member)
    except KeyError:
        raise AudioError("missing", f"{archive} holds no {member}") from None
    except (BadZipFile, OSError) as error:
        raise AudioError("decode_error", f"{archive}: {member} cannot be read ({error})") from None
