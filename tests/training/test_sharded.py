"""Sharded training (FSDP) makes the steps of one process, and its checkpoints serve any number of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from runs import held_here, metrics, nothing, run_ta, run_together, watch_steps
from tiny_audio.cli import main
from tiny_audio.config import HardwareConfig
from tiny_audio.errors import ConfigError
from tiny_audio.training.checkpoint import load_checkpoint
from tiny_audio.training.loop import Trainer

STEPS = 6


@pytest.fixture(scope="module")
def broken(corpus, tmp_path_factory) -> Path:
    """A corpus of which every third clip is cut off: at one clip a batch, a process often has none."""
    folder = tmp_path_factory.mktemp("broken")
    rows = []
    for i in range(9):
        samples, rate = soundfile.read(corpus / f"train{i}.flac")
        soundfile.write(folder / f"{i}.wav", samples[: len(samples) // (4 if i % 3 == 0 else 1)], rate)
        rows.append({"audio": f"{i}.wav", "text": "one two", "duration": len(samples) / rate})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl"


KINDS = {
    "projector": ["model.projector_type=moe", "model.projector_config.expert_dim=32"],
    "adapters": ["model.use_lora=true", "model.lora_config.lora_dropout=0", "hardware.mixed_precision=bf16"],
    "decoder": ["model.freeze_decoder=false"],
    "unreadable": ["training.batch_size=1", "data.max_skipped_share=0.9"],
}

SLOW = ("projector", "decoder", "unreadable")


def arguments(run_settings: list[str], kind: str, broken: Path, *more: str) -> list[str]:
    """Three evaluation batches, so that the second process has one less."""
    own = ["training.save_steps=2", "training.eval_steps=3", "training.eval_batch_size=4"]
    own += ["model.projector_config.dropout=0", f"training.max_steps={STEPS}"]
    if kind == "unreadable":
        own.append(f"data.datasets=[{{path: {broken}}}]")
    return ["train", *run_settings, *own, *KINDS[kind], *more]


def run_sharded(arguments: list[str], folder: Path, change: Callable[[], None] = nothing) -> str:
    statuses, log = run_together(arguments, folder, change)
    assert statuses == [0, 0], log
    return log


def content(folder: Path, name: str = f"checkpoint-step-{STEPS}.pt") -> dict:
    return load_checkpoint(folder / "outputs/transcription/checkpoints" / name)


def assert_close(ours: dict, theirs: dict, tolerance: float) -> None:
    """Weights and moments, by name and place, whole and of the same precision."""
    for part, weights in theirs["weights"].items():
        assert ours["weights"][part].keys() == weights.keys()
        for name, weight in weights.items():
            assert ours["weights"][part][name].dtype == weight.dtype
            torch.testing.assert_close(ours["weights"][part][name], weight, atol=tolerance, rtol=0.01)
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    for i, kept in theirs["optimizer"]["state"].items():
        for name, value in kept.items():
            torch.testing.assert_close(ours["optimizer"]["state"][i][name], value, atol=tolerance, rtol=0.05)


@pytest.mark.parametrize("kind", ["adapters", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_two_that_share_make_the_steps_of_one_and_go_on_from_each_other(run_settings, broken, tmp_path, kind):
    """The same figures, weights and moments; then each goes on from the other's checkpoint as from its own."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    single = arguments(run_settings, kind, broken, "training.gradient_accumulation_steps=2")
    sharded = arguments(run_settings, kind, broken, "hardware.fsdp=true")
    status, log = run_ta(single, one)
    assert status == 0, log
    run_sharded(sharded, two)
    tolerance = 2e-3 if kind == "adapters" else 1e-4
    expected, found = metrics(one), metrics(two)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=10 * tolerance), key
    assert_close(content(two), content(one), tolerance)

    step = f"checkpoint-step-{STEPS - 2}.pt"
    for kept in (one, two):
        (kept / "outputs/transcription/checkpoints/final.pt").unlink()
        (kept / f"outputs/transcription/checkpoints/checkpoint-step-{STEPS}.pt").unlink()
    ours, theirs = (kept / "outputs/transcription/checkpoints" / step for kept in (one, two))
    ours.rename(tmp_path / step)
    theirs.rename(ours)
    (tmp_path / step).rename(theirs)
    status, log = run_ta(single, one)
    assert status == 0, log
    assert f"Resuming from step {STEPS - 2}..." in run_sharded(sharded, two)
    for folder in (one, two):
        again = metrics(folder)
        assert again.keys() == expected.keys()
        for key, value in expected.items():
            assert again[key] == pytest.approx(value, rel=10 * tolerance), key
    assert_close(content(two), content(one), tolerance)


