"""Files that are safe from interruptions and other processes: written whole or not at all, and locked."""

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

# Errors of mounts (NFS without a lock service, FUSE, Google Drive, SMB) for a call that they do not support. A lock
# that another process holds gives another error: EAGAIN or EACCES, which `filelock` handles.
UNSUPPORTED = {
    getattr(errno, name)
    for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "ENOLCK", "EBADF", "ENOTTY", "EPERM")
    if hasattr(errno, name)
}
_told: set[Path] = set()  # folders without locks that were reported


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file to write to; on leaving, it is synced and becomes `path`.

    `path` is always either unchanged or whole, also with parallel processes and after a power cut.

    Raises:
        OSError: such as a full disk; `path` is unchanged, and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")  # containers may have equal process numbers
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the earlier error is the one to report
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the name is part of the folder
        _sync(path.parent, os.O_RDONLY)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically: see `written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def sweep_temporaries(folder: Path) -> None:
    """Delete half-written files of killed processes in a folder; only the process that locks the folder may call it."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    """Write data through to the disk, if the mount supports it."""
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
    """Hold the lock file `path`, which is created if it does not exist; yield its descriptor.

    The lock ends with the process, in any way. Forked workers do not keep it, but a process that gets the descriptor
    does. If the mount has no locks, one message says so, and the work continues without a lock: None.

    Args:
        path: the lock's file, in a folder that exists.
        busy: the message for the user if another process holds it.
        wait: wait for that process; otherwise `busy` is an error.

    Raises:
        UserError: another process holds it, and `wait` is false.
        OSError: the file cannot be created or opened.
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
