"""How well the CTC head places words, and whether its confidences tell wrong words from right ones.

    python benchmarks/words.py outputs/quickstart/checkpoints/final.pt my/test.jsonl

Clips are joined at known times, with pauses of 0.2 to 0.8 s, to recordings of up to 25 s. Their transcripts are
aligned, and each word is looked for in its own clip. Clips of one word (spoken digits) give the places of words, others
those of sentences. Then the model writes down each clip, and the confidences of its wrong words are compared with those
of its right ones: the area under the ROC curve is the share of pairs in which the right word has the higher one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from kaldialign import align

from tiny_audio.audio import pad_waveforms
from tiny_audio.config import DataConfig, DatasetConfig, PathsConfig
from tiny_audio.data.sources import open_source
from tiny_audio.lengths import SAMPLE_RATE
from tiny_audio.model.checkpointed import rebuild
from tiny_audio.model.speech_llm import SpeechLLM
from tiny_audio.training.checkpoint import load_checkpoint

LONGEST = 25.0  # seconds of a joined recording
TOLERANCE = 0.08  # seconds by which a word may stick out of its clip: one audio token
GAP = "<gap>"


def sounding(waveform: np.ndarray) -> tuple[float, float]:
    """Return where a clip's sound begins and ends, in seconds: louder than a twentieth of its peak."""
    loud = np.flatnonzero(np.abs(waveform) > np.abs(waveform).max() / 20)
    return loud[0] / SAMPLE_RATE, (loud[-1] + 1) / SAMPLE_RATE


def pad(waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return recordings as a batch (B, S), and their lengths (B,) in samples."""
    return pad_waveforms([waveform.astype(np.float32) for waveform in waveforms])


def place_words(model: SpeechLLM, clips: list[tuple[np.ndarray, str]], rng: np.random.Generator) -> None:
    """Join clips, align their transcripts, and print how far words are from where they were said."""
    inside, starts, ends = [], [], []
    while clips:
        parts, marks, seconds = [], [], 0.0
        while clips and seconds + len(clips[-1][0]) / SAMPLE_RATE < LONGEST:
            waveform, text = clips.pop()
            begin, end = sounding(waveform)
            marks.append((seconds + begin, seconds + end, len(text.split()), text))
            pause = np.zeros(round(rng.uniform(0.2, 0.8) * SAMPLE_RATE), dtype=np.float32)
            parts += [waveform, pause]
            seconds += (len(waveform) + len(pause)) / SAMPLE_RATE
        if not parts:
            clips.pop()
            continue
        batch, num_samples = pad([np.concatenate(parts)])
        (words,) = model.align(model.encoder(batch, num_samples)[0], num_samples, [" ".join(mark[3] for mark in marks)])
        if words is None:
            continue
        left = iter(words)
        for begin, end, count, _ in marks:
            own = [next(left) for _ in range(count)]
            inside += [begin - TOLERANCE <= (word.start + word.end) / 2 <= end + TOLERANCE for word in own]
            starts.append(own[0].start - begin)
            ends.append(own[-1].end - end)
    print(f"{len(inside):,} words: the middle of {np.mean(inside):.1%} lies within the clip that says them")
    for name, found in (("first word's start", starts), ("last word's end", ends)):
        off = 1000 * np.array(found)
        middle, distance, most = np.median(off), np.median(np.abs(off)), np.quantile(np.abs(off), 0.9)
        print(
            f"{len(off):,} clips, {name}: {middle:+.0f} ms (median), {distance:.0f} ms off, 90 % within {most:.0f} ms"
        )


def judge_confidence(model: SpeechLLM, clips: list[tuple[np.ndarray, str]], batch_size: int) -> None:
    """Print how well confidences tell the words that are wrong."""
    right: list[float] = []
    wrong: list[float] = []
    unaligned = 0
    for first in range(0, len(clips), batch_size):
        some = clips[first : first + batch_size]
        batch, num_samples = pad([waveform for waveform, _ in some])
        frames, lengths = model.encoder(batch, num_samples)
        written = model.transcribe(frames, lengths, 200)
        found = model.align(frames, num_samples, written)
        for (_, reference), text, words in zip(some, written, found, strict=True):
            if words is None:
                unaligned += 1
                continue
            left = iter(words)
            for said, wrote in align(reference.split(), text.split(), GAP):
                if wrote != GAP:
                    (right if said == wrote else wrong).append(next(left).confidence)
    pairs = np.array(right)[:, None] - np.array(wrong)[None]
    area = (np.mean(pairs > 0) + np.mean(pairs == 0) / 2).item()
    print(f"{len(right):,} right and {len(wrong):,} wrong words; {unaligned} clips could not be aligned")
    print(f"confidence: median {np.median(right):.3f} of right words, {np.median(wrong):.3f} of wrong; area {area:.3f}")


@torch.inference_mode()
def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("data", help="a manifest or folder")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    model = rebuild(load_checkpoint(given.checkpoint), given.checkpoint, torch.float32)
    source = open_source(DatasetConfig(path=given.data), DataConfig(), Path(PathsConfig().cache_dir))
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(source))[: given.clips].tolist()
    clips = [(source.read(row), source.texts[row]) for row in rows]
    judge_confidence(model, clips, given.batch_size)
    place_words(model, clips, rng)


if __name__ == "__main__":
    main()
