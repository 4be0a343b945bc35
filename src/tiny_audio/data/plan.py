"""The sampling plan: which clip is drawn when, and which clips make up a batch, as a pure function.

The training data is an endless stream of draws, numbered from 0, without epochs. Draw n

1. picks its source by a golden-ratio sequence, which visits the sources in proportion to their weights with
   the least possible deviation: after any number of draws, every source's count is within a few of its exact
   share;
2. takes the next clip of that source's current shuffle. A source is reshuffled when all its clips have been
   drawn. So a small corpus with a large weight repeats often, and no clip repeats before all others are drawn.

Draws are batched window by window: a window's draws are sorted by duration, cut into batches, and the batches
are shuffled. That leaves hardly any padding and, over a window, does not change the mixture.

Nothing here depends on the past, on the number of processes, or on worker processes. So the position in the
data is one number: the number of batches trained on. K sources, N_k clips in source k.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from .stream import ReadAhead

#: 2^64 divided by the golden ratio, odd: multiples of it, modulo 2^64, fill the circle as evenly as can be.
GOLDEN_STEP = np.uint64(0x9E3779B97F4A7C15)
WINDOW_BATCHES = 64  # 1024 draws at batch 16: padding of about 1 %, and a shuffle that still mixes widely
GROUP_BATCHES = 8  # neighbors by duration stay together, so the processes of one step get similar lengths
POOL_BLOCKS = 16  # row groups of a stream that are open at a time: 1,600 clips at 100 per row group, about 400 MB
JITTER_SECONDS = 0.1  # random order among clips of almost the same duration
BLOCK_DRAWS = 1 << 20  # draws counted at once when a run resumes: 16 MB, 10 ms


class Draw(NamedTuple):
    """One clip of the stream: its number in the stream, its source, and its row in that source."""

    number: int
    source: int
    row: int


class Durations(Protocol):
    """Seconds of N clips: a float32 array (N,), or an object that finds the seconds of the rows it is given."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Return the seconds of some rows (R,), or of one."""

    def tobytes(self) -> bytes:
        """Return bytes that differ from those of other durations."""


