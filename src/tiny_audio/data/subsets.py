"""Subsets of corpora that depend only on a seed and on the corpora.

Items are sorted by a hash of the seed and their names. So the order does not depend on their number, on where they
were read from, or on the rest of the mixture; and a smaller subset is part of a larger one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def seeded_order(names: Iterable[str], seed: int) -> np.ndarray:
    """Return a permutation (N,) of N names, random by a hash; equal names get different places."""
    key = seed.to_bytes(8, "little")
    seen: Counter[str] = Counter()
    places = []
    for name in names:
        content = f"{seen[name]} {name}".encode("utf-8", "surrogatepass")
        seen[name] += 1
        places.append(hashlib.blake2b(content, digest_size=8, key=key).digest())
    return np.argsort(np.array(places, dtype="S8").view(">u8") if places else np.zeros(0), kind="stable")


def allot(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Divide `total` in proportion to weights, each part at most its size; large remainders round up."""
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
