"""Errors that the user can fix: printed as one line, exit status 2, never a traceback."""

from __future__ import annotations

import re

MAX_MESSAGE = 1900  # characters
#: Line breaks, escape sequences, and lone surrogates, which do not fit into a terminal or a UTF-8 file.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str, limit: int = 1000) -> str:
    """Return a text on one line, with escapes for what cannot be printed: `a\\nb`; only the beginning of a long one."""
    if len(text) > limit:
        text = text[:limit] + "..."
    return text if text.isprintable() else _UNPRINTABLE.sub(lambda char: ascii(char[0])[1:-1], text)


class UserError(Exception):
    """What is wrong, the value that was given, and what to do, in one line.

    The value may come from a foreign file: its escape sequences do not reach the terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, MAX_MESSAGE))


class FetchError(UserError):
    """Data could not be fetched: one line, also when the error comes from a worker process.

    A data loader raises a worker's error again, with the worker's traceback as its message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition("FetchError: ")[2])


class ConfigError(UserError, ValueError):
    """A setting that does not exist, or whose value is of the wrong type, out of range, or not a choice."""
