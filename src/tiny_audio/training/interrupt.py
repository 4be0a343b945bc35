"""Ctrl+C and the scheduler's signals: finish the step, save, leave."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

# Ctrl+C and Ctrl+\; a terminal or a connection that is closed; and the signals that schedulers send before they stop
# a job (Slurm: --signal=USR1@120; submitit: USR2).
NAMES = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class StopRequest:
    """Catches the signals that ask a run to stop; a second one ends it at once, without saving.

    A signal within a second of the first counts as the same request: a scheduler signals every process, and torchrun
    passes on to its processes the signals that they have already received.

    Args:
        unit: what the run finishes first, for the message.

    Attributes:
        signal: the signal that came, or None.
    """

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self.signal: int | None = None
        self._asked_at = 0.0
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether the run must stop."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self._asked_at < 1:
                return
            raise KeyboardInterrupt
        self.signal, self._asked_at = number, time.monotonic()
        warning = f"\n[WARN] Stopping after this {self.unit}; again to leave without saving.\n"
        try:
            os.write(2, warning.encode())  # logging is not reentrant
        except OSError:  # the terminal is closed; later printing must not end the run before it has saved
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)

    def leave(self) -> NoReturn:
        """End the program as the signal would have: status 130 for Ctrl+C, 128 and its number for others.

        If another handler was set before the run's, it is called now that everything is saved: submitit's handler puts
        the job back into the queue. If only another process of the run got a signal, this one ends as after SIGTERM.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None and callable(waiting := self._previous[self.signal]):
            waiting(self.signal, None)
        raise SystemExit(128 + (self.signal or signal.SIGTERM))
