"""`ta average` as it is typed: what it writes, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from checkpoint_folders import content, write_run
from tiny_audio.cli import main
from tiny_audio.training.checkpoint import load_checkpoint, save_checkpoint

WERS = {1: 0.9, 2: 0.3, 3: 0.5, 7: 0.4, 9: None}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)
    return write_run(tmp_path / "out", WERS)


def test_the_mean_of_the_best(run, capsys):
    assert main(["average", "--checkpoints-dir", "out", "--best", "3"]) == 0
    path = run.path / "averaged-best-3.pt"
    assert capsys.readouterr().out.endswith("checkpoint-step-2.pt, checkpoint-step-7.pt, checkpoint-step-3.pt: "
                                            "out/checkpoints/averaged-best-3.pt\n")  # fmt: skip
    saved = load_checkpoint(path)
    assert torch.equal(saved["weights"]["projector"]["w"], torch.tensor([4.0, 8.0]))
    parts = torch.stack([load_checkpoint(run.file(step))["weights"]["lora"]["a"].float() for step in (2, 3, 7)])
    assert torch.equal(saved["weights"]["lora"]["a"], parts.mean(0).bfloat16())
    assert saved["averaged"] == {"steps": [2, 7, 3], "metric": "wer"}
    assert saved["optimizer"] is None
    assert run.steps() == sorted(WERS), "none of the run's own was touched"
    assert path in run.files()


def test_another_file_and_the_default_count(run, tmp_path):
    assert main(["average", "checkpoints_dir=out/checkpoints", "output=mean.pt"]) == 0
    assert load_checkpoint(tmp_path / "mean.pt")["averaged"]["steps"] == [2, 7, 3]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "name a run: ta average --checkpoints-dir outputs/transcription"),
        ("--checkpoints-dir out --best 1", "--best must be at least 2, got 1."),
        ("--checkpoints-dir out --best 5", "out/checkpoints has 4 evaluated checkpoints, and --best 5 asks for more."),
        ("--checkpoints-dir out --output out/checkpoints/final.pt",
         "output=out/checkpoints/final.pt must end in .pt, and must not be a name that runs use for checkpoints."),
        ("--checkpoints-dir out --output no/mean.pt",
         "output=no/mean.pt: cannot be written (No such file or directory)."),
        ("--checkpoints-dir out --best 4",
         "out/checkpoints/checkpoint-step-1.pt belongs to other models than the best one (prompt): no average."),
    ],
)  # fmt: skip
def test_mistakes(typed, message, run, capsys):
    save_checkpoint(run.file(1), content(1, [], prompt="another"))
    before = set(run.path.iterdir())
    assert main(["average", *typed.split()]) == 2
    assert capsys.readouterr() == ("", f"ta average: error: {message}\n")
    assert set(run.path.iterdir()) == before
