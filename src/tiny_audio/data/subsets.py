"""Subsets of corpora that depend on a seed and on the corpora alone.

Things are put in order by a hash of the seed and their names. So neither their number, nor where they were read from,
nor what else is in the mixture changes which come first; and a smaller subset is part of a larger one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def seeded_order(names: Iterable[str], seed: int) -> np.ndarray:
    """Return a permutation (N,) of N names, as random as a hash of them; of equal names each has a place of its own."""
    key = seed.to_bytes(8, "little")
    seen: Counter[str] = Counter()
    places = []
    for name in names:
        content = f"{seen[name]} {name}".encode("utf-8", "surrogatepass")
        seen[name] += 1
        places.append(hashlib.blake2b(content, digest_size=8, key=key).digest())
    return np.argsort(np.array(places, dtype="S8").view(">u8") if places else np.zeros(0), kind="stable")


def allot(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Share `total` out in proportion to weights, at most its size to each; large remainders round up."""
    room, shares = np.array(sizes, dtype=np.int64), np.array(weights, dtype=np.float64)
    total = min(total, int(room.sum()))
    full = np.zeros(len(room), dtype=bool)
    quotas = room.astype(np.float64)
    while not full.all():
        left = total - room[full].sum()
        quotas = np.where(full, room, left * shares / shares[~full].sum())
        if not (over := ~full & (quotas > room)).any():
            break
        full |= over
        quotas = np.where(full, room, quotas)
    counts = np.floor(quotas).astype(np.int64)
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts.tolist()
