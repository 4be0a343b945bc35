"""The step: the host never waits for the device, and a gradient that is not finite changes nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clips import read_lines
from runs import run_ta, watch_steps
from tiny_audio.cli import main
from tiny_audio.training import optimizer as optimizer_module
from tiny_audio.training.loop import Trainer


class Reads(TorchDispatchMode):
    """Counts the numbers that the host reads out of a tensor: on a GPU it would wait for each."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


SLOW = [pytest.param(kind, "muon", marks=pytest.mark.slow) for kind in ("mosa", "qformer")]


@pytest.mark.parametrize(("kind", "optimizer"), [("mlp", "adamw"), ("moe", "muon"), *SLOW])
def test_the_host_reads_no_number_in_a_step(run_settings, kind, optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counted, step = [], Trainer.train_step

    def watched(self, given):
        with Reads() as reads:
            result = step(self, given)
        counted.append(reads.count)
        return result

    monkeypatch.setattr(Trainer, "train_step", watched)
    small = ["model.projector_config.expert_dim=32", "model.projector_config.num_heads=2"]
    small.append(f"training.optimizer={optimizer}")
    settings = [*small, f"model.projector_type={kind}", "training.max_steps=3", "data.eval_datasets=[]"]
    assert main(["train", *run_settings, *settings]) == 0
    assert counted == [0, 0, 0]
    with Reads() as reads:
        float(torch.ones(()))
    assert reads.count == 1, "reads are noticed"


@pytest.mark.parametrize("reads_the_flag", [True, False])
def test_a_step_whose_gradient_is_not_finite_is_left_out_whole(
    run_settings, tmp_path, monkeypatch, capsys, reads_the_flag
):
    """Weights, moments and the optimizer's own step count stay as they were, and training goes on.

    On Apple's GPUs too, whose optimizer does not read the flag that says so: nor does one that is not fused.
    """
    monkeypatch.chdir(tmp_path)
    if not reads_the_flag:
        adamw = torch.optim.AdamW
        monkeypatch.setattr(torch.optim, "AdamW", lambda *given, fused: adamw(*given, fused=False))
        monkeypatch.setattr(optimizer_module, "READ_THE_FLAG", ("cuda",))
    same = watch_steps(lambda step: step in (1, 2), monkeypatch.setattr)
    assert main(["train", *run_settings, "training.max_steps=5", "logging.log_steps=4", "training.eval_steps=5"]) == 0
    assert same == [False, True, True, False, False]
    rows = read_lines(tmp_path / "outputs/transcription/metrics.jsonl")
    assert rows[-2 if "train/loss" not in rows[-1] else -1]["train/nonfinite_steps"] == 2
    assert "steps up to step" in capsys.readouterr().err


@pytest.fixture(scope="module")
def output(run_settings, tmp_path_factory) -> Path:
    """Of a run of four steps with experts, traced in the middle."""
    folder = tmp_path_factory.mktemp("observed")
    settings = ["model.projector_type=moe", "model.projector_config.expert_dim=32", "data.eval_datasets=[]"]
    settings += ["hardware.peak_tflops=0.5", "hardware.profile_steps=2-3"]
    status, log = run_ta(["train", *run_settings, *settings], folder)
    assert status == 0, log
    return folder / "outputs/transcription"


def test_expert_usage_and_balance_are_logged(output):
    rows = read_lines(output / "metrics.jsonl")
    assert len(rows) == 4
    for row in rows:
        assert sum(row[f"train/expert_share_{e}"] for e in range(8)) == pytest.approx(1)
        assert 0 < row["train/auxiliary_loss"] < 0.01 * 7


def test_a_line_of_the_log_says_how_well_the_machine_is_used(output):
    for row in read_lines(output / "metrics.jsonl"):
        assert row["train/mfu"] == pytest.approx(row["train/tflops"] / 0.5)
        assert 0 < row["train/mfu"] < 1
        assert 0 < row["train/data_wait_share"] < 1
        # A clip has 20 positions of prompt and 6 to 37 audio tokens.
        assert 26 < row["train/tokens_per_second"] / row["train/samples_per_second"] < 100
        assert 50e6 < row["system/peak_memory"] < 50e9


def test_steps_are_traced_where_that_is_asked_for(output):
    with gzip.open(output / "profile-steps-2-3.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step") for event in events) == 2
    assert [path.name for path in output.glob(".*")] == [".lock"]
