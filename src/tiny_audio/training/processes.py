"""What the processes of a run send each other, and how long they wait for each other."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.distributed_c10d import _set_pg_timeout

from ..data.index import Skip
from ..data.loader import Batch
from ..errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class StepInput:
    """The batches of a step, and what all processes know about the step before they run it.

    Attributes:
        batches: of this process, one for each accumulation.
        num_tokens: target tokens of the whole step.
        positions, flops: see `Meter.work`, of the whole step.
        seconds, skipped, sources: of all its batches, see `Batch`.
        stop: whether any process was asked to stop.
    """

    batches: list[Batch]
    num_tokens: int
    positions: int
    flops: float
    seconds: list[float]
    skipped: list[Skip]
    sources: list[int]
    stop: bool


class Processes:
    """The processes of a run: what they send each other, and how long they wait for each other.

    Plain values are sent over the CPU (gloo), even if gradients are sent over the GPUs. A collective on the GPU would
    make every host wait for its GPU, and the host could no longer queue work ahead.

    Until `start_training` they wait for hours (`hardware.setup_timeout_minutes`, see `start_accelerator`), since one
    of them may be downloading.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.count, self.is_main = accelerator.num_processes, accelerator.is_main_process
        self._groups = [dist.group.WORLD] if self.count > 1 else []
        if self.count > 1 and dist.get_backend() != "gloo":
            self._groups.append(dist.new_group(backend="gloo", timeout=accelerator.init_handler.timeout))

    def start_training(self, timeout_minutes: float) -> None:
        """Wait for all processes; from then on, none waits longer than `timeout_minutes` for another."""
        self.gather(None)
        for group in self._groups:
            _set_pg_timeout(timedelta(minutes=timeout_minutes), group)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._groups[-1])
        return values

    def from_first(self, value: T) -> T:
        """Return the first process's value."""
        first: T = self.gather(value if self.is_main else None)[0]
        return first

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process run the body before the others: it downloads and moves files, the others find them.

        Raises:
            SystemExit: on the others, if the first one failed; the first one reports the reason.
        """
        if not self.is_main:
            if self.from_first(False):
                raise SystemExit(2)
            yield
            return
        failed = True
        try:
            yield
            failed = False
        finally:
            self.from_first(failed)

    def require_same(self, value: Any, what: str, hint: str) -> None:
        """Stop if the processes have different values: they would train different runs, or wait forever.

        Raises:
            UserError: the values differ; raised on all processes, and names `what` differs.
        """
        if any(other != value for other in self.gather(value)):
            raise UserError(f"the processes of this run do not see the same {what}: {hint}")

    def share(self, batches: list[Batch], stop: bool, work: tuple[int, float] = (0, 0.0)) -> StepInput:
        """Send the others this process's counts, share of the work and request to stop; return all of the step."""
        tokens = sum(len(target) for batch in batches for target in batch.target_ids)
        gathered = self.gather([(tokens, stop, *work), *((b.seconds, b.skipped, b.sources) for b in batches)])
        heads, seen = [one[0] for one in gathered], [batch for one in gathered for batch in one[1:]]
        return StepInput(
            batches=batches,
            num_tokens=sum(head[0] for head in heads),
            positions=sum(head[2] for head in heads),
            flops=sum(head[3] for head in heads),
            seconds=[one for batch in seen for one in batch[0]],
            skipped=[skip for batch in seen for skip in batch[1]],
            sources=[source for batch in seen for source in batch[2]],
            stop=any(head[1] for head in heads),
        )


def leave_group(accelerator: Accelerator, together: bool) -> None:
    """Destroy the process group: if its threads are left to the interpreter, they may abort a process at its exit."""
    if dist.is_initialized():
        if together:
            accelerator.wait_for_everyone()
        gc.collect()
        dist.destroy_process_group()
