"""Errors that are the user's to mend: printed as one line, exit status 2, never a traceback."""


class UserError(Exception):
    """What is wrong, the value that was given, and what to do, in one line."""


class ConfigError(UserError, ValueError):
    """A setting that does not exist, or whose value is of the wrong type, out of range, or not a choice."""
