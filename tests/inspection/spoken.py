"""A small corpus with what real ones have: lengths that follow the transcripts, speakers, the whole band."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from clips import write_manifest
from tiny_audio.lengths import SAMPLE_RATE

WORDS = (
    *("river", "stone", "house", "mountain", "bread", "winter", "garden", "letter", "answer", "window", "morning"),
    *("evening", "brother", "sister", "captain", "soldier", "teacher", "doctor", "village", "harbour", "island"),
    *("forest", "meadow", "valley"),
)
Row = dict[str, Any]


def speech(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """Noise that goes up and down like syllables do, different for each seed."""
    rng = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE)
    loudness = np.interp(np.arange(count) / 1600, np.arange(knots := count // 1600 + 2), rng.uniform(0.02, 1, knots))
    return (level * loudness * rng.standard_normal(count)).astype(np.float32)


@cache
def recording(seed: int, num_words: int | None) -> tuple[str, float, bytes]:
    """What is said, for how many seconds, and the wav file."""
    rng = np.random.default_rng([seed, 1])
    text = " ".join(rng.choice(WORDS, num_words or int(rng.integers(2, 11))))
    wave = speech(0.3 + 0.07 * len(text) * float(np.exp(rng.normal(0, 0.1))), seed)
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE, format="WAV")
    return text, len(wave) / SAMPLE_RATE, file.getvalue()


def make_row(folder: Path, name: str, seed: int, speaker: str, num_words: int | None = None) -> Row:
    """Write a recording and return its row."""
    text, seconds, content = recording(seed, num_words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return {"audio": name, "text": text, "speaker": speaker, "duration": seconds}


def make_corpus(folder: Path, train: int = 150, dev: int = 180) -> tuple[list[Row], list[Row]]:
    """Write the recordings of both splits; return their rows, for the faults to be planted in."""
    rows = [make_row(folder, f"train{i:03}.wav", i, f"s{i % 5}") for i in range(train)]
    held = [make_row(folder, f"dev{i:03}.wav", 1000 + i, f"d{i % 3}") for i in range(dev)]
    return rows, held


def write_corpus(folder: Path, train: list[Row], dev: list[Row]) -> list[str]:
    """Write the manifests; return the settings that name them."""
    write_manifest(folder / "train.jsonl", train)
    write_manifest(folder / "dev.jsonl", dev)
    return [
        "data=custom",
        f"data.train_path={folder}/train.jsonl",
        f"data.eval_path={folder}/dev.jsonl",
        "model.decoder=pocket",
        "model.encoder=pocket",
        "data.num_workers=0",
        "training.max_steps=20",
    ]
