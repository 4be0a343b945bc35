"""The output of commands in the terminal: one line for each message, and a reliable exit status."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import MAX_MESSAGE, UserError, printable

if TYPE_CHECKING:
    from rich.console import Console

LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}  # the others stay: INFO, ERROR, DEBUG
USAGE_ERROR = 2  # the same as argparse's
FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 128 + 2  # killed by SIGINT, as shells report it


class _Stderr(logging.Handler):
    """Writes to the current `sys.stderr` at each message, so that a progress bar can redirect it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not record.name.startswith("tiny_audio"):
            return
        if "shown" in record.__dict__:  # printed elsewhere already
            return
        level = LEVELS.get(record.levelname, record.levelname)
        lines = [printable(line, MAX_MESSAGE) for line in self.format(record).split("\n")]
        print(f"[{level}] " + "\n".join(lines), file=sys.stderr)


def configure_logging() -> None:
    """Print this package's messages from INFO on, and other packages' warnings, as `[INFO] message`."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        root.addHandler(_Stderr())
    logging.getLogger("tiny_audio").setLevel(logging.DEBUG if debugging() else logging.INFO)


def debugging() -> bool:
    """Whether to show tracebacks for user errors too."""
    return os.environ.get("TA_DEBUG", os.environ.get("HYDRA_FULL_ERROR")) == "1"


def open_console(width: int) -> Console:
    """Return standard output, `width` columns wide if it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def run_command(name: str, command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a command and return its exit status: 2 with one line on stderr for a user error.

    Any other exception is a bug of this package, and shows a traceback.
    """
    configure_logging()
    try:
        status = command(argv)
        sys.stdout.flush()  # a full disk raises an error here, and not when the interpreter exits
        return status
    except UserError as error:
        if debugging():
            raise
        print(f"{name}: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        if debugging():
            raise
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `ta train --cfg job | head`
        _discard_output()
        return 1
    except OSError as error:
        if error.errno not in FULL or debugging():
            raise
        _discard_output()
        where = f" ({error.filename})" if error.filename else ""
        print(f"{name}: error: the disk is full{where}; make room, and type the command again.", file=sys.stderr)
        return USAGE_ERROR


def _discard_output() -> None:
    """Discard the rest of standard output; otherwise the interpreter reports an error on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
