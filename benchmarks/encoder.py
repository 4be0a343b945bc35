"""What a clip costs in Whisper's encoder on this CPU, beside the stock forward and what the cores can multiply.

    python benchmarks/encoder.py build/real/whisper-base my/train.jsonl

Batches of eight clips: the stock forward of windows of 30 s, and ours of each `model.encoder_window`. They take turns,
and each figure is the best of the rounds. CPU time is what the process itself took, which other work on the machine
disturbs least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from tiny_audio.audio import pad_waveforms
from tiny_audio.config import ENCODER_WINDOWS, DataConfig, DatasetConfig, PathsConfig
from tiny_audio.data.sources import open_source
from tiny_audio.model.encoder import WhisperSpeechEncoder, load_encoder

CLIPS = 8
MATRIX = 2048


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of wall and of CPU time that some work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def window_flops(encoder: WhisperSpeechEncoder) -> float:
    """Return the floating-point operations of the matrix products of one 30 s window."""
    config = encoder.module.config
    width, frames = config.d_model, config.max_source_positions
    convolutions = 2 * 3 * width * (2 * frames * config.num_mel_bins + frames * width)
    linear = 2 * frames * width * (4 * width + 2 * config.encoder_ffn_dim)
    return float(convolutions + config.encoder_layers * (linear + 4 * frames**2 * width))


@torch.inference_mode()
def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="a Whisper checkpoint")
    parser.add_argument("data", help="a manifest or folder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    encoder = load_encoder(given.encoder, None, torch.float32)
    assert isinstance(encoder, WhisperSpeechEncoder), "another encoder"
    source = open_source(DatasetConfig(path=given.data), DataConfig(), Path(PathsConfig().cache_dir))
    rows = range(0, len(source), max(1, len(source) // CLIPS))[:CLIPS]
    waveforms, lengths = pad_waveforms([source.read(row) for row in rows])
    matrix = torch.randn(MATRIX, MATRIX)

    def stock() -> None:
        encoder.encoder_window = "30s"
        encoder.module(encoder.log_mel(*encoder.window(waveforms, lengths)))

    def ours(window: str) -> None:
        encoder.encoder_window = window
        encoder(waveforms, lengths)

    ways: dict[str, Callable[[], object]] = {
        "stock": stock,
        **{window: partial(ours, window) for window in ENCODER_WINDOWS},
        "matrix": lambda: matrix @ matrix,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(given.rounds + 1):
        for name, work in ways.items():
            found = timed(work)
            taken[name] += [found] if number else []  # the first round chooses kernels
    seconds = float(source.durations[list(rows)].mean())
    print(f"{len(rows)} clips of {seconds:.1f} s on average, {given.threads} threads")
    rate = 2 * MATRIX**3 / min(wall for wall, _ in taken["matrix"])
    flops = window_flops(encoder)
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s; a window, {flops / 1e9:.1f} GFLOP, takes {flops / rate:.3f} s")
    for name in ("stock", *ENCODER_WINDOWS):
        wall, cpu = (min(column) * 1000 / len(rows) for column in zip(*taken[name], strict=True))
        print(f"{name}: {wall:.0f} ms a clip, {cpu:.0f} ms of CPU time")


if __name__ == "__main__":
    main()
