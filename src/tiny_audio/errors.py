"""Errors that are the user's to mend: printed as one line, exit status 2, never a traceback."""

from __future__ import annotations

import re

MAX_MESSAGE = 1900  # characters
#: Line breaks, escape sequences, and halves of characters, which no terminal and no UTF-8 file takes.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str, limit: int = 1000) -> str:
    """Return a text on one line, with what cannot be printed as escapes: `a\\nb`; of an endless one the beginning."""
    if len(text) > limit:
        text = text[:limit] + "..."
    return text if text.isprintable() else _UNPRINTABLE.sub(lambda char: ascii(char[0])[1:-1], text)


class UserError(Exception):
    """What is wrong, the value that was given, and what to do, in one line.

    The value may be a stranger's, from a file: its escape sequences do not reach the terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, MAX_MESSAGE))


class FetchError(UserError):
    """What a process that reads data could not fetch: one line, also when it comes out of a worker process.

    A data loader raises what a worker raised anew, with the worker's traceback for a message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition("FetchError: ")[2])


class ConfigError(UserError, ValueError):
    """A setting that does not exist, or whose value is of the wrong type, out of range, or not a choice."""
