"""Which checkpoints a run keeps, by figures that are given to it; and what it refuses to go on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_models as make
from tiny_audio.cli import main
from tiny_audio.evaluation.evaluate import Evaluation
from tiny_audio.evaluation.wer import ErrorCounts
from tiny_audio.training import build
from tiny_audio.training.checkpoint import VERSION, CheckpointFolder, load_checkpoint, save_checkpoint

ERRORS = [50, 20, 40, 30, 60, 20, 70, 80]  # of 100 words, after each step; of two that are equal the earlier is better
LOSSES = [5.0, 4.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0]
EACH_STEP = ["training.max_steps=8", "training.eval_steps=1", "training.batch_size=1", "training.preflight=false"]


@pytest.fixture
def evaluated(monkeypatch, tmp_path):
    """Step n of a run is found to have `ERRORS[n - 1]` and `LOSSES[n - 1]`."""
    found: list[int] = []

    def evaluate(*_: object) -> Evaluation:
        found.append(len(found))
        counts = ErrorCounts(deletions=ERRORS[found[-1]], length=100)
        return Evaluation(loss=LOSSES[found[-1]], num_tokens=1, words=counts, characters=counts)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "evaluate", evaluate)
    return found


@pytest.mark.parametrize(
    ("settings", "kept", "best"),
    [
        (["training.save_total_limit=null"], [1, 2, 3, 4, 5, 6, 7, 8], 2),
        (["training.save_total_limit=3"], [2, 6, 7, 8], 2),
        (["training.save_total_limit=1"], [2, 8], 2),
        (["training.save_best_only=true"], [2, 8], 2),
        (["training.save_best_only=true", "training.metric_for_best=loss"], [5, 8], 5),
        (["training.save_best_only=true", "training.greater_is_better=true"], [8], 8),
        (["training.save_total_limit=2", "training.metric_for_best=loss", "training.greater_is_better=true"],
         [1, 7, 8], 1),
    ],
)  # fmt: skip
def test_the_best_and_the_newest_are_kept(run_settings, evaluated, settings, kept, best):
    assert main(["train", *run_settings, *EACH_STEP, "training.save_steps=1", *settings]) == 0
    folder = CheckpointFolder(Path("outputs/transcription/checkpoints"))
    assert folder.steps() == kept
    state = json.loads((folder.path / "training_state.json").read_text())
    assert state["best"]["step"] == best
    assert state["checkpoints"] == [f"checkpoint-step-{step}.pt" for step in kept]
    assert load_checkpoint(folder.path / "final.pt")["state"]["step"] == 8


def test_a_better_step_is_saved_though_no_checkpoint_is_due(run_settings, evaluated):
    """Every evaluation may find the best; with 5,000 steps between checkpoints it would be lost."""
    assert main(["train", *run_settings, *EACH_STEP, "training.save_steps=5000"]) == 0
    assert CheckpointFolder(Path("outputs/transcription/checkpoints")).steps() == [1, 2, 8]


@pytest.fixture(scope="module")
def checkpoint(trained) -> Path:
    return trained.with_name("checkpoint-step-1.pt")


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, Path]:
    """Models of the same sizes with other weights."""
    root = tmp_path_factory.mktemp("others")
    return {
        "encoder": make.save_glm_asr(root / "glm-asr", seed=1),
        "decoder": make.save_qwen3(root / "qwen3", seed=1),
    }


@pytest.mark.parametrize(
    ("key", "setting", "message"),
    [
        ("training.resume_from_checkpoint", "model.encoder={encoder}",
         "was trained with model.encoder={theirs}, and this run has {encoder}."),
        ("model.checkpoint", "model.decoder={decoder}",
         "was trained with model.decoder={theirs}, and this run has {decoder}."),
        ("training.resume_from_checkpoint", "model.projector_type=mosa",
         "was trained with model.projector_type=mlp, and this run has mosa."),
        ("model.projector_checkpoint", "model.projector_config.hidden_dim=32",
         "holds another projector: linear_1.bias is (64,) there and (32,) here; compare model.projector_config."),
        ("model.projector_checkpoint", "model.prompt=Write",
         "was trained with model.prompt=Transcribe the speech to text., and this run has Write."),
    ],
)  # fmt: skip
def test_a_checkpoint_from_elsewhere_is_one_line_that_names_what_differs(
    run_settings, checkpoint, others, key, setting, message, tmp_path, monkeypatch, capsys
):
    """One function of the model looks, whichever setting named the checkpoint."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", *run_settings, setting.format(**others), f"{key}={checkpoint}"]) == 2
    saved = load_checkpoint(checkpoint)["models"]
    part = "encoder" if "model.encoder" in message else "decoder"
    expected = message.format(**others, theirs=saved[part])
    assert capsys.readouterr().err.splitlines()[-1] == f"ta train: error: checkpoint {checkpoint} {expected}"
    assert not CheckpointFolder(tmp_path / "outputs/transcription/checkpoints").steps()


@pytest.mark.parametrize("key", ["training.resume_from_checkpoint", "model.checkpoint"])
def test_a_checkpoint_of_a_newer_format_is_one_line(run_settings, checkpoint, key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"version": 99}, "newer.pt")
    assert main(["train", *run_settings, f"{key}=newer.pt"]) == 2
    message = f"checkpoint newer.pt has format version 99; this version of the toolkit reads {VERSION}: update it."
    assert capsys.readouterr().err.splitlines()[-1] == f"ta train: error: {message}"


def test_a_run_goes_on_from_models_that_have_moved(run_settings, checkpoint, tiny_models, tmp_path, monkeypatch):
    """Models are told by their weights, not by where they lie."""
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_models.qwen3)
    saved = load_checkpoint(checkpoint)
    save_checkpoint(Path("from.pt"), {key: value for key, value in saved.items() if key not in ("format", "version")})
    typed = [f"model.decoder={moved}", "training.resume_from_checkpoint=from.pt", "training.max_steps=2"]
    assert main(["train", *run_settings, *typed]) == 0
    assert load_checkpoint("outputs/transcription/checkpoints/final.pt")["state"]["step"] == 2
