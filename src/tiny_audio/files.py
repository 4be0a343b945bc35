"""Files that interruptions and other processes meet: written whole or not at all, and locked."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from .errors import UserError

logger = logging.getLogger(__name__)

# What mounts (NFS without a lock service, FUSE, Google Drive, SMB) answer to a call that they do not know. A lock that
# somebody else holds is another answer: EAGAIN or EACCES, which `filelock` reads.
UNSUPPORTED = {
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOLCK", "EBADF", "ENOTTY", "EPERM")
    if hasattr(errno, name)
}
_told: set[Path] = set()  # folders without locks that were spoken of


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give the name of a temporary file to write to; on leaving, it is synced and becomes `path`.

    Whatever happens, `path` is as it was or whole, also for processes side by side and after a power cut.

    Raises:
        OSError: such as a full disk; `path` is as it was, and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")  # containers share numbers of processes
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong before is what is told
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the name is part of the folder
        _sync(path.parent, os.O_RDONLY)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one stroke: see `written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def sweep_temporaries(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder; only who holds it may."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    """Have the disk hold what was written, where the mount can."""
    try:
        opened = os.open(path, flags)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EACCES, errno.EISDIR}:
            raise


@contextmanager
def locked(path: Path, busy: str | None = None, wait: bool = True) -> Iterator[int | None]:
    """Hold the lock file `path`, which is made where there is none; give its descriptor.

    The lock goes with the process, however that ends; forked workers do not keep it, but a process that the descriptor
    is passed to does. Where the mount has no locks, this is said once, and the work goes on without: None.

    Args:
        path: the lock's file, in a folder that exists.
        busy: what to tell the user where another process holds it.
        wait: until that one is done; otherwise `busy` is an error.

    Raises:
        UserError: another process holds it, and it is not waited for.
        OSError: the file cannot be made or opened.
    """
    descriptors: list[int] = []
    lock = FileLock(path, fallback_to_soft=False, on_acquired=descriptors.append)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise UserError(busy or f"{path} is held by another process.") from None
            if busy:
                logger.warning("%s", busy)
            lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in UNSUPPORTED:
            raise
        if path.parent not in _told:
            _told.add(path.parent)
            logger.warning("%s does not support locks: make sure that only one process works there.", path.parent)
    try:
        yield descriptors[0] if descriptors else None
    finally:
        lock.release()
