"""`train.log` in the output folder: all that a run says, with the time, over all its parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class _LogFile(logging.FileHandler):
    """A full disk costs lines of the log, never the run: what is lost is on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""

    def close(self) -> None:
        """See `logging.Handler`; what could not be written is tried once more, and may fail again."""
        with suppress(OSError):
            super().close()


@contextmanager
def run_log(path: Path, write: bool) -> Iterator[None]:
    """Within this context what this package says is appended to a file, too, if `write`.

    Raises:
        OSError: the file cannot be opened.
    """
    if not write:
        yield
        return
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("tiny_audio")
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        logger.error("%s: %s", type(error).__name__, error, extra={"shown": True})  # the command prints it itself
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
