"""Runs on the tiny models that are stopped, killed and compared: their settings, and the figures they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MAX_STEPS = 24
CTC_STEPS = 12  # of the warm-up before them


def settings(run_settings: list[str], *more: str) -> list[str]:
    return [
        "train",
        *run_settings,
        "model.projector_type=moe",  # its routing, balance loss and usage counts must be made again too
        "model.projector_config.expert_dim=32",
        "model.projector_config.dropout=0.1",
        "model.audio_token_dropout=0.1",
        "data.augmentation=light",
        "training.gradient_accumulation_steps=2",
        f"training.max_steps={MAX_STEPS}",
        f"training.ctc_warmup_steps={CTC_STEPS}",
        "training.ctc_loss_weight=0.3",
        "training.ctc_min_count=3",
        "training.save_steps=4",
        "training.eval_steps=6",
        "training.save_total_limit=3",
        *more,
    ]


def metrics(folder: Path) -> dict[tuple[int, str], float]:
    """All figures of a run but times and machine load; each step must stand in the file once."""
    found: dict[tuple[int, str], float] = {}
    for line in (folder / "outputs/transcription/metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        kept = (
            "train/loss",
            "train/auxiliary",
            "train/expert",
            "train/grad",
            "train/learning_rate",
            "train/epoch",
            "eval/",
            "ctc_warmup/",
        )
        for key in row:
            if key.startswith(kept):
                assert (row["step"], key) not in found, "a step was logged twice"
                found[row["step"], key] = row[key]
    return found


def steps_logged(folder: Path) -> int:
    path = folder / "outputs/transcription/metrics.jsonl"
    return path.read_text().count('"train/loss"') if path.is_file() else 0


def start_ta(arguments: list[str], folder: Path, **kwargs: object) -> subprocess.Popen[str]:
    """Start `ta` in a process group of its own, its output in `log.txt`."""
    command = [sys.executable, "-c", "from tiny_audio.cli import main; raise SystemExit(main())", *arguments]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, text=True, start_new_session=True, **kwargs
        )


def run_ta(arguments: list[str], folder: Path, **kwargs: object) -> tuple[int, str]:
    """Run `ta` to its end; return the exit status and what it printed."""
    (folder / "log.txt").unlink(missing_ok=True)
    status = start_ta(arguments, folder, **kwargs).wait(timeout=300)
    return status, (folder / "log.txt").read_text()
