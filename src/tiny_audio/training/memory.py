"""Memory: how much a piece of work takes, how much is free, and how to recognize an error of too little memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.005  # between two readings of the process's memory
# Messages of a RuntimeError from MPS, the CPU's allocator on Linux and on Windows, the C++ library, cuBLAS.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
# Limit, use, and the reclaimable part of the use: control groups of version 2 and 1, at their paths in a container.
CONTROL_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class PeakMemory:
    """Measures the peak memory within this context, above the memory in use at its start.

    On CUDA it is exactly what torch has allocated; on the CPU the resident memory of the process, read every 5 ms.

    Attributes:
        bytes: set on leaving.
    """

    bytes: int = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> PeakMemory:
        release_memory(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._base = torch.cuda.memory_allocated(self._device)
            return self
        self._read = _memory_reader(self._device)
        self._base = self._peak = self._read()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._read())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device) - self._base
            return
        self._done.set()
        self._thread.join()
        self.bytes = self._peak - self._base


def _memory_reader(device: torch.device) -> Callable[[], int]:
    if device.type == "mps":
        return torch.mps.driver_allocated_memory
    process = psutil.Process()
    return lambda: int(process.memory_info().rss)


def release_memory(device: torch.device) -> None:
    """Return unused memory to the system, so that it is not counted as in use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # glibc keeps freed memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; only CUDA has its own class for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def memory_in_use(device: torch.device) -> int:
    """Return the bytes that this process uses: on CUDA torch's tensors, on the CPU all resident memory."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _memory_reader(device)()


def memory_limit(device: torch.device) -> int:
    """Return the bytes that this process may use: what it uses already, and what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return memory_in_use(device) + min(int(psutil.virtual_memory().available), *map(_group_free, CONTROL_GROUPS))


def _group_free(group: tuple[str, str, str, str]) -> int:
    """Return the bytes up to a container's limit, above which the kernel kills processes; huge if there is none."""
    folder, *names, reclaimable = group
    try:
        limit, used = (int(Path(folder, name).read_text()) for name in names)
        stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat[reclaimable]))
    except (OSError, ValueError, KeyError):  # the file does not exist, or says "max"
        return sys.maxsize
