"""Damaged manifests and archives, thousands with `-m slow`: each is read or refused in one line, in bounded time."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from clips import write
from tiny_audio.audio import AudioError
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.sources import open_source
from tiny_audio.errors import UserError

MAX_SECONDS = 10.0
TOKENS = [
    *(b",", b";", b"|", b"\t", b'"', b'""', b"\n", b"\r", b"\r\n", b"\0", b"\\", b"[", b"]", b"{", b"}", b":", b"null"),
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xe9", b"\xed\xa0\x80", b"\\ud800", "\u2028".encode(), "안".encode()),
    *(
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 5000,
        b"[" * 3000,
        b"x" * 300,
        b"x " * 60_000,
        b"../",
        b"/dev/zero",
        b"http://a/",
    ),
    *(b"00:00:01", b"start", b"end", b"audio", b"text", b"sep=;\n", b" |", b"0.5\t1.5\tx\n", b"00:01 --> 00:02\n"),
]


def _archive(kind: str) -> bytes:
    wave, rows = Path("a.wav").read_bytes(), b'{"audio": "a.wav", "text": "one"}\n'
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/a.wav", wave)
            archive.writestr("x/manifest.jsonl", rows)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode={"tar": "w", "gz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}[kind]) as archive:
        for name, content in (("x/a.wav", wave), ("x/manifest.jsonl", rows)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _parquet() -> bytes:
    rows = [{"audio": {"bytes": Path("a.wav").read_bytes(), "path": "a.wav"}, "text": "one", "start": 0.0}] * 2
    file = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(file)
    return file.getvalue()


def good_files() -> dict[str, bytes]:
    """A file of each kind, by the name under which it is opened, or lies in the folder that is."""
    task = {"data": {"audio": "a.wav"}, "annotations": [{"result": [{"type": "textarea", "value": {"text": ["one"]}}]}]}
    rows = [
        {"audio": "a.wav", "text": "one", "start": 0.1, "end": 0.4, "speaker": "x"},
        {"audio": "a.wav", "text": "b"},
    ]
    regions = b'"[{""text"":[""a""],""start"":0,""end"":1}]"'
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    said = {"id": "s", "recording_id": "a", "start": 0, "duration": 0.5, "channel": 0, "text": "one"}
    recording = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": str(Path("a.wav").absolute())}]}
    recording |= {"sampling_rate": 16_000, "num_samples": 8_000, "duration": 0.5, "channel_ids": [0]}
    cut = {"id": "a", "start": 0, "duration": 0.5, "channel": 0, "supervisions": [said], "recording": recording}
    table = 'audio,text,start,end\na.wav,"one, two",0.1,0.4\na.wav,"a ""b""\nc",0:00:00,0.5\n'
    return {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.json": json.dumps(rows, indent=1).encode(),
        "b.json": json.dumps({"audio": {"0": "a.wav"}, "text": {"0": "one"}}).encode(),
        "label.json": json.dumps([task]).encode(),
        "short.csv": b"audio,annotation_id,annotator,transcription\na.wav,1,1," + regions,
        "a.csv": table.encode(),
        "w.csv": table.replace(",", ";").encode("utf-16"),
        "a.tsv": table.replace(",", "\t").encode(),
        "a.txt": b"a.wav|one\na.wav|two\n",
        "cuts.jsonl": (json.dumps({**cut, "type": "MonoCut"}) + "\n").encode() * 2,
        "a.parquet": _parquet(),
        **{f"a.tar.{kind}": _archive(kind) for kind in ("gz", "xz", "bz2")},
        "a.tar": _archive("tar"),
        "a.zip": _archive("zip"),
        "kaldi/wav.scp": b"r1 a.wav\nr2 ../a.wav\n",
        "kaldi/text": b"u1 one\nu2 two\n",
        "kaldi/segments": b"u1 r1 0.1 0.4\nu2 r2 0 -1\n",
        "beside/a.txt": b"0.100000\t0.400000\tone\n",
        "beside/b.srt": b"1\n00:00:00,100 --> 00:00:00,400\none\n",
        "beside/c.json": b'{"text": "one", "duration": 0.5}',
        "saved/state.json": b"",
    }


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to four things done to it."""
    for _ in range(rng.integers(1, 5)):
        at, upto = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        kind = rng.integers(7)
        if kind == 0 and content:  # a bit flips
            flipped = bytearray(content)
            flipped[min(at, len(content) - 1)] ^= 1 << int(rng.integers(8))
            content = bytes(flipped)
        elif kind == 1:
            content = content[:at] + TOKENS[rng.integers(len(TOKENS))] + content[at:]
        elif kind == 2:
            content = content[:at] + content[upto:]
        elif kind == 3:
            content = content[:at]
        elif kind == 4 and len(content) < 1 << 20:  # a part comes twice
            content = content[:upto] + content[at:]
        elif kind == 5:
            content = content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at:]
        else:
            token, other = (TOKENS[i] for i in rng.integers(0, len(TOKENS), 2))
            content = content.replace(token, other, 3)
    return content


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recordings, and a file of each kind beside them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "kaldi/a.wav", "beside/a.wav", "beside/b.wav", "beside/c.wav"):
        write(tmp_path / name, 0.5)
    whole = datasets.Dataset.from_list([{"audio": "a.wav", "text": "one"}])
    whole.save_to_disk(tmp_path / "saved")
    return tmp_path


def try_all(ground: Path, rounds: int, seed: int) -> Counter[str]:
    """Damage each file so many times and read it; return how that ended."""
    files = good_files()
    files["saved/state.json"] = (ground / "saved" / "state.json").read_bytes()
    for name, content in files.items():
        (ground / name).write_bytes(content)
    ends: Counter[str] = Counter()
    for number, (name, content) in enumerate(files.items()):
        for round_ in range(rounds):
            broken = damaged(content, np.random.default_rng([seed, number, round_]))
            (ground / name).write_bytes(broken)
            os.utime(ground / name, ns=(round_ * 10**9, round_ * 10**9))  # another state of it, also of the same size
            ends[read(ground, name, f"{name}, seed {seed}, round {round_}")] += 1
        (ground / name).write_bytes(content)
    return ends


def read(ground: Path, name: str, where: str) -> str:
    """Read a corpus whole, as `ta train` would: `read`, or `refused` with one line."""
    path = ground / name if "/" not in name else (ground / name).parent
    began = time.monotonic()
    try:
        entry, data = DatasetConfig(path=str(path)), DataConfig(max_skipped_share=0.99)
        source = open_source(entry, data, ground / "cache", data_dir=ground / "data")
        for row in range(len(source)):
            with contextlib.suppress(AudioError):
                source.read(row)
        lines = [skip.name for skip in source.skipped] + list(source.names)
        end = "read"
    except UserError as error:
        lines, end = [str(error)], "refused"
    assert time.monotonic() - began < MAX_SECONDS, where
    assert all("\n" not in line and "\x1b" not in line and len(line) < 5000 for line in lines), (where, lines)
    return end


def test_damaged_manifests_and_archives(ground: Path) -> None:
    ends = try_all(ground, rounds=6, seed=0)
    assert ends["read"] > 20
    assert ends["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_damaged_manifests_and_archives(ground: Path, seed: int) -> None:
    ends = try_all(ground, rounds=100, seed=seed)
    print(dict(ends))
    assert ends.total() > 2000
