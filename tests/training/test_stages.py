"""The three stages, chained by files through the shipped experiments: what each trains, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from runs import run_ta
from tiny_audio.cli import main
from tiny_audio.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def settings(run_settings) -> list[str]:
    """Sizes; what a stage is comes from its experiment."""
    sized = [setting for setting in run_settings if not setting.startswith(("experiment=", "training.max_steps"))]
    return [*sized, "training.max_steps=3", "training.eval_steps=3", "training.warmup_steps=0", "training.save_steps=1"]


@pytest.fixture(scope="module")
def stages(settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    for experiment in ("transcription", "mlp_lora", "mlp_fine_tune"):
        status, log = run_ta(["train", f"experiment={experiment}", *settings], folder)
        assert status == 0, log
    return folder


def weights(folder: Path, experiment: str) -> dict[str, dict[str, torch.Tensor]]:
    return load_checkpoint(folder / f"outputs/{experiment}/checkpoints/final.pt")["weights"]


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> list[bool]:
    assert ours.keys() == theirs.keys()
    return [torch.equal(ours[name], theirs[name]) for name in ours]


def test_each_stage_trains_what_it_names_and_nothing_else(stages):
    first, second, third = (weights(stages, name) for name in ("transcription", "mlp_lora", "mlp_fine_tune"))
    assert (set(first), set(second), set(third)) == ({"projector"}, {"projector", "lora"}, {"projector", "lora"})
    assert all(equal(first["projector"], second["projector"])), "frozen in stage 2"
    assert not any(equal(second["projector"], third["projector"]))
    assert all(weight.any() for weight in second["lora"].values()), "every adapter has learned something"
    assert not any(equal(second["lora"], third["lora"]))


def test_a_stage_begins_where_the_last_one_ended(stages, settings, tmp_path):
    """Before its first step it writes what the stage before wrote last."""
    ended = json.loads((stages / "outputs/mlp_lora/checkpoints/training_state.json").read_text())["history"][-1]
    status, log = run_ta(
        [
            *("train", "experiment=mlp_fine_tune", *settings, "training.eval_at_start=true"),
            f"model.checkpoint={stages}/outputs/mlp_lora/checkpoints/final.pt",
        ],
        tmp_path,
    )
    assert status == 0, log
    state = json.loads((tmp_path / "outputs/mlp_fine_tune/checkpoints/training_state.json").read_text())
    assert state["history"][0]["step"] == 0
    assert state["history"][0]["loss"] == pytest.approx(ended["loss"], rel=1e-5)
    assert state["history"][0]["wer"] == ended["wer"]


def test_a_checkpoint_with_adapters_transcribes(stages, corpus):
    from tiny_audio.inference import Recognizer

    adapted, plain = (
        Recognizer(stages / f"outputs/{name}/checkpoints/final.pt", "cpu") for name in ("mlp_lora", "transcription")
    )
    assert isinstance(adapted.transcribe(corpus / "dev0.flac").text, str)
    frames, tokens = torch.randn(16, 64), [torch.arange(4)]
    losses = [model.model.loss(frames, [16], tokens).cross_entropy.item() for model in (adapted, plain)]
    assert losses[0] != losses[1], "the adapters are in use"


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mosa", "qformer")]


@pytest.mark.parametrize("kind", ["moe", *SLOW])
def test_any_projector_goes_through_all_stages(kind, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["model.projector_config.expert_dim=32", "model.projector_config.num_heads=2", "data.eval_datasets=[]"]
    typed = [*settings, *small, f"model.projector_type={kind}", "training.max_steps=1"]
    for experiment in ("transcription", "mlp_lora", "mlp_fine_tune"):
        assert main(["train", f"experiment={experiment}", *typed]) == 0
    first, second, third = (weights(tmp_path, name) for name in ("transcription", "mlp_lora", "mlp_fine_tune"))
    assert all(equal(first["projector"], second["projector"])), "frozen in stage 2"
    assert not all(equal(second["projector"], third["projector"]))
    assert any(weight.any() for name, weight in second["lora"].items() if ".lora_B." in name)
    assert not all(equal(second["lora"], third["lora"]))


def test_a_stopped_stage_goes_on_exactly(stages, settings, tmp_path):
    """Dropout of the adapters and their optimizer state included."""
    chain = f"model.projector_checkpoint={stages}/outputs/transcription/checkpoints/final.pt"
    arguments = ["train", "experiment=mlp_lora", *settings, chain]
    assert run_ta([*arguments, "training.max_steps=2", "training.lr_schedule=constant"], tmp_path)[0] == 0
    status, log = run_ta([*arguments, "training.lr_schedule=constant"], tmp_path)
    assert status == 0, log
    assert "is not read again: the run resumes from its own checkpoint" in log
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run_ta([*arguments, "training.lr_schedule=constant"], whole)[0] == 0
    assert all(equal(weights(tmp_path, "mlp_lora")["lora"], weights(whole, "mlp_lora")["lora"]))


def test_the_decoder_itself_trains_with_a_rate_of_its_own(settings, tmp_path):
    arguments = ["experiment=transcription", *settings, "model.freeze_decoder=false", "data.eval_datasets=[]"]
    for name, rate in (("still", "1e-12"), ("moving", "1e-3")):
        folder = tmp_path / name
        folder.mkdir()
        status, log = run_ta(["train", *arguments, f"training.decoder_learning_rate={rate}"], folder)
        assert status == 0, log
    still, moving = (weights(tmp_path / name, "transcription") for name in ("still", "moving"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (still["decoder"][name] - moving["decoder"][name]).abs().max() > 5e-4
    assert not any(equal(still["projector"], moving["projector"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["experiment=transcription", "model.checkpoint={0}"],
            "holds a trained LoRA; set model.use_lora=true to continue",
        ),
        (["experiment=mlp_fine_tune", "model.checkpoint={0}", "model.lora_config.r=8"], "compare model.lora_config."),
        (["experiment=mlp_lora", "model.projector_checkpoint=nowhere.pt"], "model.projector_checkpoint=nowhere.pt: "),
        (
            ["model.projector_checkpoint={0}", "training.max_steps=0", "training.ctc_warmup_steps=5"],
            "trains nothing with training.max_steps=0: a projector that was trained gets no CTC warm-up",
        ),
        (["experiment=mlp_lora", "model.projector_checkpoint=null"], "would freeze a projector that was never trained"),
        (
            ["experiment=mlp_lora", "model.projector_checkpoint={0}", "model.freeze_lora=true"],
            "leaves nothing to train",
        ),
        (["model.freeze_decoder=false", "model.use_lora=true"], "leave model.use_lora out"),
    ],
)
def test_what_does_not_fit_together_is_one_line(stages, settings, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [argument.format(stages / "outputs/mlp_lora/checkpoints/final.pt") for argument in arguments]
    assert main(["train", *settings, *given]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
