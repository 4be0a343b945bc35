"""A folder that holds, in small, everything that the commands of the docs name: models, recordings, manifests, runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import soundfile

import asr_models
from clips import tone, write
from tiny_audio.cli import main
from tiny_audio.data.packed import recording_at
from tiny_audio.pocket import SPEECH_DIR

ROOT = Path(__file__).parents[1]
CLIPS = 6
# What makes a run one of a second. A command's own settings stand before these, and lose.
SMALL = [
    "model.encoder_window=clip",
    "training.max_steps=1",
    "training.warmup_steps=0",
    "training.batch_size=2",
    "training.gradient_accumulation_steps=1",
    "training.eval_steps=1",
    "training.eval_at_start=false",
    "training.max_new_tokens=4",
    "data.max_eval_samples=2",
    "data.num_workers=0",
    "logging.use_wandb=false",
    "hardware.device=cpu",
    "hardware.mixed_precision=no",
]
CTC = ["training.ctc_warmup_steps=1", "training.ctc_min_count=1"]
OURS = ["data.datasets=[{path: my/train.jsonl}]", "data.eval_datasets=[{path: my/dev.jsonl}]"]


def make(folder: Path, models: Any) -> Path:
    """Make the folder; the commands of the docs can be typed in it."""
    folder.mkdir()
    for name in ("src", "benchmarks", "recipes", "configs", "sweep.yaml", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    put_models(folder, models)
    put_recordings(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        put_runs(folder)
    finally:
        os.chdir(before)
    return folder


def put_models(folder: Path, models: Any) -> None:
    """Under the names of the Hub: a local folder is found before it."""
    pocket = SPEECH_DIR.parent
    for name, place in {
        "zai-org/GLM-ASR-Nano-2512": pocket / "encoder",
        "Qwen/Qwen3-0.6B": pocket / "decoder",
        "Qwen/Qwen3-1.7B": models.qwen3,
        "HuggingFaceTB/SmolLM2-135M-Instruct": pocket / "decoder",
        "openai/whisper-small": models.whisper,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(place)
    whisper = asr_models.save_whisper(folder / "openai/whisper-base")
    (folder / "openai/whisper-tiny").symlink_to(whisper)
    (folder / "build/real").mkdir(parents=True)
    (folder / "build/real/whisper-base").symlink_to(whisper)
    (folder / "facebook").mkdir()
    asr_models.save_wav2vec2(folder / "facebook/wav2vec2-base-960h")


def put_recordings(folder: Path) -> None:
    """Manifests and folders of the pocket's speech, with silence for noise and rooms."""
    (folder / "my/clips").mkdir(parents=True)
    for split in ("train", "dev"):
        rows = [json.loads(line) for line in (SPEECH_DIR / f"{split}.jsonl").read_text().splitlines()][:CLIPS]
        for row in rows:
            source = SPEECH_DIR / row["audio"]
            row["audio"] = f"my/clips/{split}-{source.name}"
            (folder / row["audio"]).write_bytes(recording_at(source))
        # Paths relative to the folder are found from the manifests of either folder.
        text = "".join(json.dumps(row) + "\n" for row in rows)
        names = {"train": ["train", "train-context", "mine"], "dev": ["dev", "test", "clean", "noisy"]}[split]
        for name in [f"my/{split}", *names]:
            (folder / f"{name}.jsonl").write_text(text)
    (folder / "my/manifest.jsonl").write_text(
        "".join(
            json.dumps(json.loads(line) | {"split": split}) + "\n"
            for split in ("train", "dev")
            for line in (folder / f"my/{split}.jsonl").read_text().splitlines()
        )
    )
    (folder / "my/recordings.jsonl").write_text('{"audio": "clips/test.wav"}\n')
    shutil.copy(folder / "my/train.jsonl", folder / "my/labelled.jsonl")
    for name in ("noise20", "noise10", "rooms", "noise", "speech/digits", "speech/librispeech"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            source = "train" if split == "train" else "dev"
            (folder / name / f"{split}.jsonl").write_text((folder / f"my/{source}.jsonl").read_text())
    for name in ("noise20", "noise10"):
        (folder / name / "train.jsonl").unlink()
        (folder / name / "test.jsonl").unlink()
        (folder / name / "dev.jsonl").rename(folder / name / "manifest.jsonl")
    (folder / "rooms/manifest.jsonl").write_text((folder / "my/dev.jsonl").read_text())
    (folder / "my/text.txt").write_text("It rained all day, and we stayed at home. Nobody came to see us.\n")
    for name in ("sounds/noise", "sounds/rooms", "my/noise"):
        (folder / name).mkdir(parents=True)
        write(folder / name / "a.wav", 1.0)
    spoken, rate = soundfile.read(SPEECH_DIR / "audio/test/0012.flac")
    (folder / "recordings").mkdir()
    for name in ("test.wav", "talk.mp3", "recordings/a.wav", "my/clips/test.wav"):
        soundfile.write(folder / name, spoken, rate)
    soundfile.write(folder / "call.wav", tone(1.0, channels=2), 16_000)


def put_runs(folder: Path) -> None:
    """Three runs, and what is made of one; the other names are copies."""
    outputs = folder / "outputs"
    three = ["training.max_steps=3", "training.save_steps=1"]
    for experiment, more in {"transcription": three, "mosa": [], "mlp_lora": three}.items():
        assert main(["train", f"experiment={experiment}", *SMALL, *CTC, *OURS, *more]) == 0
    assert main(["average", "--checkpoints-dir", "outputs/mlp_lora", "--best", "3"]) == 0
    for name in ("quickstart", "laptop", "light/quickstart", "laptop_lora"):
        shutil.copytree(outputs / "transcription", outputs / name)
    checkpoints = outputs / "laptop/checkpoints"
    shutil.copy(checkpoints / "checkpoint-step-1.pt", checkpoints / "checkpoint-step-0.pt")
    final = outputs / "transcription/checkpoints/final.pt"
    for name in ("final.pt", "a.pt", "b.pt", "pair.pt"):
        shutil.copy(final, folder / name)
    assert main(["eval", f"checkpoint={final}", "report=judged"]) == 0
    assert main(["export", f"checkpoint={final}", "output=my-recognizer", "clips=1"]) == 0
    shutil.copy("judged/predictions.jsonl", "theirs.jsonl")
