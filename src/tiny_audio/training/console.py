"""What a run prints: lines that are easy to read in a terminal, in a log file and in CI.

In a terminal one live bar stays below the lines. Anywhere else there are only whole lines, no carriage returns.
Everything is printed to stderr; stdout is for data. `train.log` keeps the same lines with the time.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..progress import LiveBar, format_time, is_terminal

logger = logging.getLogger(__name__)


def format_rate(value: float) -> str:
    """Format a learning rate briefly: 5e-4, 1.25e-4."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_count(value: float) -> str:
    """Format a count briefly: 12.6M, 1.2B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def format_number(value: float) -> str:
    """Format a number with three digits, or all before the point: 0.0123, 2.5, 12,345."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_bytes(count: float) -> str:
    """Format a size briefly: 1.5 MB, 151 MB, 14.2 GB."""
    number, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{format_number(number)} {unit}"


def format_metric(name: str, value: float) -> str:
    """Format a metric's value: error rates as percentages."""
    return f"{value:.1%}" if name in ("wer", "cer") else f"{value:.3f}"


class Console:
    """Prints the progress of a run.

    Args:
        max_steps: steps of the whole run.
        epochs: passes over the data in those steps.
        step: the step that the run starts from.
        quiet: print nothing (in all processes but the first).
        title: name of a step.
    """

    def __init__(self, max_steps: int, epochs: float, step: int, quiet: bool, title: str = "Step") -> None:
        self.max_steps, self.epochs, self.quiet, self.title = max_steps, math.ceil(epochs), quiet, title
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)  # recent speed, not the mean since the start
        self._bar = LiveBar("", max_steps, step) if not quiet and is_terminal() else None

    def line(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)
            logger.info("%s", text, extra={"shown": True})  # for `train.log`

    def progress(self, step: int, epoch: float) -> None:
        """Move the bar."""
        self._recent.append((time.monotonic(), step))
        if self._bar is not None:
            title = f"Epoch {max(1, math.ceil(epoch))}/{self.epochs}"
            self._bar.update(completed=step, description=title, info=self.speed())

    def speed(self) -> str:
        """Recent steps a second and the time that is left, or nothing before the second step."""
        if len(self._recent) < 2:
            return ""
        (start, first), (now, last) = self._recent[0], self._recent[-1]
        rate = (last - first) / max(now - start, 1e-9)
        per_step = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step"
        return f"{per_step}, {format_time((self.max_steps - last) / max(rate, 1e-9))} left"

    def step(self, step: int, values: dict[str, str]) -> None:
        """Print the line of a step, such as `Step 5/10: loss=0.128, lr=5e-4`; without a bar also the speed."""
        if self._bar is None and self.speed():
            values = {**values, "speed": self.speed()}
        self.line(
            f"{self.title} {step}/{self.max_steps}: " + ", ".join(f"{key}={value}" for key, value in values.items())
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


class _LogFile(logging.FileHandler):
    """A log file that loses lines if the disk is full, but does not end the run; the terminal shows the lines."""

    def handleError(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""

    def close(self) -> None:
        """See `logging.Handler`; lines that could not be written are tried once more, and may fail again."""
        with suppress(OSError):
            super().close()


@contextmanager
def run_log(path: Path, write: bool) -> Iterator[None]:
    """Within this context, also append the log of this package to a file, if `write`.

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
