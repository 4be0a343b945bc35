"""How fast a checkpoint transcribes by batch size, beside the usual ways in the same run.

    python benchmarks/decoding.py final.pt my/dev.jsonl --pipeline build/real/whisper-base

The baseline is `transformers`' `generate` with its `sdpa` attention, clip by clip. Everything has the very same clips,
sorted by length; recordings are read before the clock starts. CPU time is what the process itself took, which other
work on the machine disturbs least: with other work running use `--threads 1` and look at that. RTFx is seconds of audio
a second. Each way takes its turn in every round, and its fastest one counts.

    python benchmarks/decoding.py final.pt my/dev.jsonl --device cuda

also decodes with a CUDA graph. There only the wall clock says how long a way took.

With `--search` a checkpoint that searches with CTC (`experiment=laptop`) is measured as `ta infer` uses it, in batches
of 8, with the attention of `transformers` and with ours.

A checkpoint that has hardly been trained writes much less than was said, or more. With `--as-long-as-said` each clip
gets as many tokens as its transcript has, whatever they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tiny_audio.audio import pad_waveforms
from tiny_audio.config import Config, DataConfig, DatasetConfig, HardwareConfig, PathsConfig
from tiny_audio.data.sources import open_source
from tiny_audio.inference import Recognizer
from tiny_audio.judge.pipelines import ModelRecognizer
from tiny_audio.lengths import SAMPLE_RATE
from tiny_audio.model.packing import PACKED_ATTENTION
from tiny_audio.model.reading import Reading
from tiny_audio.model.speech_llm import transcript_limit


@dataclass
class Way:
    """One way to transcribe all clips, and what its rounds took: wall, CPU, and of that CPU the encoder's seconds."""

    name: str
    work: Callable[[], tuple[list[str], float]]
    rounds: list[tuple[float, float, float]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def measure(self) -> None:
        """Take a turn."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.texts, encoder = self.work()
        self.rounds.append((time.perf_counter() - wall, time.process_time() - cpu, encoder))


class Ours:
    """A checkpoint that transcribes clips in batches of neighbors."""

    def __init__(self, recognizer: Recognizer, clips: list[np.ndarray], counts: list[int] | None) -> None:
        self.model, self.clips = recognizer.model, clips
        self.dtype = recognizer._dtype
        self.max_new_tokens = recognizer.decoding.max_new_tokens
        self.counts = counts
        self.reading = self.model.decoder.reading
        if counts is not None:  # nothing ends before
            self.model.decoder._own_ends = []
            self.model.decoder.prompt.end_ids = [-1]

    def __call__(self, batch_size: int, rows_leave: bool = True, graph: bool = False) -> tuple[list[str], float]:
        """Return the transcripts, and the CPU seconds of the encoder."""
        device = self.model.device
        self.model.decoder.use_cuda_graph(graph)
        reading = self.model.decoder.reading
        self.model.decoder._reading = replace(reading, rows_leave=rows_leave and self.reading.rows_leave)
        self.model.decoder.module.set_attn_implementation(reading.attention if rows_leave else stock(reading))
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self._transcribe(batch_size, device)

    def _transcribe(self, batch_size: int, device: torch.device) -> tuple[list[str], float]:
        model, texts, encoder = self.model, [], 0.0
        for first in range(0, len(self.clips), batch_size):
            start = time.process_time()
            batch, num_samples = pad_waveforms(self.clips[first : first + batch_size])
            frames, lengths = model.encoder(batch.to(device), num_samples)
            encoder += time.process_time() - start
            sizes = [model.projector.num_tokens(length) for length in lengths]
            limits = [transcript_limit(size, self.max_new_tokens) for size in sizes]
            if self.counts is not None:
                limits = self.counts[first : first + batch_size]
            nothing = [torch.empty(0, dtype=torch.int64)] * len(lengths)
            embeddings, sequences, _ = model.embed(frames, lengths, nothing)
            rows = model.decoder.generate(embeddings.split(sequences.lengths), limits)
            texts += [model.decoder.prompt.decode(ids) for ids in rows]
        return texts, encoder


def search_ways(recognizer: Recognizer, clips: list[np.ndarray]) -> list[Way]:
    """The search of a checkpoint, in batches of 8."""

    def searched(attention: str) -> tuple[list[str], float]:
        recognizer.model.decoder.module.set_attn_implementation(attention)
        return [one.text for one in recognizer.transcribe(clips, SAMPLE_RATE)], float("nan")

    reading, beams = recognizer.model.decoder.reading, recognizer.model.search.beams
    names = {stock(reading): f"search, {beams} beams, stock attention", reading.attention: f"search, {beams} beams"}
    return [Way(name, partial(searched, attention)) for attention, name in names.items()]


def stock(reading: Reading) -> str:
    """Return the attention of `transformers` that a model can use."""
    return "sdpa" if reading.attention == PACKED_ATTENTION else reading.attention


@torch.inference_mode()
def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("data", help="a manifest or folder")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--pipeline", help="a model for transformers' ASR pipeline, for comparison")
    parser.add_argument("--as-long-as-said", action="store_true")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    source = open_source(DatasetConfig(path=given.data), DataConfig(), Path(PathsConfig().cache_dir))
    chosen = range(0, len(source), max(1, len(source) // given.clips))[: given.clips]
    rows = sorted(chosen, key=lambda row: float(source.durations[row]))
    clips = [source.read(row) for row in rows]
    recognizer = Recognizer(given.checkpoint, given.device)
    counts = [len(recognizer.model.decoder.prompt.encode(source.texts[row])) for row in rows]
    on_gpu = recognizer.model.device.type == "cuda"
    if given.search and recognizer.model.search.beams == 1:
        parser.error("--search: this checkpoint writes greedily")
    ours = Ours(recognizer, clips, counts if given.as_long_as_said and not given.search else None)

    def ours_by(size: int, graph: bool = False) -> Callable[[], tuple[list[str], float]]:
        return lambda: ours(size, graph=graph)

    if given.search:
        ways = search_ways(recognizer, clips)
    else:
        ways = [Way("generate, clip by clip", lambda: ours(1, rows_leave=False))]
        ways.append(Way("generate, batches of 8", lambda: ours(8, rows_leave=False)))
        ways += [Way(f"ours, batches of {size}", ours_by(size)) for size in given.batch_sizes]
    if on_gpu and not given.search:
        ways += [Way(f"ours, batches of {size}, CUDA graph", ours_by(size, graph=True)) for size in given.batch_sizes]
    if given.pipeline:
        precision = "auto" if on_gpu else "no"
        settings = Config(hardware=HardwareConfig(device=given.device, mixed_precision=precision))
        other = ModelRecognizer(given.pipeline, settings, language="en")

        def theirs_by(size: int) -> Callable[[], tuple[list[str], float]]:
            batches = [clips[first : first + size] for first in range(0, len(clips), size)]
            return lambda: ([text for batch in batches for text in other.transcribe(batch)], float("nan"))

        ways += [Way(f"pipeline, batches of {size}", theirs_by(size)) for size in (1, 8)]
    if not given.search:
        ours(1)  # the first clips choose kernels
    for _ in range(given.rounds):
        for way in ways:
            way.measure()
    seconds = sum(map(len, clips)) / SAMPLE_RATE
    print(f"{len(clips)} clips, {seconds:.0f} s, {given.threads} threads; {sum(counts)} tokens were said")
    clock = "wall" if on_gpu else "CPU"
    print(f"| | s | CPU s | of it encoder | RTFx | times the first, by {clock} time | same text |")
    print("|---|---|---|---|---|---|---|")
    base = min(one[0 if on_gpu else 1] for one in ways[0].rounds)
    for way in ways:
        wall, cpu, encoder = (min(column) for column in zip(*way.rounds, strict=True))
        same = sum(a == b for a, b in zip(way.texts, ways[0].texts, strict=True))
        print(
            f"| {way.name} | {wall:.1f} | {cpu:.1f} | {encoder:.1f} | {seconds / wall:.2f} "
            f"| {base / (wall if on_gpu else cpu):.2f} "
            f"| {same} of {len(clips)} |"
        )


if __name__ == "__main__":
    main()
