"""How fast the data comes, in which format, where its time goes, and how soon a run over many files starts.

    python benchmarks/data.py                    # everything, some minutes; tables in Markdown on standard output
    python benchmarks/data.py --formats flac,mp3 --workers 0,2,4 --seconds 10
    python benchmarks/data.py --files 0          # without the corpus of many files

The corpora are made of the bundled speech, in a temporary folder: its clips joined to some ten seconds each, in every
format; and copies of single clips for the many files. So the files lie in the system's cache, and disks are not what is
measured.

The baseline is what is written in an afternoon: a torch `DataLoader` over the same files, shuffled, each read by
soundfile, resampled by soxr, its text tokenized, the batch padded to its longest clip.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch.utils.data import DataLoader, Dataset

from tiny_audio.audio import load_audio
from tiny_audio.benchmark.data import measure_data
from tiny_audio.config import DataConfig, DatasetConfig, ModelConfig
from tiny_audio.data.augment import Augmenter, open_augmenter
from tiny_audio.data.loader import Batch, ClipDataset, open_loader, train_loader
from tiny_audio.data.packed import recording_at
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.data.sources import open_sources
from tiny_audio.model.decoder import load_prompt
from tiny_audio.pocket import SPEECH_DIR
from tiny_audio.prompt import Prompt

RATE = 16_000
# Name of a format: how soundfile writes it, and at which rate. `+` in a name: how the files are listed.
FORMATS: dict[str, tuple[str, dict[str, Any], int]] = {
    "wav": ("wav", {}, RATE),
    "wav 48 kHz": ("wav", {}, 48_000),
    "flac": ("flac", {}, RATE),
    "mp3": ("mp3", {"format": "MP3"}, RATE),
    "mp3 48 kHz": ("mp3", {"format": "MP3"}, 48_000),
    "ogg/vorbis": ("ogg", {"format": "OGG", "subtype": "VORBIS"}, RATE),
    "ogg/opus": ("opus", {"format": "OGG", "subtype": "OPUS"}, RATE),
    "parquet, flac inside": ("flac", {}, RATE),
    "parquet, flac beside": ("flac", {}, RATE),
}
CLIP_SECONDS = 10.0  # joined clips are at least as long
RESUME_AT = 400_000  # draws
ROUNDS = 3  # of each measurement; the median counts


def join_clips() -> Iterator[tuple[np.ndarray, str]]:
    """The bundled training clips, as many in one as make ten seconds: (waveform, transcript)."""
    waves: list[np.ndarray] = []
    texts: list[str] = []
    for line in (SPEECH_DIR / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        waves.append(load_audio(recording_at(SPEECH_DIR / row["audio"])))
        texts.append(row["text"])
        if sum(map(len, waves)) >= CLIP_SECONDS * RATE:
            yield np.concatenate(waves), " ".join(texts)
            waves, texts = [], []


def write_corpus(name: str, folder: Path) -> Path:
    """Write the joined clips in one format; return what `data.datasets` would name."""
    suffix, options, rate = FORMATS[name]
    rows = []
    folder.mkdir()
    for i, (wave, text) in enumerate(join_clips()):
        file = f"{i}.{suffix}"
        soundfile.write(folder / file, wave if rate == RATE else soxr.resample(wave, RATE, rate), rate, **options)
        rows.append({"audio": file, "text": text, "duration": len(wave) / RATE})
    if not name.startswith("parquet"):
        return write_manifest(folder, rows)
    import datasets

    datasets.disable_progress_bars()
    for row in rows:
        path = str(row["audio"])
        row["audio"] = {"bytes": (folder / path).read_bytes() if name.endswith("inside") else None, "path": path}
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest and return its path."""
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Afternoon(Dataset[tuple[np.ndarray, list[int]]]):
    """The baseline: one file at a time."""

    def __init__(self, manifest: Path, tokenize: Callable[[str], list[int]]) -> None:
        self.rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        self.folder, self.tokenize = manifest.parent, tokenize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[int]]:
        row = self.rows[index]
        wave, rate = soundfile.read(self.folder / row["audio"], dtype="float32")
        return soxr.resample(wave, rate, RATE) if rate != RATE else wave, self.tokenize(row["text"])


