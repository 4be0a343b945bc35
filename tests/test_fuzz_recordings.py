"""Broken recordings by the dozen (by the thousand with `-m slow`): each is read or refused, soon and in little memory.

They are read in a process of their own, so that what a decoder writes to the terminal, takes of the memory, or falls
over is seen.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clips import tone
from encoded import encode

PLAIN = ("aiff", "au", "caf", "w64")  # as libsndfile writes them
KINDS = ("wav", "flac", "mp3", "vorbis", "opus", "m4a", "aac", "webm", "wma", "ac3", "3gp", "mka", *PLAIN)
SMALL, LARGE = 50, 1_000  # files of a kind
SECONDS, MEGABYTES = 10.0, 1_000.0  # that no file may take

READ = """
import json, logging, resource, sys, time
from pathlib import Path
from tiny_audio.audio import AudioError, header_seconds, load_audio

logging.disable()
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, report = memory(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    started, outcome = time.monotonic(), []
    for read in (load_audio, header_seconds, lambda path: load_audio(path.read_bytes())):
        try:
            found = read(path)
            outcome.append("read" if read is header_seconds or len(found) <= 16_000 * 7_300 else "too much")
        except AudioError as error:
            outcome.append(error.reason)
    report[path.name] = [*outcome, time.monotonic() - started, memory() - before]
print(json.dumps(report))
"""


def recording(kind: str, wave: np.ndarray, rate: int) -> bytes:
    if kind not in PLAIN:
        return encode(kind, wave, rate)
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind.upper(), subtype="PCM_16")
    return file.getvalue()


def broken(whole: bytes, other: bytes, rng: np.random.Generator) -> dict[str, bytes]:
    """One file broken in each of the ways that files are broken in."""
    data, size = np.frombuffer(whole, np.uint8), len(whole)

    def flipped(first: int, last: int, count: int) -> bytes:
        changed = data.copy()
        for place in rng.integers(first, min(last, size), count):
            changed[place] ^= np.uint8(1 << rng.integers(8))
        return changed.tobytes()

    start = int(rng.integers(size))
    span = data.copy()
    span[start : start + 200] = rng.integers(0, 256, len(span[start : start + 200]), dtype=np.uint8)
    set_bits = data.copy()
    set_bits[start % 100 : start % 100 + int(rng.integers(1, 9))] = rng.choice([0, 0x7F, 0x80, 0xFF])
    return {
        "truncated": whole[: int(rng.integers(1, size))],
        "beheaded": whole[int(rng.integers(1, size)) :],
        "header_only": whole[: int(rng.integers(4, 300))],
        "header_bit": flipped(0, 64, 1),
        "header_bits": flipped(0, 512, 4),
        "extreme": set_bits.tobytes(),
        "bits": flipped(0, size, 10),
        "overwritten": span.tobytes(),
        "joined": whole + other,
        "joined_broken": whole[: int(rng.integers(1, size))] + other,
        "noise": rng.bytes(int(rng.integers(1, 5_000))),
        "noise_after": whole[: int(rng.integers(4, 100))] + rng.bytes(3_000),
    }


def read_broken(folder: Path, kinds: Sequence[str], count: int) -> None:
    """Break a file of each kind in `count` ways, read them in one process, and judge what came of it."""
    folder.mkdir()
    for kind in kinds:
        rng, rate, written = np.random.default_rng(KINDS.index(kind)), 48_000 if kind in ("webm", "ac3") else 16_000, 0
        whole, other = (recording(kind, tone(seconds, rate), rate) for seconds in (1.5, 0.7))
        while written < count:
            for how, data in broken(whole, other, rng).items():
                (folder / f"{written:05} {how}.{kind}").write_bytes(data)
                written += 1
    run = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, timeout=3_000)
    assert run.returncode == 0, run.stderr[-2_000:]
    assert run.stderr == ""
    report = json.loads(run.stdout)
    assert len(report) == len(list(folder.iterdir())) >= count * len(kinds)
    for name, (heard, header, of_bytes, seconds, megabytes) in report.items():
        assert heard in ("read", "decode_error", "non_finite"), name
        assert of_bytes in ("read", "decode_error", "non_finite"), name
        assert header in ("read", "decode_error"), name
        assert seconds < SECONDS, name
        assert megabytes < MEGABYTES, name
    for kind in kinds:
        outcomes = Counter(heard for name, (heard, *_) in report.items() if name.endswith(f".{kind}"))
        assert outcomes["read"], "some are not broken"
        assert outcomes["decode_error"], "and some are"
        slowest = max(seconds for name, (*_, seconds, _) in report.items() if name.endswith(f".{kind}"))
        print(f"{kind}: {dict(outcomes)}, slowest {slowest:.1f} s, {max(one[3] for one in report.values()):.0f} MB")
    assert all(heard == "read" for name, (heard, *_) in report.items() if " joined." in name)


def test_broken_recordings_are_read_or_refused(tmp_path: Path) -> None:
    read_broken(tmp_path / "files", KINDS, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_broken_recordings_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    read_broken(tmp_path / "files", [kind], LARGE)
