"""Steps of decoding as one CUDA graph: the GPU repeats recorded kernels, and the host launches one graph a token.

Without it the host launches each kernel of each layer at each token, and the GPU waits for it: reading one token takes
a model of this size far less time than launching its kernels. A graph reads and writes the same memory each time. So
the number of rows is fixed, and so is the number of positions that the keys and values have room for.

Dimensions: R rows, M positions that there is room for, H heads, E head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache

from .writing import RoomyLayer, Rows

MULTIPLE = 8  # of positions: kernels of attention copy a mask of another length


class FixedLayer(RoomyLayer):
    """Keys and values (R, H, M, E) of a layer that stay where they are in memory.

    Args:
        num_positions: M.
    """

    def __init__(self, num_positions: int) -> None:
        super().__init__()
        self._num_positions = num_positions

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take the prompt's keys and values (R, H, L, E); from then on, add those of one position, and return all M."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            length = key_states.shape[-2]
            more = (0, 0, 0, self._num_positions - length)
            self._rooms = [pad(states, more) for states in (key_states, value_states)]
            self._place = torch.tensor([length], device=key_states.device)
            return self._see(length)
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room.index_copy_(2, self._place, states)
        self._place += 1
        return self._rooms[0], self._rooms[1]

    def choose(self, rows: Tensor) -> None:
        """Replace the rows by those at `rows` (R,): in place, unless there were fewer."""
        self._rooms = [_take(room, rows) for room in self._rooms]
        self._see(self._length)


class GraphedRows(Rows):
    """Clips that a model writes after, in a batch of a fixed size: see `Rows`.

    The first step runs without a graph, as it sets up what kernels need. The second is recorded.

    Args:
        module, embeddings, mask, lengths: see `Rows`; the model must attend to what a 4-D mask says, and to no less:
            a sliding window would not be applied.
        num_rows: R, the most rows of a step.
        num_steps: the most steps.
        record: whether to record a graph; False: each step runs like the first, on any device.
    """

    shrink = False

    def __init__(
        self,
        module: Any,
        embeddings: Tensor,
        mask: Tensor,
        lengths: Sequence[int],
        num_rows: int,
        num_steps: int,
        record: bool = True,
    ) -> None:
        length = mask.shape[1]
        self._num_rows = num_rows
        self._num_positions = -(-(length + num_steps) // MULTIPLE) * MULTIPLE
        super().__init__(module, embeddings, mask, lengths)
        self._allowed = pad(mask.bool(), (0, self._num_positions - length))[:, None, None]
        self._tokens = torch.zeros(num_rows, 1, dtype=torch.int64, device=mask.device)
        self._num_written = 0
        self._record = record
        self._graph: torch.cuda.CUDAGraph | None = None

    def step(self, tokens: Tensor, rows: Sequence[int]) -> None:
        """Write tokens (b,) int64, b at most R, each after its row in `rows`; see `Rows.step`."""
        places = [*rows, *[rows[0]] * (self._num_rows - len(rows))]  # the rest are computed, and not read
        if places != list(range(len(self._last))):
            chosen = torch.tensor(places, device=tokens.device)
            for layer in cast(list[FixedLayer], self._cache.layers):
                layer.choose(chosen)
            self._allowed, self._last = _take(self._allowed, chosen), _take(self._last, chosen)
        self._tokens[: len(rows), 0] = tokens
        self._allowed[..., self._num_read + self._num_written] = True
        self._last += 1
        self._num_written += 1
        if not self._record or self._num_written == 1:
            self._out = self._read_tokens()
        else:
            if self._graph is None:
                self._graph = self._make_graph()
            self._graph.replay()
        self.logits = self._out[: len(rows)]

    def _make_cache(self) -> Cache:
        layer: Any = partial(FixedLayer, self._num_positions)
        return Cache(layer_class_to_replicate=layer)

    def refuse_waiting(self) -> None:
        """Read the last tokens once more, without a graph.

        Raises:
            RuntimeError: the host waits for the device. A recording that fails for this leaves torch's memory in
                disorder.
        """
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self._read_tokens()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def _make_graph(self) -> torch.cuda.CUDAGraph:
        """Record a step: its kernels are not run."""
        graph, device = torch.cuda.CUDAGraph(), self._tokens.device
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # a recording cannot take what torch keeps for others
        with torch.cuda.device(device), torch.cuda.stream(_recording_stream(device)), _no_autocast_cache():
            graph.capture_begin(capture_error_mode="thread_local")  # other threads may copy the next batch
            try:
                self._out = self._read_tokens()
            finally:
                graph.capture_end()
        torch.cuda.synchronize(device)
        return graph

    def _read_tokens(self) -> Tensor:
        """Return logits (R, V)."""
        read = self._module(
            input_ids=self._tokens, attention_mask=self._allowed, position_ids=self._last, **self._fixed
        )
        logits: Tensor = read.logits[:, -1]
        return logits


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the same stream each time: libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)


def _take(part: Tensor, rows: Tensor) -> Tensor:
    """Return a tensor (R, ...) with the rows at `rows` (R,): the same one, unless it had fewer."""
    chosen = part.index_select(0, rows)
    return part.copy_(chosen) if part.shape == chosen.shape else chosen


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Cast weights anew: a graph cannot use those that autocast keeps, which are freed when it ends."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
