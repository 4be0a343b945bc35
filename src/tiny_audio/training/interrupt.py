"""Ctrl+C and the scheduler's signals: finish the step, save, leave."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Catches SIGINT and SIGTERM while a run goes on; a second Ctrl+C leaves at once, without saving.

    Args:
        unit: what is finished first, as the message says it.

    Attributes:
        signal: the signal that came, or None.
    """

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether the run is to stop."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        warning = f"\n[WARN] Stopping after this {self.unit}; again to leave without saving.\n"
        os.write(2, warning.encode())  # logging is not reentrant
