"""`ta demo checkpoint=PATH`: `ta serve`, which also opens its page in the browser."""

from __future__ import annotations

from .serve import run as serve


def run(argv: list[str]) -> int:
    """Run `ta demo` with these arguments, the same as of `ta serve`, and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    return serve(argv, "ta demo", opens_page=True)
