"""Ranking by a figure: the only place that defines what better means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def best_first(items: Iterable[T], value: Callable[[T], float], greater_is_better: bool) -> list[T]:
    """Return items by a figure, best first, equal ones in their order; items without a finite figure are left out."""
    sign = -1 if greater_is_better else 1
    finite = [item for item in items if math.isfinite(value(item))]
    return sorted(finite, key=lambda item: sign * value(item))
