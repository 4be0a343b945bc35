"""What is encoded at once, and which layers are read, is the checkpoint's business: other runs are refused."""

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


def test_a_run_that_reads_several_layers_is_evaluated_and_is_no_other(run_settings, tmp_path):
    typed = [*run_settings, "training.max_steps=1", "data.cache_features=true"]
    status, log = run_ta(["train", *typed, "model.encoder_layers=[2,1]"], tmp_path)
    assert status == 0, log
    checkpoint = tmp_path / "outputs/transcription/checkpoints/final.pt"
    saved = load_checkpoint(checkpoint)
    width = saved["weights"]["projector"]["linear_1.weight"].shape[1]
    assert width == 2 * 4 * 64, "two layers, four frames, the encoder's width"
    assert saved["models"]["feature_convention"].endswith("; layers 1 2")
    status, log = run_ta(["eval", f"checkpoint={checkpoint}"], tmp_path)
    assert status == 0, log
    for layers, said in (("[]", "[]"), ("[2]", "[]"), ("[1]", "[1]")):
        status, log = run_ta(["train", *typed, "training.max_steps=2", f"model.encoder_layers={layers}"], tmp_path)
        assert status == 2, log
        assert f"was trained with model.encoder_layers=[1,2], and this run has {said}." in log


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
