"""Pretrain the pocket speech encoder: a small `GlmAsrEncoder` with CTC over characters (Graves et al., 2006).

Every batch holds clips of one aligned length, so no frame is padding and no attention mask is needed; each
clip's features are the ones that it has alone, as everywhere in Tiny Audio.

Dimensions: B clips, S samples, M mel bins, L mel frames, T encoder frames, D width, C characters.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from augment import mask_spectrogram, noisy, warp_frequencies
from kaldialign import edit_distance
from muon import learning_rate_factor, muon_and_adam
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import GlmAsrEncoder, GlmAsrEncoderConfig, WhisperFeatureExtractor

from tiny_audio.audio import load_audio, pad_waveforms
from tiny_audio.lengths import SAMPLE_RATE, align_samples
from tiny_audio.mel import LogMel

CHARACTERS = "_ abcdefghijklmnopqrstuvwxyz'"  # the first stands for CTC's blank
MEL_BINS = 80
HEAD_DIM = 64
MAX_EDGE_SECONDS = 0.1  # silence added at either end of a clip, at most

Clip = tuple[np.ndarray, str]  # float32 or int16 samples (S,), transcript


class CtcModel(nn.Module):
    """An encoder and a linear layer that names a character, or none, at every frame."""

    def __init__(self, encoder: GlmAsrEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, len(CHARACTERS))

    def forward(self, mel: Tensor) -> Tensor:
        """Map log-mel spectrograms (B, M, L) of equally long clips to log-probabilities (B, T, C)."""
        return self.head(self.encoder(mel).last_hidden_state).log_softmax(-1)


def new_model(width: int, layers: int) -> CtcModel:
    """Build an untrained model."""
    config = GlmAsrEncoderConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=width // HEAD_DIM,
        head_dim=HEAD_DIM,
        num_mel_bins=MEL_BINS,
    )
    return CtcModel(GlmAsrEncoder(config))


def read_clips(path: Path) -> list[Clip]:
    """Read what `speech.py clips` wrote, as views of one int16 array."""
    with np.load(path) as arrays:
        samples, ends, texts = arrays["samples"], arrays["ends"], arrays["texts"].tolist()
    starts = np.concatenate([[0], ends[:-1]])
    clips = [(samples[a:b], text) for a, b, text in zip(starts, ends, texts, strict=True)]
    return [clip for clip in clips if len(clip[0]) > SAMPLE_RATE // 4]


def read_manifest(path: Path) -> list[Clip]:
    """Read the clips of a manifest like the bundled ones; the text keeps only known characters."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    known = set(CHARACTERS[1:])
    return [
        (load_audio(path.parent / line["audio"]), "".join(c for c in line["text"].lower() if c in known))
        for line in lines
    ]


def as_float(samples: np.ndarray) -> np.ndarray:
    """Return samples (S,) as float32 in -1 to 1."""
    return samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples


def length_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Group clips by aligned length, in order, into batches of at most `batch_size` of their indices."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        groups[align_samples(length)].append(index)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]