def collate(clips: list[tuple[np.ndarray, list[int]]]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Pad to the longest: waveforms, lengths, tokens."""
    lengths = torch.tensor([len(wave) for wave, _ in clips])
    waves = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave, _ in clips], batch_first=True)
    return waves, lengths, [torch.tensor(ids) for _, ids in clips]


def measure_baseline(dataset: Afternoon, batch_size: int, workers: int, seconds: float) -> float:
    """Return audio hours an hour; as in `measure_data`, what was ready before the clock started does not count."""
    torch.manual_seed(0)
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )
    endless = (batch for _ in iter(int, 1) for batch in loader)
    for _ in range(1 + 2 * workers):
        next(endless)
    start, samples = time.perf_counter(), 0
    for _, lengths, _ in endless:
        samples += int(lengths.sum())
        if (elapsed := time.perf_counter() - start) >= seconds:
            break
    return samples / RATE / elapsed


def open_corpus(
    path: Path, folder: Path, batch_size: int, prompt: Prompt, augmenter: Augmenter | None = None
) -> tuple[SamplingPlan, ClipDataset]:
    """Open a corpus as a run does."""
    data = DataConfig()
    sources = open_sources([DatasetConfig(path=str(path))], data, folder / "cache", limit=None, seed=0)
    plan = SamplingPlan([source.durations for source in sources], [1.0], batch_size, seed=0)
    return plan, ClipDataset(sources, prompt.target_ids, data, augmenter)


class Prepared(Dataset[Batch]):
    """Hands the same batch over again and again: what a worker costs that has nothing to do."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __getitems__(self, _: list[int]) -> Batch:
        return replace(self.batch, waveforms=self.batch.waveforms.clone())  # what was handed over once comes for free


def handover_seconds(batch: Batch, count: int = 100) -> float:
    """Seconds that a batch takes from a worker process into the main one, besides those that it takes to make it."""
    prepared = Prepared(batch)
    batches = iter(open_loader(prepared, [[0]] * (count + 4), num_workers=1))
    for _ in range(4):
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    there = time.perf_counter()
    for _ in range(count):
        prepared.__getitems__([0])
    return max(0.0, 2 * there - start - time.perf_counter()) / count


def measure_stages(
    plan: SamplingPlan, dataset: ClipDataset, folder: Path, augmenter: Augmenter | None, seconds: float
) -> dict[str, float]:
    """Seconds that each stage takes for an hour of audio, in one process, each called by itself on the same clips.

    What a whole batch takes beyond that is the last but one: most of it is fresh memory, since the waveforms of a batch
    are all kept until it is padded.
    """
    names = ["disk", "decoding", "resampling", "augmentation", "memory, checks, tokens, padding"]
    spent, audio, number = dict.fromkeys(names, 0.0), 0.0, 0
    clock = time.perf_counter
    deadline = clock() + seconds
    while clock() < deadline:
        draws = plan.batch(number)
        before = clock()
        batch = dataset.__getitems__(draws)
        rest = clock() - before
        for draw in draws:
            file = folder / dataset.sources[0].names[draw.row]
            times = [clock()]
            file.read_bytes()
            times.append(clock())
            wave, rate = soundfile.read(file, dtype="float32")
            times.append(clock())
            wave = wave if rate == RATE else soxr.resample(wave, rate, RATE, quality="HQ")
            times.append(clock())
            if augmenter is not None:
                augmenter(wave, draw.number)
            times.append(clock())
            disk, decoding, resampling, augmentation = np.diff(times).tolist()
            rest -= decoding + resampling
            for name, value in zip(names, (disk, decoding - disk, resampling, augmentation), strict=False):
                spent[name] += value
        spent[names[-1]] += max(rest, 0.0)
        audio += batch.audio_seconds
        number += 1
    spent["hand-over"] = handover_seconds(batch) * number
    return {name: value * 3600 / audio for name, value in spent.items()}


def make_augmenter(folder: Path) -> Augmenter:
    """What `light` is with twenty noises of 5 s and ten rooms of a second."""
    rng = np.random.default_rng(0)
    for kind, count, length in (("noise", 20, 5 * RATE), ("room", 10, RATE)):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            wave = rng.standard_normal(length) * (np.exp(-np.arange(length) / (0.1 * RATE)) if kind == "room" else 0.1)
            soundfile.write(folder / kind / f"{i}.flac", wave / np.abs(wave).max(), RATE)
    data = DataConfig(augmentation="light", noise_path=str(folder / "noise"), room_path=str(folder / "room"))
    augmenter = open_augmenter(data, seed=0)
    assert augmenter is not None
    return augmenter


def folder_of(name: str, root: Path) -> Path:
    """Where a format's corpus lies."""
    return root / name.replace("/", "-").replace(" ", "-").replace(",", "")


def count_workers(count: int) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count} worker{'s' * (count != 1)}"


