"""How a language model can read several clips at once, and write several transcripts: tried on the model itself.

The name of an architecture is not enough: a new version may add a window, a convolution or a recurrence. Each way is
tried on two short clips. It is used if its outputs equal those of each clip alone with the model's plainest attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import UserError
from .graphed import GraphedRows
from .packing import PACKED_ATTENTION, PackedLayout
from .weights import first_line
from .writing import Rows

logger = logging.getLogger(__name__)

LENGTHS = [19, 12]  # positions of the clips
NOISE = 0.05  # on the embeddings of text: audio tokens match no entry of the table, and a model might search for one
FIRST_REPLAY = 2  # of the logits of a recorded decoding: the prompt's and the first step's come before
REPLAYS = 4  # to try
WINDOW = 4  # positions of a sliding window while it is tried: shorter than the clips, as the real one may be
# Relative, at most positions: in bf16 a large model may round a single one very differently, but a wrong window or
# position changes them all, by 0.2 and more. Rounding is 1e-6 in fp32, and 0.03 in bf16 and fp16.
TOLERANCE = {torch.float32: 0.01}
COARSE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Reading:
    """The result of trying a model.

    Attributes:
        attention: the implementation of `transformers` that is used.
        packed: whether clips are read as one row; else as a batch, padded on the right.
        pads_left: whether clips of unequal length can be in one batch for writing; else only those of equal length.
        rows_leave: whether clips that have ended leave the batch while others are still written, see `writing`; else
            `transformers` writes padding after them until the last one has ended.
        graphed: whether a step of several clips can be one CUDA graph, see `graphed`; False if that was not tried.
        bare_head: whether logits are the plain output of the output embeddings, not scaled or capped afterwards.
        reason: why clips are not packed.
    """

    attention: str
    packed: bool
    pads_left: bool
    rows_leave: bool
    graphed: bool
    bare_head: bool
    reason: str = ""

    def __str__(self) -> str:
        packed = "packed" if self.packed else f"as padded batches, since it cannot read packed clips: {self.reason}"
        return packed + ("" if self.pads_left else "; transcripts are written for clips of equal length at a time")


@torch.no_grad()
def find_reading(module: Any, embeddings: Tensor, cuda_graph: bool = False) -> Reading:
    """Try a frozen causal language model, and set the attention that suits it.

    Args:
        module: of `transformers`, in evaluation mode.
        embeddings: (N, W) of some text; they are repeated if there are too few.
        cuda_graph: also try to write with a CUDA graph; the model must be on a CUDA device.

    Raises:
        UserError: the model reads a clip differently in any batch than alone, or does not accept embeddings.
    """
    try:
        trial = _Trial(module, embeddings)
    except Exception as error:  # any error of a model that does not accept embeddings
        raise UserError(f"it does not read audio tokens: {first_line(error)}") from error
    if not (reason := trial.problem(PACKED_ATTENTION, packed=True)):
        return Reading(PACKED_ATTENTION, True, *trial.writing(cuda_graph), trial.has_bare_head())
    for attention in (PACKED_ATTENTION, "eager"):  # of padded clips, the first is torch's own operation, and faster
        if not (problem := trial.problem(attention, packed=False)):
            return Reading(attention, False, *trial.writing(cuda_graph), trial.has_bare_head(), reason)
    raise UserError(f"it cannot read clips as if they were alone: {problem}")


class _Trial:
    """Two clips, and the model's output for each alone."""

    def __init__(self, module: Any, embeddings: Tensor) -> None:
        self.module = module
        self.tolerance = TOLERANCE.get(module.dtype, COARSE_TOLERANCE)
        places = torch.arange(sum(LENGTHS), device=embeddings.device) % len(embeddings)
        text = embeddings.index_select(0, places)
        noise = torch.randn(text.shape, generator=torch.Generator().manual_seed(0)).to(text)
        self.clips = list((text * (1 + NOISE * noise)).split(LENGTHS))
        module.set_attn_implementation("eager")
        with short_windows(module, WINDOW) as windowed:
            self.alone = [self._read([clip], packed=False)[0] for clip in self.clips]
        # A window whose length cannot be set cannot be tried.
        self.has_hidden_window = windowed and self._agrees(self._read(self.clips[:1], packed=False)[0], self.alone[0])

    def problem(self, attention: str, packed: bool) -> str:
        """Return why clips cannot be read with this attention, in a row or as a padded batch; empty: they can."""
        if packed and self.has_hidden_window:
            return "its sliding window cannot be tried"
        first, second = self.clips
        nan_clip = [torch.full_like(first[:7], torch.nan)] * packed  # a clip that attends to it becomes NaN
        try:
            self.module.set_attn_implementation(attention)
            with short_windows(self.module, WINDOW):
                read = self._read([first, *nan_clip, second], packed)
        except Exception as error:  # any error of a model that does not accept the arguments
            return first_line(error)
        if self._agrees(read[0], self.alone[0]) and self._agrees(read[-1], self.alone[1]):
            return ""
        apart = read[0].isfinite().all() and read[-1].isfinite().all()
        return "clips are read differently than alone" if apart else "clips affect each other"

    def writing(self, cuda_graph: bool) -> tuple[bool, bool, bool]:
        """Return whether the model writes after the shorter clip as if it were alone, for any padding; whether it does
        so when the longer clip leaves the batch; and whether it does so with a CUDA graph, if this is to be tried.

        Raises:
            UserError: the model cannot write even after a single clip.
        """
        try:
            with short_windows(self.module, WINDOW):
                alone = self._write(self.clips[1:])
        except Exception as error:  # any error of a model that cannot generate
            raise UserError(f"it cannot write text after a clip: {first_line(error)}") from error
        pads_left = self._writes_as(alone, self._write)
        rows_leave = pads_left and self._writes_as(alone, self._write_leaving)
        return pads_left, rows_leave, rows_leave and cuda_graph and self._replays(alone)

    def _writes_as(self, alone: Tensor, write: Callable[[Sequence[Tensor]], Tensor]) -> bool:
        try:
            with short_windows(self.module, WINDOW):
                return self._agrees(write(self.clips), alone)
        except Exception as error:  # any error of a model that does not support padding, or this cache
            logger.debug("Padding on the left: %s", first_line(error))
            return False

    def has_bare_head(self) -> bool:
        """See `Reading`."""
        if self.module.base_model is self.module:
            return False
        arguments = {"inputs_embeds": self.clips[1][None], "use_cache": False}
        hidden = self.module.base_model(**arguments).last_hidden_state
        return torch.equal(self.module.get_output_embeddings()(hidden), self.module(**arguments).logits)

    def _read(self, clips: Sequence[Tensor], packed: bool) -> tuple[Tensor, ...]:
        """Return the logits (N_i, V) of each clip."""
        lengths = [len(clip) for clip in clips]
        layout = PackedLayout.of(lengths, clips[0].device)
        logits: Tensor = self.module(**layout.arguments(torch.cat(list(clips)), packed)).logits
        row = logits[0] if packed else logits.flatten(0, 1).index_select(0, layout.to_packed)
        return row.float().split(lengths)

    def _write(self, clips: Sequence[Tensor]) -> Tensor:
        """Return the logits (3, V) of the first tokens after the last clip; the choice among them is forced."""
        embeddings, mask = self._pad_left(clips)
        written = write_after(
            self.module,
            embeddings,
            mask,
            max_new_tokens=3,
            pad_token_id=0,
            logits_processor=[
                lambda ids, scores: scores.index_fill(1, scores.new_ones(1, dtype=torch.long), torch.inf)
            ],
            return_dict_in_generate=True,
            output_logits=True,
        )
        return torch.stack([step[-1] for step in written.logits]).float()

    def _write_leaving(self, clips: Sequence[Tensor]) -> Tensor:
        """Return the same as `_write`, by `Rows`: after the first token only the last clip stays."""
        embeddings, mask = self._pad_left(clips)
        return self._force(Rows(self.module, embeddings, mask, [len(clip) for clip in clips]), len(clips))

    def _replays(self, alone: Tensor) -> bool:
        """Whether steps that are recorded and replayed give the same as steps that are not, and as a clip alone."""
        try:
            with short_windows(self.module, WINDOW):
                plain, replayed = (self._write_graphed(record) for record in (False, True))
        except Exception as error:  # any error of a model that cannot be recorded
            logger.debug("CUDA graph: %s", first_line(error))
            return False
        return self._agrees(plain[: len(alone)], alone) and self._agrees(replayed[FIRST_REPLAY:], plain[FIRST_REPLAY:])

    def _write_graphed(self, record: bool) -> Tensor:
        """Return the logits (REPLAYS + 2, V) after the last clip, by `GraphedRows`, recorded or not."""
        embeddings, mask = self._pad_left(self.clips)
        lengths, count = [len(clip) for clip in self.clips], len(self.clips)
        # More rows than clips, as in a beam search; and a step for `refuse_waiting`.
        rows = GraphedRows(self.module, embeddings, mask, lengths, count + 1, FIRST_REPLAY + REPLAYS, record)
        written = self._force(rows, count, FIRST_REPLAY - 1 + REPLAYS)
        if embeddings.is_cuda and not record:
            rows.refuse_waiting()
        return written

    @staticmethod
    def _force(rows: Rows, count: int, num_steps: int = 2) -> Tensor:
        """Write tokens 1 after the last of `count` clips; return the logits (num_steps + 1, V) before each."""
        found = [rows.logits[-1].clone()]
        for running in (count, *[1] * (num_steps - 1)):
            rows.step(torch.ones(1, dtype=torch.long, device=found[0].device), [running - 1])
            found.append(rows.logits[-1].clone())
        return torch.stack(found).float()

    def _pad_left(self, clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the clips padded on the left with something that is not zero, and their mask."""
        embeddings, mask = pad_left(clips)
        return torch.where(mask[:, :, None] > 0, embeddings, self.clips[0][:1]), mask

    def _agrees(self, ours: Tensor, alone: Tensor) -> bool:
        error = (ours - alone).norm(dim=-1) / alone.norm(dim=-1)
        return bool(error.isfinite().all() and (error < self.tolerance).float().mean() > 0.5)


@contextmanager
def short_windows(module: Any, size: int) -> Iterator[bool]:
    """Set the model's sliding windows to `size` positions within this context; yield whether it has any."""
    holders = [module.config, module.config.get_text_config(), *module.modules()]
    windows = [(holder, holder.sliding_window) for holder in holders if isinstance(_window(holder), int)]
    try:
        for holder, _ in windows:
            holder.sliding_window = size
        yield bool(windows)
    finally:
        for holder, window in reversed(windows):  # the same configuration may be in the list twice
            holder.sliding_window = window


def _window(holder: Any) -> Any:
    return getattr(holder, "sliding_window", None)


def pad_left(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return embeddings (N_i, W) as a batch (B, L, W) with zeros before the shorter ones, and its mask (B, L) int64."""
    reverse = pad_sequence([clip.flip(0) for clip in clips], batch_first=True)
    mask = pad_sequence([torch.ones(len(clip), dtype=torch.long) for clip in clips], batch_first=True)
    return reverse.flip(1), mask.flip(1).to(reverse.device)


def write_after(module: Any, embeddings: Tensor, mask: Tensor, **options: Any) -> Any:
    """Let `module.generate` write after embeddings (B, L, W), with these options; see `pad_left`.

    Some classes generate only after tokens, so it gets L placeholder tokens, whose embeddings are replaced. The
    returned sequences begin with those L tokens.
    """

    def replace(layer: Any, arguments: Any, output: Tensor) -> Tensor:
        hook.remove()  # later calls embed written tokens
        assert output.shape == embeddings.shape
        return embeddings

    hook = module.get_input_embeddings().register_forward_hook(replace)
    tokens = torch.full_like(mask, int(options["pad_token_id"] == 0))  # no padding
    try:
        return module.generate(tokens, attention_mask=mask, **options)
    finally:
        hook.remove()
