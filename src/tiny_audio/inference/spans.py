"""Recordings of any length to pieces that a model can read at once: silences left out, cuts at quiet places.

A span is (start, stop), in samples of a recording (S,).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..audio import is_silent
from ..lengths import SAMPLE_RATE

FRAME = SAMPLE_RATE // 10  # 0.1 s: how finely a quiet place is looked for
LOUD_FRAMES = 10  # a second of the loudest tells how loud a recording is; a click does not
SILENT_SHARE = 0.01  # of that level, -40 dB: what is below for seconds is silence, whatever hums in it, ...
SILENT_LEVEL = 0.003  # ... unless it is above this one, -50 dBFS: somebody may speak low beside loud music
MARGIN_FRAMES = 3  # of the silence stay beside what is said: a word may begin and end softly


def levels(waveform: np.ndarray) -> np.ndarray:
    """Return the root mean square of each whole frame."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    return np.sqrt(np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / FRAME)


def find_spans(waveform: np.ndarray, silence_seconds: float, limit_seconds: float) -> list[tuple[int, int]]:
    """Find what is to be transcribed of a recording.

    Args:
        waveform: (S,) float samples.
        silence_seconds: silences of at least this length are left out; 0: none but digital silence.
        limit_seconds: the longest span.

    Returns:
        Spans in order; none of them is silent throughout.
    """
    found = leave_out_silence(waveform, silence_seconds) if silence_seconds else [(0, len(waveform))]
    pieces = [piece for start, stop in found for piece in cut(waveform, start, stop, limit_seconds)]
    return [(start, stop) for start, stop in pieces if not is_silent(waveform[start:stop])]


def leave_out_silence(waveform: np.ndarray, silence_seconds: float) -> list[tuple[int, int]]:
    """Return the spans between silences of at least `silence_seconds`, with a little of these at their edges."""
    level = levels(waveform)
    if not len(level):
        return [(0, len(waveform))]
    heard = np.flatnonzero(level > min(SILENT_SHARE * loudest(level), SILENT_LEVEL))
    if not len(heard):
        return []
    longest = max(round(silence_seconds * SAMPLE_RATE / FRAME), 2 * MARGIN_FRAMES)
    gaps = np.flatnonzero(np.diff(heard) > longest)
    firsts = [0, *heard[gaps + 1].tolist()]
    lasts = [*heard[gaps].tolist(), len(level)]
    if heard[0] > longest:
        firsts[0] = int(heard[0])
    if len(level) - heard[-1] > longest:
        lasts[-1] = int(heard[-1])
    starts = [max(first - MARGIN_FRAMES, 0) * FRAME for first in firsts]
    return [
        (start, min((last + 1 + MARGIN_FRAMES) * FRAME, len(waveform)))
        for start, last in zip(starts, lasts, strict=True)
    ]


def cut(waveform: np.ndarray, start: int, stop: int, limit_seconds: float) -> list[tuple[int, int]]:
    """Cut a span into spans of at most `limit_seconds`, and at least a third of it but at the ends, at quiet places.

    All cuts are chosen together, by dynamic programming: a cut costs as much as its frame is loud, in a pause less than
    nothing, and the cheapest set of cuts is taken. Chosen one by one, they often leave the next one no quiet place.
    """
    limit = int(limit_seconds * SAMPLE_RATE)
    if stop - start <= limit:
        return [(start, stop)]
    level = levels(waveform[start:stop])
    places = np.arange(len(level)) * FRAME + FRAME // 2
    costs = level / max(loudest(level), 1e-9) - SILENT_SHARE
    longest = max(limit // FRAME, 1)  # frames between two cuts
    shortest = max(longest // 3, 1)
    total, before = costs.copy(), np.full(len(level), -1)
    for i in range(shortest, len(level)):
        first = max(i - longest, 0)
        last = first + int(total[first : i - shortest + 1].argmin())
        if places[i] > limit or total[last] < 0:  # else it may be the first
            total[i], before[i] = total[i] + total[last], last
    first_last = int(np.searchsorted(places, stop - start - limit, "left"))  # the last cut is here or later
    chosen = [first_last + int(total[first_last:].argmin())]
    while before[chosen[-1]] >= 0:
        chosen.append(int(before[chosen[-1]]))
    edges = [start, *(start + int(places[i]) for i in reversed(chosen)), stop]
    return list(pairwise(edges))


def loudest(level: np.ndarray) -> float:
    """Return the level of the loudest second of frames (N,): the lowest in it, so that a click does not count."""
    count = min(LOUD_FRAMES, len(level))
    return float(np.partition(level, -count)[-count])


def halve(waveform: np.ndarray, start: int, stop: int) -> list[tuple[int, int]]:
    """Cut a span at the quietest place in its middle third."""
    third = (stop - start) // 3
    middle = quietest(waveform, start + third, stop - third)
    return [(start, middle), (middle, stop)]


def quietest(waveform: np.ndarray, start: int, stop: int) -> int:
    """Return the middle of the quietest frame between two samples, which are at least a frame apart."""
    return start + int(levels(waveform[start:stop]).argmin()) * FRAME + FRAME // 2
