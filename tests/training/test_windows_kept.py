"""What is encoded at once is the checkpoint's business: later commands read it, and other runs are refused."""

from __future__ import annotations

import shutil

from checkpoint_folders import content
from runs import run_ta
from tiny_audio.model.encoder import CONVENTIONS
from tiny_audio.training.checkpoint import load_checkpoint, save_checkpoint


def test_a_run_does_not_go_on_with_another_window(run_settings, trained, tmp_path):
    shutil.copytree(trained.parents[2], tmp_path / "outputs")
    status, log = run_ta(["train", *run_settings, "training.max_steps=2", "model.encoder_window=30s"], tmp_path)
    assert status == 2, log
    assert "was trained with model.encoder_window=clip, and this run has 30s." in log


def test_checkpoints_that_do_not_say_are_read_as_they_were_trained(tmp_path):
    for before, window in (
        ("zero-padded to 1280 samples, attention within the clip", "clip"),
        ("silence to 30 s, attention over the whole window", "30s"),
    ):
        older = content(1, [])
        del older["config"]["model"]["encoder_window"]
        older["models"] = older["models"] | {"feature_convention": before}
        save_checkpoint(tmp_path / "old.pt", older)
        saved = load_checkpoint(tmp_path / "old.pt")
        assert saved["config"]["model"]["encoder_window"] == window
        assert saved["models"]["feature_convention"] == CONVENTIONS[window]
