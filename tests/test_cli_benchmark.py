"""`ta benchmark` as it is typed, at tiny widths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tiny_audio.benchmark import run as benchmark_run
from tiny_audio.benchmark.models import Sizes
from tiny_audio.benchmark.variants import Usual
from tiny_audio.cli import main

TINY = Sizes(2, 64, 4, 128, 32, 2, 48, 4, 2, 16, 96, 1100)
QUICK = ["benchmark", "--device", "cpu", "--batch-size", "2", "--seconds", "1.5", "--steps", "1"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path):
    """Tiny models, a small matrix product, and 0.1 s for each measurement of the data, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)
    monkeypatch.setattr(benchmark_run, "PUBLISHED", TINY)
    monkeypatch.setattr(benchmark_run, "DATA_SECONDS", 0.1)
    monkeypatch.setattr(benchmark_run, "matrix_rate", lambda device, dtype: 1e11)


def test_all_of_it(corpus, capsys):
    typed = ["--price", "2", "--run-steps", "3600", "--data", str(corpus / "train.jsonl"), "--workers", "0,1"]
    assert main([*QUICK, *typed, "--json", "figures.json"]) == 0
    printed, figures = capsys.readouterr().out, json.loads(Path("figures.json").read_text())
    (measured,) = figures["projectors"]
    assert list(measured["variants"]) == ["usual", "plain", "ours, 30s", "ours"]
    for found in measured["variants"].values():
        assert found["audio_hours_per_hour"] == pytest.approx(figures["audio_seconds"] / found["seconds"])
        assert found["utilization"] == pytest.approx(found["flops"] / found["seconds"] / 1e11)
        assert found["run_usd"] == pytest.approx(2 * found["seconds"])
    usual, plain, _, ours = measured["variants"].values()
    assert ours["times_as_fast_as_usual"] == pytest.approx(usual["seconds"] / ours["seconds"])
    assert plain["loss"] == pytest.approx(ours["loss"], abs=1e-5)
    assert set(figures["data"]["audio_hours_per_hour"]) == {"0", "1"}
    for text in ("Training step, mlp projector", "seconds a step", "3,600 steps, hours", "at 2 USD an hour, USD",
                 "encoder 2 layers, decoder 2 layers", "decoder backward", "Data alone: 60 clips"):  # fmt: skip
        assert text in printed
    assert re.search("is the bottleneck|step and data take turns", printed), "which, only the machine knows"
    assert max(map(len, printed.split("usual:")[0].splitlines())) <= 80
    assert "\x1b" not in printed, "plain where it is not a terminal"


def test_ours_alone_with_several_projectors(capsys):
    assert main([*QUICK, "--no-baseline", "--projector", "moe,mosa"]) == 0
    printed = capsys.readouterr().out
    assert all(f"Training step, {kind} projector" in printed for kind in ("moe", "mosa"))
    assert "usual" not in printed


def test_the_data_alone(corpus, capsys):
    typed = ["--no-step", "--data", str(corpus / "train.jsonl"), "--workers", "0"]
    assert main([*QUICK, *typed]) == 0
    printed = capsys.readouterr().out
    assert "Data alone: 60 clips" in printed
    assert "Training step" not in printed


def test_data_that_is_not_there_is_said_before_anything_is_measured(capsys):
    assert main([*QUICK, "--data", "no/such.jsonl"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Measuring" not in captured.err
    assert "no/such.jsonl" in captured.err.splitlines()[-1]


def test_a_variant_that_does_not_fit_is_said_so_and_the_others_go_on(monkeypatch, capsys):
    def too_large(self):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Usual, "step", too_large)
    assert main([*QUICK, "--json", "figures.json"]) == 0
    assert "out of memory" in capsys.readouterr().out
    variants = json.loads(Path("figures.json").read_text())["projectors"][0]["variants"]
    assert variants["usual"] == {"error": "out of memory"}
    assert variants["ours"]["seconds"] > 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--batch-size 0", "--batch-size must be at least 1, got 0."),
        ("--seconds 31", "--seconds must be between 1 and 30, got 31."),
        ("--price nan", "--price must be at least 0, got nan."),
        ("--device gpu", "--device must be one of auto, cuda, mps, cpu, got gpu. Did you mean cuda?"),
        ("--precision fp8", "--precision must be one of auto, bf16, no, got fp8."),
        ("--projector mosa,mlpp",
         "--projector must be one of mlp, mosa, moe, qformer, conv, got mlpp. Did you mean mlp?"),
        ("--workers 1,x",
         "argument --workers: must be numbers separated by commas, got 1,x; `ta benchmark --help` says more."),
        ("--workers 1,-1", "--workers must be at least 0, got -1."),
        ("--no-step", "--no-step leaves nothing to measure; name recordings: --data my/train.jsonl"),
        ("--batchsize 8", "unrecognized arguments: --batchsize 8; `ta benchmark --help` says more."),
        ("--json a.json --json b.json", "json is given twice; `ta benchmark --help` says more."),
        ("--json no/such/folder.json", "--json=no/such/folder.json: cannot be written (No such file or directory)."),
    ],
)  # fmt: skip
def test_mistakes(typed, message, capsys):
    assert main(["benchmark", *typed.split()]) == 2
    assert capsys.readouterr() == ("", f"ta benchmark: error: {message}\n")
