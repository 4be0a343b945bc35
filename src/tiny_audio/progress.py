"""How far a long piece of work is, in a terminal and in a log file."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


def format_time(seconds: float) -> str:
    """Write a duration: 45s, 4m 32s, 23h 45m."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def is_terminal() -> bool:
    """Whether a live bar can be drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def live_bar() -> Any:
    """Return a bar of rich's that stays below the lines: a title, how much is done, and the field `info`."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(None),
        TextColumn("{task.completed}/{task.total} {task.fields[info]}"),
    )
    return RichProgress(*columns, console=RichConsole(stderr=True), redirect_stderr=True, expand=True)


class Progress:
    """How far a long piece of work is: a live bar in a terminal, elsewhere a line now and then.

    Args:
        title: such as `Encoding`.
        total: of what is counted.
        unit: such as `clips`.
        quiet: print nothing (other processes than the first).
    """

    def __init__(self, title: str, total: int, unit: str, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done = 0
        self._lock = threading.Lock()
        self._started = self._said = time.monotonic()
        self._bar: Any = None
        if not quiet and is_terminal():
            self._bar = live_bar()
            self._task = self._bar.add_task(title, total=total, info=unit)
            self._bar.start()

    def advance(self, count: int) -> None:
        """Count `count` more as done; any thread may."""
        with self._lock:
            self.done += count
        now = time.monotonic()
        left = f"{format_time((now - self._started) * (self.total - self.done) / max(self.done, 1))} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, info=f"{self.unit}, {left}")
        elif not self.quiet and now - self._said >= LINE_SECONDS:
            self._said = now
            logger.info("%s: %s/%s %s, %s", self.title, f"{self.done:,}", f"{self.total:,}", self.unit, left)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
