"""Cut recordings of any length into pieces that a model can read at once: silences are left out, cuts are in pauses.

A span is (start, stop), in samples of a recording (S,). A pause is a quiet place or, with a voice-activity model, a
place without speech.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from ..audio import is_silent
from ..lengths import SAMPLE_RATE
from ..spooled import BLOCK, Samples
from .activity import WINDOW

Activity = Callable[[Samples], np.ndarray]

FRAME = SAMPLE_RATE // 10  # 0.1 s: resolution of the search for quiet places
LOUD_FRAMES = 10  # the loudest second gives the level of a recording; a click is too short to change it
SILENT_SHARE = 0.01  # of that level, -40 dB: seconds below it are silence, even with a hum, ...
SILENT_LEVEL = 0.003  # ... unless they are above this one, -50 dBFS: quiet speech beside loud music
MARGIN_FRAMES = 3  # of the silence are kept beside speech: a word may begin and end softly
EDGE = SAMPLE_RATE // 100  # 10 ms: resolution of the silence at the edges of a piece, ...
EDGE_MARGIN = SAMPLE_RATE // 20  # ... of which 50 ms are kept: clips in training begin and end with speech
SPOKEN = 0.5  # above this probability there is speech
PAUSE = 0.1  # below this one there is a pause
BEYOND = 0.1  # additional cost of the longest piece over one of usual length; a cut in speech costs up to 1


def levels(waveform: Samples, start: int = 0, stop: int | None = None, size: int = FRAME) -> np.ndarray:
    """Return the root mean square of each whole frame of `size` samples between two samples."""
    stop = len(waveform) if stop is None else stop
    stop -= (stop - start) % size
    found = [np.zeros(0)]
    for first in range(start, stop, BLOCK // size * size):  # a recording of hours need not be in memory
        frames = waveform[first : min(first + BLOCK // size * size, stop)].reshape(-1, size)
        found.append(np.sqrt(np.einsum("ij,ij->i", frames, frames, dtype=np.float64) / size))
    return np.concatenate(found)


def quiet_level(level: np.ndarray) -> float:
    """Return the level up to which a frame is silent, in a recording with these frame levels (N,)."""
    return min(SILENT_SHARE * loudest(level), SILENT_LEVEL) if len(level) else 0.0


def likeliest(speech: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the probability of speech anywhere in each whole frame of a span."""
    edges = start + np.arange((stop - start) // FRAME) * FRAME
    windows = np.arange(-(-FRAME // WINDOW) + 1) + edges[:, None] // WINDOW
    windows = np.minimum(windows, (edges[:, None] + FRAME - 1) // WINDOW)  # none after the frame's last
    return speech[windows].max(axis=1)


def find_spans(
    waveform: Samples,
    silence_seconds: float,
    limit_seconds: float,
    longest_seconds: float | None = None,
    activity: Activity | None = None,
) -> list[tuple[int, int]]:
    """Find the spans of a recording to transcribe.

    Args:
        waveform: (S,) float samples.
        silence_seconds: silences of at least this length are left out, and shorter ones at the edges of pieces that
            were cut; 0: only digital silence.
        limit_seconds: the longest span, ...
        longest_seconds: ... unless there is no pause to cut in; then up to this length.
        activity: finds the pauses, see `VoiceActivity`; None: pauses are quiet places. It is used only if there is
            something to cut.

    Returns:
        Spans in order; none of them is all silence.
    """
    found = leave_out_silence(waveform, silence_seconds) if silence_seconds else [(0, len(waveform))]
    limit = int(limit_seconds * SAMPLE_RATE)
    speech = None
    if activity is not None and any(stop - start > limit for start, stop in found):
        speech = activity(waveform)
    pieces = [
        piece for start, stop in found for piece in cut(waveform, start, stop, limit_seconds, longest_seconds, speech)
    ]
    if silence_seconds and len(pieces) > 1:
        pieces = trim(waveform, pieces, speech)
    return [(start, stop) for start, stop in pieces if not is_silent(waveform[start:stop])]


def leave_out_silence(waveform: Samples, silence_seconds: float) -> list[tuple[int, int]]:
    """Return the spans between silences of at least `silence_seconds`, with a little silence at their edges."""
    level = levels(waveform)
    if not len(level):
        return [(0, len(waveform))]
    loud = np.flatnonzero(level > quiet_level(level))
    if not len(loud):
        return []
    longest = max(round(silence_seconds * SAMPLE_RATE / FRAME), 2 * MARGIN_FRAMES)
    gaps = np.flatnonzero(np.diff(loud) > longest)
    firsts = [0, *loud[gaps + 1].tolist()]
    lasts = [*loud[gaps].tolist(), len(level)]
    if loud[0] > longest:
        firsts[0] = int(loud[0])
    if len(level) - loud[-1] > longest:
        lasts[-1] = int(loud[-1])
    starts = [max(first - MARGIN_FRAMES, 0) * FRAME for first in firsts]
    return [
        (start, min((last + 1 + MARGIN_FRAMES) * FRAME, len(waveform)))
        for start, last in zip(starts, lasts, strict=True)
    ]


def trim(waveform: Samples, pieces: list[tuple[int, int]], speech: np.ndarray | None) -> list[tuple[int, int]]:
    """Remove most of the silence at the edges of pieces, and pieces that are all silence.

    Args:
        waveform: (S,).
        pieces: spans of it.
        speech: what `VoiceActivity` returns for it. Edges without speech are removed too, except from a piece in which
            it finds no speech at all.
    """
    quiet = quiet_level(levels(waveform))
    trimmed = []
    for start, stop in pieces:
        if speech is not None:
            loud = np.flatnonzero(speech[start // WINDOW : -(-stop // WINDOW)] > SPOKEN)
            start, stop = _between(start, stop, start // WINDOW * WINDOW, loud, WINDOW) or (start, stop)
        loud = np.flatnonzero(levels(waveform, start, stop, EDGE) > quiet)
        if (found := _between(start, stop, start, loud, EDGE)) is not None:
            trimmed.append(found)
    return trimmed


def _between(start: int, stop: int, origin: int, loud: np.ndarray, size: int) -> tuple[int, int] | None:
    """Return the span from the first frame in `loud` to the last, with margins; None if there is none."""
    if not len(loud):
        return None
    first, last = origin + int(loud[0]) * size, origin + int(loud[-1] + 1) * size
    return max(start, first - EDGE_MARGIN), min(stop, last + EDGE_MARGIN)


def cut(
    waveform: Samples,
    start: int,
    stop: int,
    limit_seconds: float,
    longest_seconds: float | None = None,
    speech: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """Cut a span in pauses into spans of at most `limit_seconds`, and at least a third of it except at the ends.

    Dynamic programming chooses all cuts together: the cost of a cut is the level of its frame, and negative in a pause,
    see `cut_costs`; the set of cuts with the lowest cost is used. If cuts were chosen one by one, there would often be
    no quiet place for the next one. A span beyond the limit, up to `longest_seconds`, costs up to `BEYOND`, so that it
    stays whole if it could only be cut within speech.
    """
    limit = int(limit_seconds * SAMPLE_RATE)
    longest = max(int((longest_seconds or 0) * SAMPLE_RATE), limit)
    if stop - start <= limit:
        return [(start, stop)]

    def beyond(lengths: np.ndarray) -> np.ndarray:
        share = (lengths - limit) / max(longest - limit, 1)
        return np.where(lengths <= limit, 0, np.where(lengths <= longest, BEYOND * share, np.inf))

    costs = cut_costs(waveform, start, stop, speech)
    places = np.arange(len(costs)) * FRAME + FRAME // 2
    most = max(longest // FRAME, 1)  # frames between two cuts
    shortest = max(limit // FRAME // 3, 1)
    between = beyond(np.arange(most, shortest - 1, -1) * FRAME)
    total, before = costs + beyond(places), np.full(len(costs), -1)
    for i in range(shortest, len(costs)):
        first = max(i - most, 0)
        reached = total[first : i - shortest + 1] + between[first - i - 1 + shortest :]
        last = int(reached.argmin())
        if costs[i] + reached[last] < total[i]:
            total[i], before[i] = costs[i] + reached[last], first + last
    ends = total + beyond(stop - start - places)
    chosen = [int(ends.argmin())]
    if beyond(np.array(stop - start)) <= ends[chosen[0]]:
        return [(start, stop)]
    while before[chosen[-1]] >= 0:
        chosen.append(int(before[chosen[-1]]))
    edges = [start, *(start + int(places[i]) for i in reversed(chosen)), stop]
    return list(pairwise(edges))


def cut_costs(waveform: Samples, start: int, stop: int, speech: np.ndarray | None) -> np.ndarray:
    """Return the cost of a cut in each whole frame of a span: its level, and less if there is no speech in it.

    The voice-activity model finds pauses in noise, which are not quiet. But its probability falls some tenths of a
    second late, so it misses short pauses. If it finds no speech in the whole span, only the level decides.
    """
    level = levels(waveform, start, stop)
    costs = level / max(loudest(level), 1e-9) - SILENT_SHARE
    if speech is not None and (likely := likeliest(speech, start, stop)).max(initial=0) > SPOKEN:
        costs = np.minimum(costs, likely - PAUSE)
    return costs


def loudest(level: np.ndarray) -> float:
    """Return the lowest level among the loudest second of frames (N,), so that a click does not count."""
    count = min(LOUD_FRAMES, len(level))
    return float(np.partition(level, -count)[-count])


def halve(waveform: Samples, start: int, stop: int) -> list[tuple[int, int]]:
    """Cut a span at the quietest place in its middle third."""
    third = (stop - start) // 3
    middle = quietest(waveform, start + third, stop - third)
    return [(start, middle), (middle, stop)]


def quietest(waveform: Samples, start: int, stop: int) -> int:
    """Return the middle of the quietest frame between two samples, which are at least a frame apart."""
    return start + int(levels(waveform, start, stop).argmin()) * FRAME + FRAME // 2