def training_batches(clips: list[Clip], batch_size: int, rng: random.Random) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield waveforms (B, S) and transcripts without end; a new order and new silent edges at each pass."""
    while True:
        order = rng.sample(range(len(clips)), len(clips))
        edges = [[rng.randrange(int(MAX_EDGE_SECONDS * SAMPLE_RATE)) for _ in range(2)] for _ in order]
        lengths = [len(clips[i][0]) + sum(edge) for i, edge in zip(order, edges, strict=True)]
        batches = [batch for batch in length_batches(lengths, batch_size) if 2 * len(batch) > batch_size]
        rng.shuffle(batches)
        for batch in batches:
            waveforms = [np.pad(as_float(clips[order[k]][0]), edges[k]) for k in batch]
            yield pad_waveforms(waveforms)[0], [clips[order[k]][1] for k in batch]


def ctc_loss(log_probs: Tensor, transcripts: list[str]) -> Tensor:
    """Mean CTC loss a character of (B, T, C) log-probabilities."""
    targets = [torch.tensor([CHARACTERS.index(c) for c in transcript]) for transcript in transcripts]
    target_lengths = torch.tensor([len(target) for target in targets])
    frames = torch.full((len(targets),), log_probs.shape[1])
    by_frame = log_probs.transpose(0, 1)
    return F.ctc_loss(by_frame, torch.cat(targets), frames, target_lengths, zero_infinity=True)


def greedy_text(log_probs: Tensor) -> str:
    """Decode (T, C): the likeliest of each frame, repeats merged, blanks dropped."""
    best = torch.unique_consecutive(log_probs.argmax(-1)).tolist()
    return "".join(CHARACTERS[i] for i in best if i)


@torch.inference_mode()
def error_rates(model: CtcModel, log_mel: LogMel, clips: list[Clip]) -> tuple[float, float, list[str]]:
    """Decode clips greedily: word error rate, character error rate, hypotheses."""
    model.eval()
    hypotheses = [""] * len(clips)
    for batch in length_batches([len(samples) for samples, _ in clips], 32):
        waveforms, lengths = pad_waveforms([as_float(clips[i][0]) for i in batch])
        for i, log_probs in zip(batch, model(log_mel(waveforms, lengths)), strict=True):
            hypotheses[i] = greedy_text(log_probs)
    model.train()
    rates = []
    for units in (str.split, list):
        pairs = [(units(clip[1]), units(h)) for clip, h in zip(clips, hypotheses, strict=True)]
        errors = sum(edit_distance(reference, hypothesis)["total"] for reference, hypothesis in pairs)
        rates.append(errors / sum(len(reference) for reference, _ in pairs))
    return rates[0], rates[1], hypotheses


def save(model: CtcModel, average: CtcModel, folder: Path) -> None:
    """Write `ctc.pt` (both models, for `--init`) and `encoder/` (the averaged one in half precision)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "average": average.state_dict()}, folder / "ctc.pt")
    encoder = copy.deepcopy(average.encoder).half()
    encoder.save_pretrained(folder / "encoder")
    WhisperFeatureExtractor(feature_size=MEL_BINS).save_pretrained(folder / "encoder")


def main() -> None:
    """Train, with a line every 50 steps, an evaluation and a save every `--every`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="what `speech.py clips` wrote")
    parser.add_argument("dev", type=Path, help="dev.jsonl of the corpus: scored, never trained on")
    parser.add_argument("output", type=Path, help="a folder: ctc.pt and encoder/")
    parser.add_argument("--init", type=Path, help="go on from another output folder's weights")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--masks", type=int, default=12, help="widest mask, in mel bins and in mel frames")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--muon-rate", type=float, default=0.015)
    parser.add_argument("--adam-rate", type=float, default=2e-3)
    parser.add_argument("--decay-share", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    model = new_model(args.width, args.layers)
    average = copy.deepcopy(model)
    if args.init:
        weights = torch.load(args.init / "ctc.pt", weights_only=True)
        model.load_state_dict(weights["model"])
        average.load_state_dict(weights["average"])
    optimizers = muon_and_adam(model, args.muon_rate, args.adam_rate)
    schedulers = [LambdaLR(o, lambda s: learning_rate_factor(s, args.steps, 100, args.decay_share)) for o in optimizers]
    log_mel = LogMel(MEL_BINS)
    clips, dev = read_clips(args.clips), read_manifest(args.dev)
    size = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    print(f"{len(clips):,} clips, {len(dev)} of dev, encoder of {size:.2f} M parameters", flush=True)

    started, losses = time.time(), []
    batches = training_batches(clips, args.batch_size, rng)
    for step in range(1, args.steps + 1):
        waveforms, transcripts = next(batches)
        waveforms = noisy(waveforms)
        mel = log_mel(waveforms, torch.full((len(waveforms),), waveforms.shape[1]))
        mel = mask_spectrogram(warp_frequencies(mel), args.masks)
        loss = ctc_loss(model(mel), transcripts)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            keep = min(0.997, step / (step + 10))
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        losses.append(loss.item())
        if step % 50 == 0:
            seconds = time.time() - started
            print(f"step {step:5}  loss {np.mean(losses[-50:]):.3f}  {seconds:5.0f} s", flush=True)
        if step % args.every == 0 or step == args.steps:
            wer, cer, hypotheses = error_rates(average, log_mel, dev)
            print(f"step {step:5}  dev WER {wer:.1%}  CER {cer:.1%}  {hypotheses[:3]}", flush=True)
            save(model, average, args.output)


if __name__ == "__main__":
    main()
