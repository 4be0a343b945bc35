"""Whole runs on a GPU, tiny: training in each way there is, resuming, evaluating, transcribing, two processes.

`benchmarks/gpu.sh` runs them on a machine that has one; `--device cpu` there, or `TINY_AUDIO_TEST_DEVICE=cpu`, tries
the tests themselves.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runs import metrics
from tiny_audio.cli import main
from tiny_audio.model.kernels import available_kernels

pytestmark = pytest.mark.gpu

CHECKPOINTS = Path("outputs/transcription/checkpoints")
WAYS = {
    "mlp": [],
    "mosa": ["model.projector_type=mosa", "model.projector_config.expert_dim=32"],
    "moe": ["model.projector_type=moe", "model.projector_config.expert_dim=32"],
    "qformer": ["model.projector_type=qformer"],
    "bf16": ["hardware.mixed_precision=bf16"],
    "fp16": ["hardware.mixed_precision=fp16"],
    "fp32": ["hardware.mixed_precision=no"],
    "lora": ["model.use_lora=true"],
    "decoder": ["model.freeze_decoder=false"],
    "compile": ["hardware.compile=true", "training.max_steps=4"],
    "sdpa": ["hardware.attention=sdpa"],
    "varlen": ["hardware.attention=varlen", "hardware.mixed_precision=bf16"],
    "flash_attn": ["hardware.attention=flash_attn", "hardware.mixed_precision=bf16"],
    "workers": ["data.num_workers=2", "training.gradient_accumulation_steps=2", "data.augmentation=light"],
    "cuda_graph": ["hardware.cuda_graph=true"],
    "cached": ["data.cache_features=true", "training.optimizer=muon"],
    "preflight": ["training.max_steps=100", "training.eval_steps=100", "training.save_steps=100"],
}


def train(settings: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run `ta train` in `folder`; return what it printed."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        status = main(["train", *settings])
    log = "".join(capsys.readouterr())
    assert status == 0, log
    return log


def logged(folder: Path, key: str) -> list[float]:
    return [value for (_, name), value in metrics(folder).items() if name == key]


def state(folder: Path) -> dict:
    return json.loads((folder / CHECKPOINTS / "training_state.json").read_text())


@pytest.mark.parametrize("way", WAYS)
def test_trains_and_evaluates(gpu_settings, device, way, tmp_path, capsys):
    if way in ("varlen", "flash_attn") and (way not in available_kernels() or device.type != "cuda"):
        pytest.skip(f"{way} is not installed, or not for this device")
    if way == "cuda_graph" and device.type == "cpu":
        pytest.skip("graphs are for GPUs")
    if way == "fp16" and device.type == "cpu":
        pytest.skip("fp16 needs a GPU")
    log = train([*gpu_settings, *WAYS[way]], tmp_path, capsys)
    assert all(map(math.isfinite, logged(tmp_path, "train/loss")))
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["wer"]) for row in state(tmp_path)["history"])
    assert (tmp_path / CHECKPOINTS / "final.pt").is_file()
    left_out = [line for line in log.splitlines() if "gradient was not finite" in line]
    if way == "fp16":  # the loss scaler looks for its scale
        assert state(tmp_path)["step"] == 8
    else:
        assert not left_out
    if way in ("sdpa", "varlen", "flash_attn"):
        assert f"Attention: {way}" in log
    if way == "preflight":
        assert "the longest batch" in log
        assert "the longest evaluation batch" in log


def test_a_run_goes_on_where_it_stopped(gpu_settings, device, tmp_path, capsys, record_property):
    """Dropout included. On the CPU to the bit; attention's backward pass on a GPU adds up in no fixed order."""
    settings = [*gpu_settings, *WAYS["moe"], "training.save_steps=4", "model.audio_token_dropout=0.1"]
    train(settings, tmp_path, capsys)
    expected = metrics(tmp_path)
    for name in ("final.pt", "checkpoint-step-8.pt"):
        (tmp_path / CHECKPOINTS / name).unlink()
    assert "Resuming from step 4..." in train(settings, tmp_path, capsys)
    found = metrics(tmp_path)
    record_property("resumed_to_the_bit", found == expected)
    if device.type == "cpu":
        assert found == expected
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key[1] in ("train/loss", "train/grad_norm", "eval/loss"):
            assert found[key] == pytest.approx(value, rel=0.02), key


def test_a_checkpoint_is_evaluated_as_it_was_and_transcribes(gpu_settings, device, corpus, tmp_path, capsys):
    train(gpu_settings, tmp_path, capsys)
    kept = tmp_path / CHECKPOINTS
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["eval", "--checkpoints-dir", str(kept), f"hardware.device={device}"]) == 0
        table = capsys.readouterr().out
        recording = corpus / "dev0.flac"
        assert main(["infer", f"checkpoint={kept}/final.pt", f"audio={recording}", f"device={device}"]) == 0
        capsys.readouterr()
    assert f"{100 * state(tmp_path)['history'][-1]['wer']:.1f}" in table


# The group is there before accelerate looks, and both take the first GPU: NCCL refuses two processes on one.
TWO = """
import os, sys
import torch
torch.distributed.init_process_group("gloo")
os.environ["LOCAL_RANK"] = "0"
from tiny_audio.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


def launch(program: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["--local-addr=127.0.0.1", *program]  # its name may not resolve
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def compare_with_one(settings: list[str], several: list[str], program: list[str], folder: Path, capsys) -> None:
    """Two processes make the steps of one that accumulates two batches."""
    (folder / "two").mkdir()
    train([*settings, "training.gradient_accumulation_steps=2"], folder / "one", capsys)
    launch([*program, *settings, *several], folder / "two")
    expected, found = metrics(folder / "one"), metrics(folder / "two")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key[1] in ("train/loss", "train/grad_norm", "eval/loss"):
            assert found[key] == pytest.approx(value, rel=0.02), key


def test_two_processes_on_one_gpu_make_the_steps_of_one(gpu_settings, tmp_path, capsys):
    (tmp_path / "two.py").write_text(TWO)
    settings = [*gpu_settings, "model.projector_config.dropout=0"]
    compare_with_one(settings, [], [str(tmp_path / "two.py")], tmp_path, capsys)


def test_a_model_sharded_over_two_gpus_makes_the_steps_of_one(gpu_settings, device, tmp_path, capsys):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    settings = [*gpu_settings, "model.projector_config.dropout=0"]
    program = ["-m", "tiny_audio.cli", "train"]
    compare_with_one(settings, ["hardware.fsdp=true"], program, tmp_path, capsys)


def test_cached_features_are_those_of_the_encoder(gpu_settings, tmp_path, capsys):
    settings = [*gpu_settings, "model.projector_config.dropout=0"]
    train(settings, tmp_path / "fresh", capsys)
    train([*settings, "data.cache_features=true"], tmp_path / "cached", capsys)
    fresh, cached = (logged(tmp_path / name, "train/loss") for name in ("fresh", "cached"))
    assert cached == pytest.approx(fresh, rel=0.02)
