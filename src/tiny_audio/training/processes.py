"""What the processes of a run tell each other at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator

from ..data.loader import Batch
from ..data.skips import Skip
from ..errors import UserError


@dataclass(frozen=True)
class StepInput:
    """A step's batches, and what all processes know of them before they make it.

    Attributes:
        batches: of this process, one an accumulation.
        num_tokens: target tokens of the whole step.
        seconds, skipped, sources: of all its batches, see `Batch`.
        stop: whether any process was asked to stop.
    """

    batches: list[Batch]
    num_tokens: int
    seconds: list[float]
    skipped: list[Skip]
    sources: list[int]
    stop: bool


class Processes:
    """Exchanges plain values between the hosts, one message a step.

    They go over the CPU (gloo), even where gradients go over the GPUs: a collective there would make every host wait
    for its GPU, which could no longer be given work ahead.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.count = accelerator.num_processes
        own_group = self.count > 1 and dist.get_backend() != "gloo"
        self._group = dist.new_group(backend="gloo") if own_group else None

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def require_same(self, value: Any, what: str) -> None:
        """Refuse to go on where the processes disagree: they would train on different data, or wait for ever.

        Raises:
            UserError: on all of them, naming `what` they disagree on.
        """
        if any(other != value for other in self.gather(value)):
            raise UserError(
                f"the processes of this run do not see the same {what}: the same files have to be readable by all of "
                "them (skipped.jsonl and `ta data check` name those that are not)."
            )

    def share(self, batches: list[Batch], stop: bool) -> StepInput:
        """Tell the others of this process's batches, and whether it was asked to stop."""
        tokens = sum(len(target) for batch in batches for target in batch.target_ids)
        told = self.gather([(tokens, stop), *((b.seconds, b.skipped, b.sources) for b in batches)])
        heads, seen = [one[0] for one in told], [batch for one in told for batch in one[1:]]
        return StepInput(
            batches=batches,
            num_tokens=sum(head[0] for head in heads),
            seconds=[one for batch in seen for one in batch[0]],
            skipped=[skip for batch in seen for skip in batch[1]],
            sources=[source for batch in seen for source in batch[2]],
            stop=any(head[1] for head in heads),
        )
