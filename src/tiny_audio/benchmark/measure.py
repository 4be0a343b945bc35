"""Measurements: time on the device, and the device's highest rate of matrix products."""

from __future__ import annotations

import ctypes
import sys
import time

import torch

M_MMAP_THRESHOLD = -3  # of malloc.h
SLOW_PRODUCT = 0.05  # seconds; no larger matrices are multiplied after such a product


class Timeline:
    """Times between pieces of work. Each mark names the work that was given to the device since the previous mark.

    On CUDA the marks are events in the stream. The host does not wait for them, so its work still overlaps with the
    device's work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []

    def mark(self, name: str) -> None:
        """Record that `name` has been given to the device; the first mark only starts the clock."""
        self._marks.append((name, self._now()))

    def _now(self) -> torch.cuda.Event | float:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        if self._device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def intervals(self) -> list[tuple[str, float]]:
        """Return the name and the seconds of each piece of work, in order."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        pairs = zip(self._marks[:-1], self._marks[1:], strict=True)
        return [(name, _between(start, end)) for (_, start), (name, end) in pairs]


def _between(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start
    return start.elapsed_time(end) / 1000


def return_freed_memory() -> None:
    """Make glibc return freed tensors of 1 MiB and more at once, so that the process is as large as its live tensors.

    By default it keeps freed memory for later, in an amount that depends on earlier work.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, 2**20)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product: the best of some, after a warm-up.

    No step can exceed this rate, so utilization is measured against it. The sizes, at most 8192 on a GPU and 2048 on a
    CPU, fill the device and take milliseconds. They are smaller where a product is slow, as in bf16 on a CPU that
    computes it in software.
    """
    size, largest, repeats = (256, 8192, 20) if device.type == "cuda" else (256, 2048, 5)
    while (seconds := _product_seconds(size, repeats, device, dtype)) < SLOW_PRODUCT and size < largest:
        size *= 2
    return 2.0 * size**3 / seconds


def _product_seconds(size: int, repeats: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the time of a product of two square matrices: the least of some, after a warm-up."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    left @ right
    timeline = Timeline(device)
    timeline.mark("start")
    for _ in range(repeats):
        left @ right
        timeline.mark("product")
    return min(seconds for _, seconds in timeline.intervals())
