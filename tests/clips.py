"""Recordings made on the spot: a swept tone as speech, and a collection of files that cannot be used."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile

from tiny_audio.lengths import SAMPLE_RATE


def tone(seconds: float, rate: int = SAMPLE_RATE, channels: int = 1, pitch: float = 200.0) -> np.ndarray:
    """A sweep of (samples,) or (samples, channels) float32."""
    time = np.arange(round(seconds * rate)) / rate
    wave = (0.3 * np.sin(2 * np.pi * (pitch + 40 * time) * time)).astype(np.float32)
    return wave if channels == 1 else np.repeat(wave[:, None], channels, axis=1)


def write(path: Path, seconds: float, rate: int = SAMPLE_RATE, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate), rate, **options)
    return path


def write_manifest(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet_of(texts: Iterable[str]) -> bytes:
    """A parquet file of clips of a second, as a corpus on the Hub holds them."""
    wav, file = io.BytesIO(), io.BytesIO()
    soundfile.write(wav, tone(1.0), SAMPLE_RATE, format="WAV")
    rows = [{"audio": {"bytes": wav.getvalue(), "path": f"{i}.wav"}, "text": text} for i, text in enumerate(texts)]
    datasets.Dataset.from_list(rows).to_parquet(file)
    return file.getvalue()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines: a manifest, metrics, transcripts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write recordings that cannot be used and return {file name: the reason that is due}.

    All are said to hold 2 s by the manifests of the tests, except where the recording is of another length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wave = tone(2.0)
    good = {}
    for name, options in (("flac", {}), ("wav", {}), ("mp3", {"format": "MP3"})):
        soundfile.write(folder / f"good.{name}", wave, SAMPLE_RATE, **options)
        good[name] = (folder / f"good.{name}").read_bytes()
        (folder / f"good.{name}").unlink()
    (folder / "empty.wav").touch()
    (folder / "cut.flac").write_bytes(good["flac"][: len(good["flac"]) // 2])
    (folder / "cut.wav").write_bytes(good["wav"][: len(good["wav"]) // 2])
    (folder / "cut.mp3").write_bytes(good["mp3"][: len(good["mp3"]) // 2])
    (folder / "noise.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "page.flac").write_text("<html>404 not found</html>")
    spoilt = wave.copy()
    spoilt[100] = np.nan
    soundfile.write(folder / "nan.wav", spoilt, SAMPLE_RATE, subtype="FLOAT")
    spoilt[100] = np.inf
    soundfile.write(folder / "inf.wav", spoilt, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "silence.wav", np.zeros_like(wave), SAMPLE_RATE)
    soundfile.write(folder / "header_only.wav", wave[:0], SAMPLE_RATE)
    soundfile.write(folder / "short.wav", wave[:160], SAMPLE_RATE)
    soundfile.write(folder / "long.flac", np.tile(wave, 23)[: 45 * SAMPLE_RATE], SAMPLE_RATE)
    return {
        "absent.wav": "missing",
        "empty.wav": "decode_error",
        "cut.flac": "decode_error",
        "cut.wav": "duration_mismatch",
        "cut.mp3": "duration_mismatch",
        "noise.wav": "decode_error",
        "page.flac": "decode_error",
        "nan.wav": "non_finite",
        "inf.wav": "non_finite",
        "silence.wav": "silent",
        "header_only.wav": "too_short",
        "short.wav": "too_short",
        "long.flac": "too_long",
    }
