"""Fixtures: tiny models and speech-like recordings, made once a session."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from filelock import FileLock

# A shell has its background jobs ignore Ctrl+C, and they hand that on; the runs that are tested wait for it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

sys.path.insert(0, str(Path(__file__).parent))  # tiny_models

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: more threads only wait for each other; for processes of tests, too

yaml.SafeLoader = yaml.CSafeLoader  # the same in C: a thousand times the settings are composed of a dozen files

# The files that take longest come first: each process is given a file at a time, and one at the end would run alone.
LONGEST = (
    *("test_docs_commands.py", "test_preflight.py", "test_export.py", "test_resume.py", "test_tracking.py"),
    *("test_sharded.py", "test_going_on.py", "test_cli_benchmark.py", "test_speech_llm.py", "test_docs_run.py"),
    *("test_cli_sweep.py", "test_step.py", "test_unreadable_together.py", "test_processes.py", "test_preview.py"),
    *("test_check.py", "test_stages.py", "test_ctc_warmup.py", "test_feature_cache.py", "test_transcribe.py"),
    *("test_cli_eval.py",),
)
WORDS = ("one", "two", "three", "four", "five", "six", "seven")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects of torch and transformers, which every `gc.collect` of a run would look through


@pytest.fixture(scope="session", autouse=True)
def _same_precision_everywhere() -> Iterator[None]:
    """The tests compute in fp32 unless they say otherwise, also where the CPU multiplies bf16."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            patch.setattr(torch.cpu, name, lambda: False)
        yield


@dataclass(frozen=True)
class TinyModels:
    """Folders of tiny checkpoints in the hub's layout."""

    glm_asr: Path
    qwen3: Path
    whisper: Path


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder for all test processes, made by the first that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.with_suffix(".done").is_file():
            folder.mkdir()
            make(folder)
            folder.with_suffix(".done").touch()
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    import tiny_models

    def save(root: Path) -> None:
        tiny_models.save_glm_asr(root / "glm-asr")
        tiny_models.save_qwen3(root / "qwen3")
        tiny_models.save_whisper(root / "whisper")

    root = made_once(tmp_path_factory, "models", save)
    return TinyModels(root / "glm-asr", root / "qwen3", root / "whisper")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.jsonl` (60 clips) and `dev.jsonl` (10): noise of 0.5 to 3 s, labeled at random."""
    return made_once(tmp_path_factory, "corpus", write_corpus)


def write_corpus(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("dev", 10)):
        rows = []
        for i in range(count):
            seconds = rng.uniform(0.5, 3)
            samples = (rng.standard_normal(int(seconds * 16_000)) * 0.1).astype(np.float32)
            soundfile.write(folder / f"{split}{i}.flac", samples, 16_000)
            text = " ".join(rng.choice(WORDS, rng.integers(1, 5)))
            rows.append({"audio": f"{split}{i}.flac", "text": text, "duration": len(samples) / 16_000})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small repositories of the known corpora, as the Hub holds them."""
    from standins import write_standins

    return made_once(tmp_path_factory, "standins", write_standins)


@pytest.fixture(scope="session")
def run_settings(tiny_models: TinyModels, corpus: Path) -> list[str]:
    """Arguments of `ta train` for a run of seconds on the tiny models."""
    return [
        "experiment=transcription",
        f"model.encoder={tiny_models.glm_asr}",
        f"model.decoder={tiny_models.qwen3}",
        "model.encoder_window=clip",  # windows of 30 s take twenty times as long
        "model.projector_config.hidden_dim=64",
        f"data.datasets=[{{path: {corpus}/train.jsonl}}]",
        f"data.eval_datasets=[{{path: {corpus}/dev.jsonl}}]",
        "data.num_workers=0",
        "training.batch_size=8",
        "training.max_steps=4",
        "training.eval_steps=4",
        "training.warmup_steps=2",
        "training.max_new_tokens=20",
        "training.ctc_warmup_steps=0",
        "training.ctc_loss_weight=0",
        "logging.log_steps=1",
        "logging.use_wandb=false",
        "hardware.device=cpu",
        "hardware.num_threads=1",
        "hardware.mixed_precision=no",  # auto would be bf16 on some CPUs, and figures other ones
    ]


@pytest.fixture(scope="session")
def trained(run_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`final.pt` of the tiny models, trained for a step."""
    from runs import run_ta

    def train(folder: Path) -> None:
        status, log = run_ta(["train", *run_settings, "training.max_steps=1"], folder)
        assert status == 0, log

    return made_once(tmp_path_factory, "trained", train) / "outputs/transcription/checkpoints/final.pt"
