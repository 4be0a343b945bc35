"""Check whether the recordings can be read, by reading a few of every source, spread over it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.index import Skip
from ...data.loader import ClipDataset
from ...data.plan import Draw
from ...data.skips import MIN_DRAWS
from .findings import Findings

SAMPLE_CLIPS = 8  # of a source, if all of them can be read


@dataclass(frozen=True)
class Sample:
    """Clips of one source that were read as a check.

    Attributes:
        name: of the source.
        size: number of clips of the source.
        count: number of clips that were read; 0 if encoder outputs are cached and the run draws none of this source.
        skipped: those of them that cannot be used.
        audio_seconds: of the others.
        wall_seconds: time to read all of them, in one process.
    """

    name: str
    size: int
    count: int
    skipped: list[Skip]
    audio_seconds: float
    wall_seconds: float

    @property
    def skipped_share(self) -> float:
        """Share of the clips that cannot be used."""
        return len(self.skipped) / max(self.count, 1)

    @property
    def variance(self) -> float:
        """Variance of `skipped_share`, as an estimate of the share in the whole source."""
        return self.skipped_share * (1 - self.skipped_share) / max(self.count, 1) * (1 - self.count / self.size)


def read_samples(dataset: ClipDataset, seed: int) -> list[Sample]:
    """Read some clips of every source, as the loader would.

    If one cannot be read, as many are read as `SkipLog` needs to judge a source, so that the share is reliable. Every
    process does it, since a disk may be missing on one machine only.
    """
    for number, source in enumerate(dataset.sources):
        if len(rows := source.rows_at_hand(seed)):  # the first use of the audio decoder is slow, and must not be timed
            dataset.__getitems__([Draw(0, number, int(rows[0]))])
            break
    return [_read_sample(dataset, number, seed) for number in range(len(dataset.sources))]


def _read_sample(dataset: ClipDataset, number: int, seed: int) -> Sample:
    source = dataset.sources[number]
    rng = np.random.default_rng([seed, 3, number])
    at_hand = source.rows_at_hand(seed)
    rows = at_hand[spread(len(at_hand), SAMPLE_CLIPS, rng)].tolist()
    started = time.perf_counter()
    batch = dataset.__getitems__([Draw(i, number, row) for i, row in enumerate(rows)])
    skipped, audio = batch.skipped, batch.audio_seconds
    if skipped:
        more = [row for row in at_hand[spread(len(at_hand), MIN_DRAWS, rng)].tolist() if row not in rows]
        batch = dataset.__getitems__([Draw(i, number, row) for i, row in enumerate(more)])
        skipped, audio, rows = skipped + batch.skipped, audio + batch.audio_seconds, rows + more
    return Sample(source.name, len(source), len(rows), skipped, audio, time.perf_counter() - started)


def spread(size: int, count: int, rng: np.random.Generator) -> list[int]:
    """Return `count` different rows of `size`, one from each of as many equal parts; all if there are fewer."""
    edges = np.linspace(0, size, min(count, size) + 1).astype(np.int64)
    rows: list[int] = rng.integers(edges[:-1], edges[1:]).tolist()
    return rows


def check_readable(
    samples: Sequence[Sample], eval_samples: Sequence[Sample], shares: Sequence[float], max_skipped_share: float
) -> Findings:
    """Judge the samples of the training and of the evaluation sources.

    Args:
        samples, eval_samples: see `read_samples`.
        shares: of the training sources in the draws.
        max_skipped_share: `data.max_skipped_share`.
    """
    findings = Findings()
    for key, found, then in (
        ("data.datasets", samples, "such clips are skipped"),
        ("data.eval_datasets", eval_samples, "the words of such clips count as errors"),
    ):
        for sample in found:
            if sample.skipped and len(sample.skipped) == sample.count:
                findings.errors.append(_unreadable(key, sample))
            elif sample.skipped:
                reasons = Counter(skip.reason for skip in sample.skipped).most_common()
                findings.warnings.append(
                    f"{key}: {len(sample.skipped)} of {sample.count} clips sampled of {sample.name} cannot be used "
                    f"({', '.join(f'{count} {reason}' for reason, count in reasons)}), such as "
                    f"{sample.skipped[0].name}: {sample.skipped[0].detail}; {then}."
                )
    share = sum(weight * sample.skipped_share for weight, sample in zip(shares, samples, strict=True))
    deviation = math.sqrt(sum(w**2 * sample.variance for w, sample in zip(shares, samples, strict=True)))
    if share - 2 * deviation > max_skipped_share:  # more than chance explains
        findings.warnings.append(
            f"data: about {share:.0%} of the clips drawn cannot be used, and the run stops above "
            f"data.max_skipped_share={max_skipped_share:g}."
        )
    tried = [*samples, *eval_samples]
    count, bad = sum(sample.count for sample in tried), sum(len(sample.skipped) for sample in tried)
    findings.notes.append(f"{count - bad} of {count} sampled clips can be read")
    return findings


def _unreadable(key: str, sample: Sample) -> str:
    first = sample.skipped[0]
    moved = " Was the folder moved, or is its disk not mounted?" if first.reason == "missing" else ""
    sampled = "its only clip" if sample.size == 1 else f"none of the {sample.count} clips sampled"
    verb = "cannot" if sample.size == 1 else "can"
    return f"{key}: {sample.name}: {sampled} {verb} be used; {first.name}: {first.reason}, {first.detail}.{moved}"


def audio_per_second(samples: Sequence[Sample], shares: Sequence[float]) -> float:
    """Return how many seconds of audio one process reads in a second, from sources drawn in these shares."""
    each = list(zip(shares, samples, strict=True))
    audio, wall = (
        sum(share * getattr(sample, name) / max(sample.count, 1) for share, sample in each)
        for name in ("audio_seconds", "wall_seconds")
    )
    return audio / max(wall, 1e-9)
