"""Subsets of corpora that depend on a seed and on the corpora alone, and what names an evaluation set.

Things are put in order by a hash of the seed and their names. So neither their number, nor where they were read from,
nor what else is in the mixture changes which come first; and a smaller subset is part of a larger one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import write_whole

if TYPE_CHECKING:
    from .sources import Source

logger = logging.getLogger(__name__)


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


def take(sources: Sequence[Source], limit: int, seed: int) -> list[Source]:
    """Return a seeded subset of `limit` clips over all sources, in proportion to their weights.

    A source that is left with none is dropped, and named.
    """
    counts = allot(limit, [source.weight for source in sources], [len(source) for source in sources])
    taken = []
    for source, count in zip(sources, counts, strict=True):
        if count == 0 and len(source):
            logger.warning("%s: none of its clips is among the %d asked for", source.name, limit)
        else:
            taken.append(source.subset(np.sort(seeded_order(source.names, seed)[:count])))
    return taken


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


def evaluation_fingerprint(sources: Sequence[Source]) -> str:
    """Return a hash of an evaluation set: its clips, what is said in them, and their contexts; empty: of none.

    Figures of two sets that share it can be compared. Neither the clips' order nor where they lie changes it.
    """
    if not sources:
        return ""
    lines = sorted(json.dumps(row) for source in sources for row in _clips_of(source))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _clips_of(source: Source) -> Iterable[Sequence[str]]:
    """Name and reference of each clip, and of a set with contexts each clip's."""
    columns = (source.names, source.texts, source.contexts)
    return zip(*(column for column in columns if column is not None), strict=True)


def write_evaluation_clips(sources: Sequence[Source], folder: Path) -> None:
    """Write which clips an evaluation set holds into `evaluation_clips_<fingerprint>.jsonl`, if it holds any.

    A line a clip: its corpus, its name, and the reference that transcripts of it are scored against.
    """
    if not sources:
        return
    path = folder / f"evaluation_clips_{evaluation_fingerprint(sources)}.jsonl"
    if not path.is_file():
        rows = (
            {"corpus": source.name, "name": name, "reference": text}
            for source in sources
            for name, text in zip(source.names, source.texts, strict=True)
        )
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(path, lines.encode("utf-8", "backslashreplace"))
