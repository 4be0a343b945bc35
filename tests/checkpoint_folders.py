"""Folders of checkpoints as a run leaves them, with weights of two numbers, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tiny_audio.config import Config
from tiny_audio.training.checkpoint import CheckpointFolder, save_checkpoint
from tiny_audio.training.state import RunState

MODELS = {
    **{"encoder": "e", "encoder_revision": None, "encoder_fingerprint": "e", "feature_convention": "f"},
    **{"decoder": "d", "decoder_revision": None, "decoder_fingerprint": "d", "prompt": "p", "projector_type": "mlp"},
}


def content(step: int, history: list[dict[str, float]], metric: str = "wer", prompt: str = "p") -> dict[str, Any]:
    """A checkpoint whose projector is `[step, 2 * step]`, and whose decoder is half as precise."""
    config = Config().to_dict()
    config["training"] |= {"metric_for_best": metric, "greater_is_better": False}
    return {
        "config": config,
        "models": MODELS | {"prompt": prompt},
        "weights": {
            "projector": {"w": torch.tensor([step, 2 * step], dtype=torch.float32)},
            "lora": {"a": torch.full((2, 2), step / 3, dtype=torch.bfloat16)},
        },
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": {"step": step},
        "scaler": None,
        "rng": {},
        "state": RunState(step=step, history=history).to_dict(),
    }


def write_run(output: Path, wers: dict[int, float | None], metric: str = "wer") -> CheckpointFolder:
    """Write a checkpoint for each step, with its WER (None: not evaluated), `final.pt` and `training_state.json`.

    The loss of an evaluation is one minus its WER, so that the other metric ranks the other way round.
    """
    folder = CheckpointFolder(output / "checkpoints")
    folder.path.mkdir(parents=True)
    history = [{"step": s, "wer": wer, "cer": wer, "loss": 1 - wer} for s, wer in wers.items() if wer is not None]
    for step in wers:
        save_checkpoint(folder.file(step), content(step, [row for row in history if row["step"] <= step], metric))
    folder.finish(max(wers))
    folder.write_state(
        {"history": history, "checkpoints": [folder.file(step).name for step in wers], "step": max(wers)}
    )
    (output / ".lock").touch()
    return folder