class SamplingPlan:
    """Which clips are drawn, in which order.

    Args:
        durations: for each of K sources the seconds of its clips, an array (N_k,), or an object that finds them when
            clips are drawn; no source is empty.
        weights: K positive numbers, normalized here: the sources' shares of the draws.
        batch_size: clips per batch.
        seed: of all choices.
        temperature: shares are proportional to weight^(1/temperature); above 1 they move toward equality.
        blocks: for each source None, or (N_k,) the block of each row. Rows of a block are fetched together, so
            shuffles keep them close.
    """

    def __init__(
        self,
        durations: Sequence[Durations],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        temperature: float = 1.0,
        blocks: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        assert len(durations) == len(weights) > 0, "one weight per source"
        assert all(len(d) for d in durations)
        assert min(weights) > 0
        assert batch_size >= 1
        assert temperature > 0
        arrays = (np.ndarray, list)
        self.durations: list[Any] = [np.asarray(d, np.float32) if isinstance(d, arrays) else d for d in durations]
        self.sizes = np.array([len(d) for d in durations], dtype=np.int64)
        self.blocks = list(blocks) if blocks is not None else [None] * len(durations)
        self.batch_size = batch_size
        self.seed = seed
        tempered = np.asarray(weights, dtype=np.float64) ** (1 / temperature)
        self.shares: np.ndarray = tempered / tempered.sum()
        self.window_batches = self._choose_window()
        self.window = self.window_batches * batch_size

        # For each source but the last, the point of the circle [0, 2^64) where it ends.
        reach = self.shares.cumsum()[:-1].clip(0, 1 - 2**-53)
        self._bounds = np.array([int(share * 2.0**64) for share in reach], np.uint64)
        self._start = np.random.default_rng([seed, 0]).integers(2**64, dtype=np.uint64)
        self._counted = (0, np.zeros_like(self.sizes))  # a number of draws, and each source's part of them
        self._shuffles: dict[int, tuple[int, np.ndarray]] = {}  # source: its current pass and order
        self._cached: tuple[int, list[list[Draw]]] = (-1, [])  # the current window and its batches

    @property
    def num_clips(self) -> int:
        """Clips of all sources together."""
        return int(self.sizes.sum())

    @property
    def fingerprint(self) -> str:
        """A hash of all that the stream depends on: two plans with the same hash draw the same batches."""
        settings = (self.seed, self.batch_size, self.window, self.shares.tolist())
        digest = hashlib.sha256(repr(settings).encode())
        for durations, blocks in zip(self.durations, self.blocks, strict=True):
            digest.update(len(durations).to_bytes(8, "little"))
            digest.update(durations.tobytes())
            digest.update(b"" if blocks is None else blocks.tobytes())
        return digest.hexdigest()[:16]

    def epoch(self, draws: int) -> float:
        """Passes over the data that `draws` draws amount to: draws divided by clips."""
        return draws / self.num_clips

    def batch(self, number: int) -> list[Draw]:
        """Return the draws of the global batch `number`."""
        window, position = divmod(number, self.window_batches)
        if self._cached[0] != window:
            self._cached = (window, self._window(window))
        return self._cached[1][position]

    def draws(self, start: int, count: int) -> list[Draw]:
        """Return `count` draws from number `start` on, in the order of their numbers, at any batch size."""
        sources, rows = self._drawn(start, count)
        return [Draw(start + i, int(sources[i]), int(rows[i])) for i in range(count)]

    def _drawn(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The sources (count,) and rows (count,) of the draws from `start` on."""
        sources = self._sources(start, start + count)
        rows = np.empty(count, dtype=np.int64)
        for source, before in enumerate(self._counts_before(start)):
            here = np.flatnonzero(sources == source)
            rows[here] = self._rows(source, int(before), len(here))
        return sources, rows

    def _choose_window(self) -> int:
        """Batches per window: as many as possible without the same clip twice in a window, at least one."""
        fewest = (self.sizes / self.shares).min()  # draws after which the first source starts again
        return int(min(WINDOW_BATCHES, max(1, fewest // self.batch_size)))

    def _sources(self, start: int, stop: int) -> np.ndarray:
        """The sources (stop - start,) of the draws start to stop."""
        # Unsigned numbers wrap around at 2^64, which closes the circle.
        points = np.arange(start, stop, dtype=np.uint64) * GOLDEN_STEP + self._start
        return np.searchsorted(self._bounds, points, side="right")

    def _counts_before(self, number: int) -> np.ndarray:
        """How many of the draws before `number` each source got (K,)."""
        done, counts = self._counted if self._counted[0] <= number else (0, np.zeros_like(self.sizes))
        counts = counts.copy()
        for start in range(done, number, BLOCK_DRAWS):
            block = self._sources(start, min(start + BLOCK_DRAWS, number))
            counts += np.bincount(block, minlength=len(counts))
        self._counted = (number, counts)
        return counts

    def _rows(self, source: int, first: int, count: int) -> np.ndarray:
        """Rows (count,) of one source's draws from its draw `first` on, counted within that source."""
        size = int(self.sizes[source])
        parts = []
        while count:
            turn, offset = divmod(first, size)
            if self._shuffles.get(source, (-1,))[0] != turn:
                rng = np.random.default_rng([self.seed, 1, source, turn])
                blocks = self.blocks[source]
                order = rng.permutation(size) if blocks is None else shuffle_blocks(blocks, rng)
                self._shuffles[source] = (turn, order)
            parts.append(self._shuffles[source][1][offset : offset + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def window_rows(self, window: int) -> list[np.ndarray]:
        """Return the rows that a window draws from each source, K arrays (R_k,)."""
        sources, rows = self._drawn(window * self.window, self.window)
        return [rows[sources == source] for source in range(len(self.sizes))]

    def _window(self, window: int) -> list[list[Draw]]:
        """The batches of a window, in the order in which they are trained on."""
        start = window * self.window
        sources, rows = self._drawn(start, self.window)
        seconds = np.empty(self.window, dtype=np.float32)
        for source, durations in enumerate(self.durations):
            here = np.flatnonzero(sources == source)
            seconds[here] = durations[rows[here]]

        rng = np.random.default_rng([self.seed, 2, window])
        by_length = np.argsort(seconds + rng.random(self.window) * JITTER_SECONDS, kind="stable")
        batches = by_length.reshape(self.window_batches, self.batch_size)
        group = GROUP_BATCHES if self.window_batches >= 2 * GROUP_BATCHES else 1
        groups = [rng.permutation(batches[i : i + group]) for i in range(0, len(batches), group)]
        ordered = [batch for i in rng.permutation(len(groups)) for batch in groups[i]]
        return [[Draw(start + int(i), int(sources[i]), int(rows[i])) for i in batch] for batch in ordered]


def shuffle_blocks(blocks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle rows so that few blocks are open at a time: shuffle the blocks, then the rows of each POOL_BLOCKS blocks.

    Args:
        blocks: (N,) the block of each row.
        rng: of all choices.

    Returns:
        (N,) int64, a permutation.
    """
    by_block = np.argsort(rng.permutation(int(blocks.max()) + 1)[blocks], kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(blocks[by_block])) + 1])
    pools = np.split(by_block, starts[POOL_BLOCKS::POOL_BLOCKS])
    return np.concatenate([rng.permutation(pool) for pool in pools])


@dataclass(eq=False)
class PlanSampler:
    """The batches of one of R processes, for `DataLoader(batch_sampler=...)`.

    Process r takes the global batches start + r, start + R + r, and so on. So a step of R processes always
    trains on the same R batches, for any assignment to processes. A loader prefetches, so a sampler is
    always ahead of the training. The training loop counts the position and passes it to a new sampler as
    `start_batch`.

    Attributes:
        plan: what is drawn.
        start_batch: the first global batch of all processes.
        process_index: r.
        num_processes: R.
        stop_batch: the global batch before which the stream ends; never, if left out.
        ahead: called at the start of a window, with its rows and those of the next window; closed at the end.
    """

    plan: SamplingPlan
    start_batch: int = 0
    process_index: int = 0
    num_processes: int = 1
    stop_batch: int | None = None
    ahead: ReadAhead | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.process_index < self.num_processes

    def __iter__(self) -> Iterator[list[Draw]]:
        number, size, begun = self.start_batch + self.process_index, self.plan.window_batches, -1
        try:
            while self.stop_batch is None or number < self.stop_batch:
                if self.ahead is not None and number // size != begun:
                    begun = number // size
                    last = begun if self.stop_batch is not None and (begun + 1) * size >= self.stop_batch else begun + 1
                    self.ahead([self.plan.window_rows(window) for window in range(begun, last + 1)])
                yield self.plan.batch(number)
                number += self.num_processes
        finally:
            if self.ahead is not None:
                self.ahead.close()
