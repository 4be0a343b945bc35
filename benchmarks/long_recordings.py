"""What long recordings cost: memory and word error rate of `ta infer` on clips joined to minutes and hours.

    python benchmarks/long_recordings.py CHECKPOINT MANIFEST [option=value ...] [--minutes 1 10 120] [--pause 0.5]

Options are those of `ta infer`, such as vad=false.

Joins the recordings of a manifest (JSON lines with `audio` and `text`), over and over, with pauses between them, writes
each length as one file, and runs `ta infer` on it in a process of its own. Beside it: the same clips, one file each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from rapidfuzz.distance import Levenshtein  # comes with jiwer: in little memory, also for hours

from tiny_audio.audio import load_audio
from tiny_audio.data.packed import recording_at
from tiny_audio.evaluation.scoring import OURS

RATE = 16_000


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 120])
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between clips")
    parser.add_argument("options", nargs="*", metavar="option=value", help="of ta infer")
    args = parser.parse_intermixed_args()
    rows = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines()]
    clips = [(load_audio(recording_at(args.manifest.parent / row["audio"])), row["text"]) for row in rows]
    print("| recording | clips | seconds | x real time | most memory | WER |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "clips")
        folder.mkdir()
        for number, (samples, _) in enumerate(clips):
            soundfile.write(folder / f"{number:05d}.wav", samples, RATE)
        spoken = sum(len(samples) for samples, _ in clips) / RATE
        report(args, folder, f"{len(clips)} files", [text for _, text in clips], spoken)
        for minutes in args.minutes:
            path = Path(temporary, f"{minutes:g}.wav")
            texts = join(path, clips, minutes * 60, args.pause)
            report(args, path, f"{minutes:g} minutes", texts, minutes * 60)
            path.unlink()


def join(path: Path, clips: list[tuple[np.ndarray, str]], seconds: float, pause: float) -> list[str]:
    """Write clips one after another, of at least so many seconds, a clip at a time; return what is said in them."""
    texts, written = [], 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for samples, text in itertools.cycle(clips):
            file.write(samples)
            file.write(np.zeros(round(pause * RATE), np.float32))
            texts.append(text)
            written += len(samples) + round(pause * RATE)
            if written >= seconds * RATE:
                return texts
    raise AssertionError


def report(args: argparse.Namespace, audio: Path, name: str, texts: list[str], seconds: float) -> None:
    """Transcribe in a process of its own, and print a row."""
    with tempfile.TemporaryDirectory() as temporary:
        output, log = Path(temporary, "out.jsonl"), Path(temporary, "log.txt")
        command = [sys.executable, "-m", "tiny_audio.cli", "infer", f"checkpoint={args.checkpoint}", f"audio={audio}"]
        command += ["format=json", f"output={output}", *args.options]
        start = time.perf_counter()
        with log.open("w") as told:
            _, status, used = os.wait4(subprocess.Popen(command, stderr=told).pid, 0)
        if status:
            sys.exit(log.read_text()[-2000:])
        elapsed = time.perf_counter() - start
        written = [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").splitlines()]
    said = texts if len(written) == len(texts) else [" ".join(texts)]
    pairs = [(OURS.split(one)[0], OURS.split(other)[0]) for one, other in zip(said, written, strict=True)]
    rate = sum(Levenshtein.distance(*pair) for pair in pairs) / sum(len(pair[0]) for pair in pairs)
    memory = used.ru_maxrss / 1e6  # kB on Linux
    print(f"| {name} | {len(texts):,} | {elapsed:.0f} | {seconds / elapsed:.0f} | {memory:.2f} GB | {rate:.1%} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
