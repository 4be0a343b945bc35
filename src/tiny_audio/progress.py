"""Progress of long work, in a terminal and in a log file.

rich draws the bars. The lines of a log file are our own: there rich would write only the finished bar, and tqdm a new
bar at each update.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, ClassVar, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

LINE_SECONDS = 10.0  # between two lines of progress if there is no terminal


def format_time(seconds: float) -> str:
    """Write a duration: 45s, 4m 32s, 23h 45m."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def is_terminal() -> bool:
    """Whether a live bar can be drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


class LiveBar:
    """A bar that stays below the lines of a terminal: a title, how much is done, and a text.

    Bars that are open at the same time, such as those of a run and of its evaluation, lie below each other.
    """

    _shared: ClassVar[Any] = None  # rich can draw only one set of bars on a terminal

    def __init__(self, title: str, total: int, done: int = 0, info: str = "") -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        if LiveBar._shared is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(None),
                TextColumn("{task.completed}/{task.total} {task.fields[info]}"),
            )
            LiveBar._shared = RichProgress(
                *columns, console=RichConsole(stderr=True), redirect_stderr=True, expand=True
            )
            LiveBar._shared.start()
        self._task = LiveBar._shared.add_task(title, total=total, completed=done, info=info)

    def update(self, **values: Any) -> None:
        """Change what it shows: `completed`, `total`, `description`, `info`."""
        if self._task is not None:
            LiveBar._shared.update(self._task, **values)

    def close(self) -> None:
        """Remove the bar."""
        if self._task is not None:
            LiveBar._shared.remove_task(self._task)
            self._task = None
            if not LiveBar._shared.tasks:
                LiveBar._shared.stop()
                LiveBar._shared = None


class Progress:
    """Progress of long work: a live bar in a terminal, elsewhere a line from time to time.

    Args:
        title: such as `Encoding`.
        total: the number of items.
        unit: such as `clips`.
        quiet: print nothing (in all processes but the first).
    """

    def __init__(self, title: str, total: int, unit: str, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.done = 0
        self._lock = threading.Lock()
        self._started = self._reported = time.monotonic()
        self._bar = LiveBar(title, total, info=unit) if not quiet and is_terminal() else None

    def advance(self, count: int) -> None:
        """Count `count` more as done; any thread may."""
        with self._lock:
            self.done += count
        now = time.monotonic()
        left = f"{format_time((now - self._started) * (self.total - self.done) / max(self.done, 1))} left"
        if self._bar is not None:
            self._bar.update(completed=self.done, total=self.total, info=f"{self.unit}, {left}")
        elif not self.quiet and now - self._reported >= LINE_SECONDS:
            self._reported = now
            logger.info("%s: %s/%s %s, %s", self.title, f"{self.done:,}", f"{self.total:,}", self.unit, left)

    def over(self, items: Iterable[T], count: Callable[[T], int]) -> Iterator[T]:
        """Yield items; add `count(item)` when the next one is requested."""
        for item in items:
            yield item
            self.advance(count(item))

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def in_threads(
    function: Callable[[T], R], items: Sequence[T], threads: int, title: str, unit: str, quiet: bool = False
) -> list[R]:
    """Return the results of a function for items, in their order, from several threads; show the progress."""
    progress = Progress(title, len(items), unit, quiet)
    with closing(progress), ThreadPoolExecutor(threads) as pool:
        return list(progress.over(pool.map(function, items), lambda _: 1))