def measure_start(count: int, folder: Path, batch_size: int, prompt: Prompt) -> dict[str, float]:
    """Write a corpus of many files whose manifest gives no durations, and start on it twice."""
    rows = []
    listed = [json.loads(line) for line in (SPEECH_DIR / "train.jsonl").read_text().splitlines()]
    for i in range(count):
        row = listed[i % len(listed)]
        name = f"{i // 1000:03d}/{row['speaker']}-{i:06d}{Path(row['audio']).suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(recording_at(SPEECH_DIR / row["audio"]))
        rows.append({"audio": name, "text": row["text"]})
    manifest = write_manifest(folder, rows)
    found = {}
    for which in ("first start", "second start"):  # to the first batch
        start = time.perf_counter()
        plan, dataset = open_corpus(manifest, folder, batch_size, prompt)
        next(iter(train_loader(plan, dataset)))
        found[f"{which}, s"] = time.perf_counter() - start
    start = time.perf_counter()
    plan = SamplingPlan(plan.durations, [1.0], batch_size, seed=0)
    next(iter(train_loader(plan, dataset, start_batch=RESUME_AT // batch_size)))
    found[f"resume at draw {RESUME_AT:,}, s"] = time.perf_counter() - start
    texts = sum(len(text.encode()) for source in dataset.sources for text in source.texts)
    del plan, dataset
    gc.collect()
    tracemalloc.start()
    kept = open_corpus(manifest, folder, batch_size, prompt)
    gc.collect()
    found["index, bytes a clip beside the text"] = (tracemalloc.get_traced_memory()[0] - texts) / count
    tracemalloc.stop()
    del kept
    return found


def median(rounds: list[dict[int, float]]) -> dict[int, float]:
    """The median of the rounds, for each number of workers."""
    return {n: statistics.median(found[n] for found in rounds) for n in rounds[0]}


def show(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def report_rates(
    formats: list[str], workers: tuple[int, ...], batch_size: int, seconds: float, root: Path, prompt: Prompt
) -> dict[str, Any]:
    """Measure every format, and the baseline beside it; print and return audio hours an hour."""
    rates: dict[str, Any] = {}
    for name in formats:
        path = write_corpus(name, folder_of(name, root))
        corpus, baseline = open_corpus(path, root, batch_size, prompt), None
        if path.suffix == ".jsonl":
            baseline = Afternoon(path, prompt.target_ids)
        ours, base = [], []
        for _ in range(ROUNDS):  # in turns: on a machine that does other things, too, both suffer alike
            ours.append(measure_data(*corpus, workers, seconds / ROUNDS)["audio_hours_per_hour"])
            if baseline is not None:
                base.append({n: measure_baseline(baseline, batch_size, n, seconds / ROUNDS) for n in workers})
        rates[name] = {"ours": median(ours)} | ({"baseline": median(base)} if base else {})
    rows = []
    for name, found in rates.items():
        cells = [f"{found['ours'][n]:,.0f}" for n in workers]
        if base := found.get("baseline"):
            cells += [f"{base[n]:,.0f} ({found['ours'][n] / base[n]:.2f})" for n in workers]
        rows.append([name, *cells, *[""] * (2 * len(workers) - len(cells))])
    head = [*map(count_workers, workers), *(f"baseline, {count_workers(n)} (ratio)" for n in workers)]
    show("Decoded audio hours an hour", ["format", *head], rows)
    return rates


def report_stages(
    formats: list[str], batch_size: int, seconds: float, root: Path, prompt: Prompt, augmenter: Augmenter
) -> dict[str, Any]:
    """Print where the time of a worker goes, plain and augmented, and name the largest part."""
    stages: dict[str, dict[str, float]] = {}
    for name in formats:
        folder = folder_of(name, root)
        if (folder / "manifest.jsonl").is_file():
            for title, chosen in ((name, None), (f"{name}, light", augmenter)):
                corpus = open_corpus(folder / "manifest.jsonl", root, batch_size, prompt)
                stages[title] = measure_stages(*corpus, folder, chosen, seconds)
    parts = list(next(iter(stages.values()), {}))
    rows = []
    for title, found in stages.items():
        total = sum(found.values())
        cells = [f"{found[part]:.2f} ({found[part] / total:.0%})" for part in parts]
        rows.append([title, *cells, f"{total:.2f}", max(found, key=lambda part: found[part])])
    show("Seconds for an hour of audio, in one process (share)", ["format", *parts, "sum", "bottleneck"], rows)
    return stages


def report_augmentation(
    name: str,
    workers: tuple[int, ...],
    batch_size: int,
    seconds: float,
    root: Path,
    prompt: Prompt,
    augmenter: Augmenter,
) -> dict[str, Any]:
    """Print what augmentation costs, with the workers of a run."""
    manifest = folder_of(name, root) / "manifest.jsonl"
    chosen = {"none": None, "light": augmenter}
    corpora = {title: open_corpus(manifest, root, batch_size, prompt, one) for title, one in chosen.items()}
    rounds: dict[str, list[dict[int, float]]] = {title: [] for title in chosen}
    for _ in range(ROUNDS):
        for title, corpus in corpora.items():
            rounds[title].append(measure_data(*corpus, workers, seconds / ROUNDS)["audio_hours_per_hour"])
    rates = {title: median(found) for title, found in rounds.items()}
    rows = [[title, *(f"{found[n]:,.0f}" for n in workers)] for title, found in rates.items()]
    rows.append(["light / none", *(f"{rates['light'][n] / rates['none'][n]:.2f}" for n in workers)])
    show(f"Audio hours an hour of {name}", ["data.augmentation", *map(count_workers, workers)], rows)
    return rates


def main() -> None:
    """Measure, print, and keep all figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(n for n in FORMATS if "," not in n) + ",parquet",
                        help="some of %(default)s")  # fmt: skip
    parser.add_argument("--workers", default="0,1,2", help="numbers of worker processes (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0,
                        help="of each measurement, its rounds together (default: %(default)g)")  # fmt: skip
    parser.add_argument("--files", type=int, default=20_000, help="of the corpus of many; 0: leave it out")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    args = parser.parse_args()
    asked = args.formats.split(",")
    formats = [name for name in FORMATS if name.split(",")[0] in asked]
    if not formats or set(asked) - {name.split(",")[0] for name in FORMATS}:
        parser.error(f"--formats: some of {parser.get_default('formats')} are wanted, got {args.formats}.")
    workers = tuple(int(n) for n in args.workers.split(","))
    torch.set_num_threads(1)

    prompt = load_prompt("pocket", None, ModelConfig().prompt)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="tiny-audio-data-") as made:
        root = Path(made)
        os.environ["HF_DATASETS_CACHE"] = str(root / "arrow")
        shared = args.batch_size, args.seconds, root, prompt
        figures = {"rates": report_rates(formats, workers, *shared)}
        augmenter = make_augmenter(root / "sounds")
        figures["stages"] = report_stages(formats, *shared, augmenter)
        plain = next((name for name in ("flac", *formats) if name in formats and not name.startswith("parquet")), None)
        if plain is not None:
            figures["augmentation"] = report_augmentation(plain, workers, *shared, augmenter)
        if args.files:
            figures["start"] = measure_start(args.files, root / "many", args.batch_size, prompt)
            rows = [
                [name, f"{value:.2f}" if value < 10 else f"{value:.0f}"] for name, value in figures["start"].items()
            ]
            show(f"A corpus of {args.files:,} files without listed durations", ["", ""], rows)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
