"""Write transcripts of several clips, a token at a time. Clips whose transcript has ended leave the batch.

Dimensions: B clips that are still in the batch, L positions so far, H heads, E head width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from .loop_guard import find_loop

STAYING = 0.75  # ended clips leave when at most this share of the batch is still written: it copies all keys and values
ROOM = 64  # positions to add when keys and values are copied to larger tensors


class RoomyLayer(DynamicLayer):
    """Keys and values (B, H, L, E) of a layer, in tensors with room for more positions.

    The stock layer concatenates old and new positions, which copies everything at each token. The mask alone applies a
    sliding window: positions outside it stay in the tensors.
    """

    _layer_type = None  # else `transformers` would use this class for all later caches

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, n, E); return all of them, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rooms = [key_states[:, :, :0], value_states[:, :, :0]]
        start = self._length
        end = start + key_states.shape[-2]
        if end > self._rooms[0].shape[-2]:
            more = end + ROOM - start
            self._rooms = [pad(room[:, :, :start], (0, 0, 0, more)) for room in self._rooms]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        return self._see(end)

    def keep(self, rows: Tensor, start: int) -> None:
        """Keep the clips at `rows` (b,), and the positions from `start` on."""
        end = self._length
        self._rooms = [room[:, :, start:].index_select(0, rows) for room in self._rooms]
        self._see(end - start)

    def reorder(self, rows: Tensor, start: int) -> None:
        """Replace the positions from `start` on by those of the clips at `rows` (B,)."""
        for room in self._rooms:
            room[:, :, start : self._length] = room[:, :, start : self._length].index_select(0, rows)

    @property
    def _length(self) -> int:
        return int(self.get_seq_length())

    def _see(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (room[:, :, :length] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values


class Rows:
    """Clips that a model writes after, in a batch that is padded on the left: see `pad_left`.

    Args:
        module: of `transformers`; a class that keeps more than keys and values, or takes no positions, cannot write
            like this: it raises an error, or writes something else than for a single clip.
        embeddings: (B, L, W).
        mask: (B, L) int64, 0 at padding.
        lengths: B numbers of positions without padding, as in `mask`.

    Attributes:
        logits: (B, V) of the next token.
        shrink: whether a step of fewer rows takes less time.
    """

    shrink = True

    def __init__(self, module: Any, embeddings: Tensor, mask: Tensor, lengths: Sequence[int]) -> None:
        known = inspect.signature(module.forward).parameters
        self._module = module
        self._cache = self._make_cache()
        name = "cache" if "cache" in known else "past_key_values"  # by the version of transformers
        self._fixed: dict[str, Any] = {name: self._cache, "use_cache": True}
        if "logits_to_keep" in known:
            self._fixed["logits_to_keep"] = 1
        self._padding = [mask.shape[1] - length for length in lengths]
        self._clips = list(range(len(mask)))  # which clip each row continues
        self._mask = mask
        self._num_read = mask.shape[1]  # positions before the first token that was written
        positions = (mask.cumsum(1) - 1).clamp_(min=0)
        self._last = positions[:, -1:]
        self.logits = self._read(positions, inputs_embeds=embeddings)

    def step(self, tokens: Tensor, rows: Sequence[int]) -> None:
        """Write tokens (b,) int64, each after its row in `rows`; a row may be continued more than once, or leave."""
        if list(rows) != list(range(len(self._padding))):
            self._choose(rows, torch.tensor(rows, device=tokens.device))
        self._mask = pad(self._mask, (0, 1), value=1)
        self._last = self._last + 1
        self.logits = self._read(self._last, input_ids=tokens[:, None])

    def _make_cache(self) -> Cache:
        return Cache(layer_class_to_replicate=RoomyLayer)

    def _choose(self, rows: Sequence[int], chosen: Tensor) -> None:
        layers = cast(list[RoomyLayer], self._cache.layers)  # of no other class: see `__init__`
        clips = [self._clips[row] for row in rows]
        if clips == self._clips:  # as mostly in a beam search: what was read stays where it is
            for layer in layers:
                layer.reorder(chosen, self._num_read)
            return
        padding = [self._padding[row] for row in rows]
        start = min(padding)  # columns of padding that only clips needed which have left
        for layer in layers:
            layer.keep(chosen, start)
        self._clips = clips
        self._num_read -= start
        self._padding = [count - start for count in padding]
        self._last = self._last.index_select(0, chosen)
        self._mask = self._mask[:, start:].index_select(0, chosen)

    def _read(self, positions: Tensor, **what: Tensor) -> Tensor:
        # Attention without a mask has faster kernels, and need not check at each step whether the mask hides anything.
        mask = self._mask if any(self._padding) else None
        read = self._module(**what, attention_mask=mask, position_ids=positions, **self._fixed)
        logits: Tensor = read.logits[:, -1]
        return logits


def write_rows(rows: Rows, limits: Sequence[int], end_ids: set[int], kept: dict[int, int] | None) -> list[list[int]]:
    """Write greedily after several clips.

    Args:
        rows: the clips, after which nothing has been written.
        limits: upper limit of tokens for each clip, at least 1.
        end_ids: tokens that end a transcript.
        kept: if given, transcripts that loop are ended, and `kept[number of the clip]` is set to the tokens to keep.

    Returns:
        The tokens of each clip, without the end token.
    """
    written: list[list[int]] = [[] for _ in limits]
    running: list[int | None] = list(range(len(limits)))  # None: it has ended, and has not left yet
    while True:
        tokens = rows.logits.float().argmax(-1)
        for place, (clip, token) in enumerate(zip(running, tokens.tolist(), strict=True)):
            if clip is None:
                continue
            if token not in end_ids:
                written[clip].append(token)
                if kept is not None and (count := find_loop(written[clip])) is not None:
                    kept[clip] = count
                elif len(written[clip]) < limits[clip]:
                    continue
            running[place] = None
        stay = [place for place, clip in enumerate(running) if clip is not None]
        if not stay:
            return written
        if not rows.shrink or len(stay) > STAYING * len(running):
            stay = list(range(len(running)))
        rows.step(tokens[torch.tensor(stay, device=tokens.device)], stay)
        running = [running[place] for place in stay]


def distinct(clips: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return the different ones among clips' embeddings, and the place of each clip's own among them."""
    found: list[Tensor] = []
    places = []
    for clip in clips:
        place = next((n for n, one in enumerate(found) if torch.equal(one, clip)), len(found))
        if place == len(found):
            found.append(clip)
        places.append(place)
    return found, places
