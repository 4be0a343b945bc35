"""The CTC warm-up as a part of a run: what it learns, what it says, and that it goes on exactly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from runs import CTC_STEPS, metrics, settings
from tiny_audio.cli import main
from tiny_audio.config import Config, ModelConfig, ProjectorConfig, TrainingConfig
from tiny_audio.errors import ConfigError
from tiny_audio.model.ctc import CTCHead
from tiny_audio.training.checkpoint import load_checkpoint
from tiny_audio.training.ctc_warmup import CTCWarmup, consistency_weight
from tiny_audio.training.loop import Trainer
from tiny_audio.training.texts import choose_examples

CHECKPOINTS = Path("outputs/transcription/checkpoints")
SHORT = ["training.max_steps=2", "training.gradient_accumulation_steps=1", "training.save_steps=4"]


def weights(folder: Path, name: str = "final.pt") -> dict[str, torch.Tensor]:
    saved = load_checkpoint(folder / CHECKPOINTS / name)["weights"]
    return {f"{part} {key}": value for part in ("projector", "ctc") for key, value in saved[part].items()}


def test_a_warmup_that_was_killed_and_interrupted_equals_an_undisturbed_one(run_settings, tmp_path, monkeypatch):
    """Killed after step 6 and after its last one, sent Ctrl+C in the evaluation of step 9."""
    cached = ["data.augmentation=none", "data.cache_features=true", "data.speeds=[0.9,1.0,1.1]"]
    cached += ["model.search.audio=false", "model.search.examples=2", "training.ctc_consistency_weight=0.2"]
    typed = settings(run_settings, f"training.max_steps={CTC_STEPS}", "training.save_steps=4", "training.eval_steps=6")
    typed += [*cached, f"paths.cache_dir={tmp_path / 'cache'}"]
    folders = {name: tmp_path / name for name in ("whole", "stopped")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.chdir(folders["whole"])
    assert main(typed) == 0

    monkeypatch.chdir(folders["stopped"])
    finish, evaluate = CTCWarmup.finish_step, CTCWarmup.evaluate_now

    def killed_after(step: int):
        def run(self, shown):
            finish(self, shown)
            if self.state.ctc_step == step:
                raise ZeroDivisionError  # nothing is written any more, as after SIGKILL

        return run

    def interrupted(self):
        if self.state.ctc_step == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self)

    monkeypatch.setattr(CTCWarmup, "finish_step", killed_after(6))
    with pytest.raises(ZeroDivisionError):
        main(typed)
    monkeypatch.setattr(CTCWarmup, "finish_step", finish)
    monkeypatch.setattr(CTCWarmup, "evaluate_now", interrupted)
    assert main(typed) == 130
    assert load_checkpoint(CHECKPOINTS / "checkpoint-step-0.pt")["state"]["ctc_step"] == 9
    monkeypatch.setattr(CTCWarmup, "evaluate_now", evaluate)
    monkeypatch.setattr(CTCWarmup, "finish_step", killed_after(CTC_STEPS))
    with pytest.raises(ZeroDivisionError):
        main(typed)
    monkeypatch.setattr(CTCWarmup, "finish_step", finish)
    assert main(typed) == 0

    whole, stopped = (metrics(folder) for folder in folders.values())
    assert {step for step, key in whole if key == "ctc_warmup/eval_wer"} == {-10, -7, -4, -1}
    assert {step for step, key in whole if key == "ctc_warmup/loss"} == set(range(-CTC_STEPS, 0))
    assert whole == stopped
    ours, theirs = (weights(folder) for folder in folders.values())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    examples = [
        load_checkpoint(folder / CHECKPOINTS / "final.pt")["models"]["prompt_ids"]["example_ids"]
        for folder in folders.values()
    ]
    assert examples[0] == examples[1] != []


def test_what_is_said_at_several_speeds_counts_once_among_the_word_pieces(run_settings, tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr("tiny_audio.training.run.Trainer.run", lambda self: True)  # what follows is not looked at
    monkeypatch.setattr("tiny_audio.training.run.finish", lambda *_: None)
    for name, speeds in (("one", "[1.0]"), ("three", "[0.9,1.0,1.1]")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        more = [
            "data.augmentation=none",
            f"data.speeds={speeds}",
            "training.ctc_min_count=20",
            "training.ctc_warmup_steps=1",
        ]
        assert main(settings(run_settings, *SHORT, *more)) == 0
        saved = load_checkpoint(CHECKPOINTS / "checkpoint-step-0.pt")
        found[name] = saved["weights"]["ctc"]
    assert [*saved["corpora"]] == ["train.jsonl", "train.jsonl at 0.9x", "train.jsonl at 1.1x"]
    for key in ("vocabulary", "frequencies"):
        assert torch.equal(found["one"][key], found["three"][key])


def test_a_run_of_the_warmup_alone_is_evaluated_and_finished_and_can_go_on(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = settings(run_settings, *SHORT, "training.ctc_warmup_steps=4")
    warmed = {}
    run = CTCWarmup.run

    def keep(self):
        done = run(self)
        warmed.update({name: value.clone() for name, value in self.model.projector.state_dict().items()})
        return done

    monkeypatch.setattr(CTCWarmup, "run", keep)
    assert main([*typed, "training.max_steps=0"]) == 0
    saved = load_checkpoint(CHECKPOINTS / "final.pt")
    assert all(torch.equal(saved["weights"]["projector"][name], value) for name, value in warmed.items())
    assert [row["step"] for row in saved["state"]["history"]] == [0]
    assert main([*typed, "training.max_steps=0"]) == 0
    assert "nothing is left to train" in capsys.readouterr().err
    assert main([*typed, "training.max_steps=2"]) == 0
    assert [row["step"] for row in load_checkpoint(CHECKPOINTS / "final.pt")["state"]["history"]] == [0, 2]
    given = f"model.projector_checkpoint={tmp_path / CHECKPOINTS / 'final.pt'}"
    more = ["training.max_steps=1", "model.search.audio=false", "model.search.examples=2"]
    assert main([*typed, given, *more, f"paths.output_dir={tmp_path / 'next'}"]) == 0
    models = load_checkpoint(tmp_path / "next/transcription/checkpoints/final.pt")["models"]
    assert models["prompt_ids"]["example_ids"], "the examples are chosen although the CTC head is the checkpoint's"


def test_a_warmup_alone_that_was_killed_goes_on_in_its_steps_and_in_its_evaluation(
    run_settings, tmp_path, monkeypatch, capsys
):
    typed = settings(run_settings, "training.ctc_warmup_steps=6", "training.save_steps=2", "training.max_steps=0")
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert main(typed) == 0
    monkeypatch.chdir(tmp_path / "stopped")
    finish, evaluate = CTCWarmup.finish_step, Trainer.evaluate_now

    def killed(self, shown):
        finish(self, shown)
        if self.state.ctc_step == 3:
            raise ZeroDivisionError

    def killed_there(self):
        raise ZeroDivisionError

    monkeypatch.setattr(CTCWarmup, "finish_step", killed)
    with pytest.raises(ZeroDivisionError):
        main(typed)
    monkeypatch.setattr(CTCWarmup, "finish_step", finish)
    monkeypatch.setattr(Trainer, "evaluate_now", killed_there)
    with pytest.raises(ZeroDivisionError):
        main(typed)
    monkeypatch.setattr(Trainer, "evaluate_now", evaluate)
    capsys.readouterr()
    assert main([*typed, "training.seed=7"]) == 2
    advice = f"model.projector_checkpoint={CHECKPOINTS / 'checkpoint-step-0.pt'} and another paths.output_dir. To start"
    assert advice in capsys.readouterr().err
    assert main(typed) == 0
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "stopped")
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "are not those of the checkpoint" not in capsys.readouterr().err


def test_a_warmup_that_goes_on_with_other_draws_says_so(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = settings(run_settings, "training.ctc_warmup_steps=4", "training.save_steps=2", "training.max_steps=0")
    finish = CTCWarmup.finish_step

    def killed(self, shown):
        finish(self, shown)
        if self.state.ctc_step == 3:
            raise ZeroDivisionError

    monkeypatch.setattr(CTCWarmup, "finish_step", killed)
    with pytest.raises(ZeroDivisionError):
        main(typed)
    monkeypatch.setattr(CTCWarmup, "finish_step", finish)
    assert main([*typed, "training.seed=7"]) == 0
    assert "are not those of the checkpoint" in capsys.readouterr().err


def test_a_run_without_any_step_is_told():
    with pytest.raises(ConfigError, match=r"training.max_steps=0 trains nothing; .* set training.ctc_warmup_steps"):
        TrainingConfig(max_steps=0)


def test_two_versions_that_cannot_differ_are_refused():
    training = TrainingConfig(ctc_consistency_weight=0.2)
    with pytest.raises(ConfigError, match=r"nothing makes them differ: set model.frame_masking=0.1"):
        Config(model=ModelConfig(projector_config=ProjectorConfig(dropout=0.0)), training=training)
    for model in (ModelConfig(), ModelConfig(channel_masking=0.1, projector_config=ProjectorConfig(dropout=0.0))):
        Config(model=model, training=training)


def test_versions_are_compared_once_the_projector_has_begun_to_read():
    training = TrainingConfig(ctc_consistency_weight=0.2, ctc_warmup_steps=10)
    assert [consistency_weight(step, training) for step in range(10)] == [0.0] * 4 + [0.2] * 6


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("mosa", "moe")]


@pytest.mark.parametrize("projector", ["mlp", "qformer", *SLOW])
def test_every_projector_learns_by_ctc(run_settings, tmp_path, monkeypatch, projector):
    monkeypatch.chdir(tmp_path)
    more = [f"model.projector_type={projector}", "training.max_steps=60", "training.ctc_warmup_steps=60"]
    monkeypatch.setattr("tiny_audio.training.run.Trainer.run", lambda self: True)  # what follows is not looked at
    monkeypatch.setattr("tiny_audio.training.run.finish", lambda *_: None)
    typed = [*settings(run_settings, *SHORT, *more), "training.ctc_learning_rate=1e-2", "training.save_steps=100"]
    assert main(typed) == 0
    losses = {step: value for (step, key), value in metrics(tmp_path).items() if key == "ctc_warmup/loss"}
    assert losses[-1] < 0.8 * losses[-60]


def test_examples_differ_and_are_of_nearly_the_median_length():
    transcripts = ["a" * 9, "b" * 5, "b" * 5, "", "c" * 4, "d", "e" * 7]
    assert choose_examples(transcripts, 3) == ["b" * 5, "c" * 4, "e" * 7]
    assert choose_examples(transcripts, 0) == choose_examples([""], 2) == []


def test_where_no_length_is_chosen_the_warmup_is_never_longer_than_the_run():
    assert TrainingConfig(max_steps=10).num_ctc_steps == 10
    assert TrainingConfig(max_steps=50_000).num_ctc_steps == 500
    assert TrainingConfig(ctc_warmup_steps=0).num_ctc_steps == 0
    assert TrainingConfig(ctc_warmup_steps=60, max_steps=10).num_ctc_steps == 60


def test_clips_with_fewer_audio_tokens_than_word_pieces_are_told(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(settings(run_settings, *SHORT, "model.projector_config.frame_stack=64")) == 0
    assert "The warm-up learns nothing from 100 % of the clips" in capsys.readouterr().err
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path).values() if value.is_floating_point())


def test_a_step_whose_gradient_is_not_finite_is_left_out_and_told(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loss_of, calls = CTCWarmup.loss, []

    def broken(self, batch):
        calls.append(batch)
        loss, auxiliary = loss_of(self, batch)
        return (loss._replace(loss=loss.loss * float("nan")) if len(calls) == 2 else loss), auxiliary

    monkeypatch.setattr(CTCWarmup, "loss", broken)
    assert main(settings(run_settings, *SHORT)) == 0
    assert "1 steps of the warm-up were skipped" in capsys.readouterr().err
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path).values() if value.is_floating_point())


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_steps_are_computed_in_the_precision_of_the_run(run_settings, tmp_path, monkeypatch, precision, dtype):
    monkeypatch.chdir(tmp_path)
    head, read = CTCHead.forward, []

    def forward(self, tokens, *given):
        if tokens.requires_grad:
            read.append(tokens.dtype)
        return head(self, tokens, *given)

    monkeypatch.setattr(CTCHead, "forward", forward)
    monkeypatch.setattr(Trainer, "run", lambda self: True)  # what follows is not looked at
    monkeypatch.setattr("tiny_audio.training.run.finish", lambda *_: None)
    more = ("model.projector_type=mlp", f"hardware.mixed_precision={precision}")
    assert main(settings(run_settings, *SHORT, *more)) == 0
    assert read == CTC_STEPS * [dtype]


def test_a_projector_that_was_trained_is_not_warmed_up_again(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(settings(run_settings, *SHORT)) == 0
    first = capsys.readouterr().err
    given = f"model.projector_checkpoint={CHECKPOINTS}/final.pt"
    assert main(settings(run_settings, *SHORT, given, "paths.output_dir=second")) == 0
    assert f"CTC warm-up: steps 1 to {CTC_STEPS}" in first
    assert "CTC warm-up" not in capsys.readouterr().err
    head = load_checkpoint("second/transcription/checkpoints/final.pt")["weights"]["ctc"]
    assert torch.equal(head["vocabulary"], load_checkpoint(CHECKPOINTS / "final.pt")["weights"]["ctc"]["vocabulary"])
