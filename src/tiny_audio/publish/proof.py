"""Check that an exported folder writes the same as the checkpoint, in a process with only `transformers`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..audio import pad_waveforms
from ..errors import UserError
from ..model.speech_llm import SpeechLLM, transcript_limit
from .native import MAX_NEW_TOKENS

SCRIPT = Path(__file__).with_name("plain.py")


@dataclass(frozen=True)
class Way:
    """A way of padding clips, and the results of plain transformers with it.

    Attributes:
        same: how many texts equal those of the checkpoint.
        difference: largest difference of the logits after the prompt, as a share of their standard deviation.
        texts: of each clip.
    """

    same: int
    difference: float
    texts: list[str]


@dataclass(frozen=True)
class Proof:
    """The checkpoint's text of each clip, and the results of plain transformers by way of padding: `stock`, `bare`."""

    expected: list[str]
    ways: dict[str, Way]


@torch.inference_mode()
def read(model: SpeechLLM, waveforms: Sequence[np.ndarray]) -> tuple[list[str], list[np.ndarray], list[int]]:
    """Return for each clip its text, the logits (V,) after its prompt, and the limit of its tokens."""
    texts, logits, limits = [], [], []
    for waveform in waveforms:
        batch, num_samples = pad_waveforms([waveform])
        frames, lengths = model.encoder(batch.to(model.device), num_samples)
        embeddings, sequences, _ = model.embed(frames, lengths, [torch.empty(0, dtype=torch.int64)])
        count = model.projector.num_tokens(lengths[0])
        limits.append(transcript_limit(count, MAX_NEW_TOKENS))
        last = torch.tensor([sequences.lengths[0] - 1], device=model.device)
        logits.append(model.decoder.logits(embeddings, sequences.lengths, last)[0].float().cpu().numpy())
        texts += model.transcribe(frames, lengths, MAX_NEW_TOKENS)
    return texts, logits, limits


def prove(model: SpeechLLM, folder: Path, waveforms: Sequence[np.ndarray]) -> Proof:
    """Compare a native folder with the model that it was made of, clip by clip.

    Args:
        model: in fp32.
        folder: as `write_folder` wrote it.
        waveforms: (S_i,) float32 samples of at most 30 s.

    Raises:
        UserError: plain transformers cannot load it.
    """
    texts, logits, limits = read(model, waveforms)
    with tempfile.TemporaryDirectory() as temporary:
        job, result = Path(temporary, "job.npz"), Path(temporary, "result.json")
        np.savez(job, limits=limits, **{str(i): w.astype(np.float32) for i, w in enumerate(waveforms)})  # type: ignore[arg-type]
        command = [sys.executable, "-P", str(SCRIPT), str(folder), str(job), str(result)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise UserError(f"{folder} was written, but plain transformers cannot use it: {lines[-1]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    ways = {}
    for name, made in found.items():
        differences = [
            float(np.abs(np.asarray(theirs) - ours).max() / ours.std())
            for theirs, ours in zip(made["logits"], logits, strict=True)
        ]
        same = sum(one == other for one, other in zip(made["texts"], texts, strict=True))
        ways[name] = Way(same, max(differences), made["texts"])
    return Proof(texts, ways)
