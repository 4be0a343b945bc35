"""Errors that are the user's to mend: printed as one line, exit status 2, never a traceback."""


class UserError(Exception):
    """What is wrong, the value that was given, and what to do, in one line."""


class FetchError(UserError):
    """What a process that reads data could not fetch: one line, also when it comes out of a worker process.

    A data loader raises what a worker raised anew, with the worker's traceback for a message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition("FetchError: ")[2])


class ConfigError(UserError, ValueError):
    """A setting that does not exist, or whose value is of the wrong type, out of range, or not a choice."""