@pytest.mark.slow
def test_a_sharded_run_that_stopped_goes_on_exactly(run_settings, broken, tmp_path):
    """Dropout of projector and adapters included."""
    program = arguments(run_settings, "adapters", broken, "hardware.fsdp=true")
    program += ["model.projector_config.dropout=0.1", "model.lora_config.lora_dropout=0.1"]
    run_sharded(program, tmp_path)
    expected, last = metrics(tmp_path), content(tmp_path)
    (tmp_path / "outputs/transcription/checkpoints/final.pt").unlink()
    (tmp_path / f"outputs/transcription/checkpoints/checkpoint-step-{STEPS}.pt").unlink()
    run_sharded(program, tmp_path)
    assert metrics(tmp_path) == expected
    for part, weights in last["weights"].items():
        for name, weight in weights.items():
            assert torch.equal(content(tmp_path)["weights"][part][name], weight), name


def spoil_and_watch() -> None:
    """Have the second process meet two losses that are not finite; write down what steps changed and who holds what."""
    same = watch_steps(lambda step: step in (1, 2) and os.environ["RANK"] == "1")  # one of them alone
    step = Trainer.train_step

    def told(self, given):
        result = step(self, given)
        held = {}
        for part in ("encoder", "projector", "decoder"):
            weights = list(getattr(self.speech_llm, part).parameters())
            held[part] = [sum(held_here(w).numel() for w in weights), sum(w.numel() for w in weights)]
        Path(f"seen{os.environ['RANK']}.json").write_text(json.dumps([same, held]))
        return result

    Trainer.train_step = told


def test_each_holds_its_share_and_a_step_that_is_not_finite_is_left_out_by_all(run_settings, broken, tmp_path):
    """Though only one of the processes met it. The encoder, frozen and small beside a large decoder, stays whole."""
    typed = arguments(run_settings, "adapters", broken, "hardware.fsdp=true", "data.eval_datasets=[]")
    log = run_sharded(typed, tmp_path, spoil_and_watch)
    assert log.count("1 steps up to step") == 2
    seen = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    for same, _ in seen:
        assert same == [False, True, True, False, False, False]
    for part in ("projector", "decoder"):
        (first, total), (second, _) = (held[part] for _, held in seen)
        assert first + second == total
        assert max(first, second) < 0.6 * total
    assert seen[0][1]["encoder"][0] == seen[0][1]["encoder"][1]


def test_one_process_has_nobody_to_share_with(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["training.max_steps=1", "data.eval_datasets=[]", "hardware.fsdp=true"]
    assert main(["train", *run_settings, *settings]) == 0
    assert "[WARN] hardware.fsdp=true: with one process there is nothing to shard" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["FSDP", "DEEPSPEED"])
def test_sharding_by_the_launcher_is_one_line(run_settings, tmp_path, option, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"ACCELERATE_USE_{option}", "true")
    assert main(["train", *run_settings]) == 2
    name = f"--use_{option.lower()}"
    message = f"ta train: error: accelerate launch {name} is not supported; leave it out and set hardware.fsdp=true."
    assert capsys.readouterr().err.splitlines()[-1] == message


def test_fp16_is_refused():
    with pytest.raises(ConfigError, match=r"hardware.fsdp=true has no loss scaling; set hardware.mixed_precision=bf16"):
        HardwareConfig(fsdp=True, mixed_precision="fp16")
    with pytest.raises(ConfigError, match=r"hardware\.fsdp=true moves weights"):
        HardwareConfig(fsdp=True, cuda_graph=True)
