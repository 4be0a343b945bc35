"""Contexts: text that is known about a clip in advance, such as names, a domain, or the sentence before it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import DataConfig
from ..errors import UserError
from ..text import clean_context
from .strings import Strings, shown

logger = logging.getLogger(__name__)

STREAM = 5  # plan, augmentation and silence make their choices from the seed and 0 to 4


@dataclass(eq=False)
class ContextReader:
    """Returns the tokens of the context that a draw is read with.

    Whether a context is left out is a pure function of seed and draw, as augmentation is. So it is the same in every
    process, and in a resumed run.

    Attributes:
        encode: a cleaned context to tokens.
        dropout: share of the draws whose context is left out.
        seed: of that choice.
    """

    encode: Callable[[str], list[int]]
    dropout: float = 0.0
    seed: int = 0

    def __call__(self, context: str, number: int) -> list[int]:
        """Read the context of the draw `number`: see `Draw.number`."""
        if not context or np.random.default_rng([self.seed, STREAM, number]).random() < self.dropout:
            return []
        return self.encode(context)


def read_contexts(values: Iterable[Any], where: Callable[[int], str], origin: object) -> Strings:
    """Return the contexts of a column as they are written, lists joined by commas; empty: there is none.

    Args:
        values: of N rows.
        where: a row's place in words, by its number.
        origin: what they were read from.

    Raises:
        UserError: a value is not text, so the column does not hold contexts.
    """
    return Strings(_read(value, where, row, origin) for row, value in enumerate(values))


def _read(value: Any, where: Callable[[int], str], row: int, origin: object) -> str:
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        value = ", ".join(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"data.datasets: {origin} {where(row)}: the context is {shown(value, 30)}, and must be text or a list of "
            "texts; set context_column to another column, or to '' for none."
        )
    return value


def clean_contexts(raw: Sequence[str] | None, rows: Sequence[int], data: DataConfig, name: str) -> Strings | None:
    """Return the contexts of some rows in the form that the model reads; None if no row has one.

    A context longer than `data.max_context_length` is cut, with a message.

    Args:
        raw: the contexts of a table.
        rows: the rows that are wanted.
        data: case and length.
        name: of the corpus.
    """
    if raw is None:
        return None
    whole = [clean_context(raw[row], data.text_case) if raw[row] else "" for row in rows]
    limit = data.max_context_length
    if num_long := sum(len(context) > limit for context in whole):
        text = "%s: %s contexts are longer than data.max_context_length=%d characters, and are cut."
        logger.warning(text, name, f"{num_long:,}", limit)
    return Strings(cut(context, limit) for context in whole) if any(whole) else None


def cut(context: str, limit: int) -> str:
    """Return the first `limit` characters of a context at most, cut between words if it has several."""
    if len(context) <= limit:
        return context
    words, space, _ = context[: limit + 1].rpartition(" ")
    return words.rstrip(" ,;") if space else context[:limit]
