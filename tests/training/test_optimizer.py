"""Muon: its update against singular value decomposition, what it moves, and steps that must be left out."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.config import PROJECTORS, Config, HardwareConfig, ProjectorConfig, TrainingConfig
from tiny_audio.errors import UserError
from tiny_audio.model.projectors import build_projector
from tiny_audio.training import build as build_module
from tiny_audio.training.build import start_accelerator
from tiny_audio.training.checkpoint import load_checkpoint
from tiny_audio.training.ctc_warmup import CTCWarmup
from tiny_audio.training.loop import Trainer
from tiny_audio.training.optimizer import (
    MOMENTUM,
    UPDATE_RMS,
    MuonAdamW,
    build_optimizer,
    orthogonalize,
    refuse_another,
)


@pytest.mark.parametrize("shape", [(48, 48), (20, 60), (60, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_finds_the_nearest_orthogonal_matrix(shape, dtype):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix, dtype)
    assert found.dtype == torch.float32
    nearest = left @ right
    along = left.mT @ found @ right.mT  # diagonal if the singular vectors are the same
    assert torch.linalg.svdvals(found)[values > 0.05 * values.max()].sub(1).abs().max() < 0.4
    assert (along - along.diagonal().diag()).abs().max() < 0.05
    assert nn.functional.cosine_similarity(found.flatten(), nearest.flatten(), dim=0) > 0.95
    assert not orthogonalize(torch.zeros(shape), dtype).any()
    each = torch.stack((matrix, 3 * matrix.flip(0), torch.zeros(shape)))
    for one, of_several in zip(each, orthogonalize(each, dtype), strict=True):
        torch.testing.assert_close(of_several, orthogonalize(one, dtype), atol=0.02, rtol=0)


class Linear(nn.Module):
    """A projector with a matrix, a convolution, and a matrix that is none of its products."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(6, 4), nn.Conv1d(4, 4, 3, groups=4)
        self.queries = nn.Parameter(torch.randn(3, 4))

    def matrices(self) -> list[nn.Parameter]:
        return [self.linear.weight]

    def output_layer(self) -> list[nn.Parameter]:
        return [self.linear.weight, self.linear.bias]


def a_model() -> nn.ModuleDict:
    torch.manual_seed(1)
    return nn.ModuleDict({"projector": Linear(), "decoder": nn.Linear(4, 4)})


def built(model: nn.Module, **settings) -> MuonAdamW:
    training = TrainingConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.1, **settings)
    found = build_optimizer(model, training, training.learning_rate, "no")
    assert isinstance(found, MuonAdamW)
    return found


@pytest.mark.parametrize("kind", PROJECTORS)
def test_muon_moves_nearly_all_of_every_projector_but_no_gates(kind):
    config = ProjectorConfig(expert_dim=32, num_heads=2)
    projector = build_projector(kind, config, 48, 64)
    matrices = projector.matrices()
    assert all(weight.ndim >= 2 and min(weight.shape[-2:]) > 8 for weight in matrices)
    assert len({id(weight) for weight in matrices} & {id(weight) for weight in projector.parameters()}) == len(matrices)
    moved = sum(weight.numel() for weight in matrices)
    assert moved > 0.9 * sum(weight.numel() for weight in projector.parameters())


def test_only_the_projectors_matrices_are_moved_by_muon():
    """Against the plain formula: mean of gradients, Nesterov, nearest orthogonal matrix; AdamW for all others."""
    model = a_model()
    plain = copy.deepcopy(model)
    optimizer = built(model, decoder_learning_rate=0.02)
    linear = model["projector"].linear.weight
    assert [group["params"] for group in optimizer.param_groups if group["muon"]] == [[linear]]
    assert {group["lr_scale"] for group in optimizer.param_groups} == {1.0, 2.0}
    rest = torch.optim.AdamW([w for w in plain.parameters() if w.shape != linear.shape], 0.01, (0.9, 0.95))
    decays = {id(w): 0.1 if w.ndim > 1 else 0.0 for group in rest.param_groups for w in group["params"]}
    weights = rest.param_groups[0]["params"]
    rest = torch.optim.AdamW([{"params": [w], "weight_decay": decays[id(w)]} for w in weights], 0.01, (0.9, 0.95))
    mean, expected = torch.zeros_like(linear), linear.detach().clone()
    for _ in range(5):
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        mean = MOMENTUM * mean + (1 - MOMENTUM) * linear.grad
        update = orthogonalize(MOMENTUM * mean + (1 - MOMENTUM) * linear.grad, torch.float32)
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * UPDATE_RMS * 6**0.5 * update
        optimizer.step()
        rest.step()
    torch.testing.assert_close(linear.detach(), expected)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        if mine is not linear:
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_multiple_of_the_output_layer_gives_that_multiple_of_the_output(kind):
    torch.manual_seed(0)
    projector = build_projector(kind, ProjectorConfig(expert_dim=32, num_heads=2), 48, 64).eval()
    frames, lengths = torch.randn(140, 48), [100, 40]
    before = projector(frames, lengths).tokens
    with torch.no_grad():
        for weight in projector.output_layer():
            weight.mul_(0.1)
    torch.testing.assert_close(projector(frames, lengths).tokens, 0.1 * before)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_output_layer_that_was_scaled_learns_as_if_half_of_it_were_in_the_output(optimizer):
    """Against a model whose output is multiplied by the root in its forward pass: the same outputs, step for step."""
    root, plain, scaled = 0.1, a_model(), a_model()
    training = TrainingConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    with torch.no_grad():
        for weight, other in zip(scaled["projector"].output_layer(), plain["projector"].output_layer(), strict=True):
            weight.mul_(root**2)
            other.mul_(root)
    optimizers = [
        build_optimizer(model, training, 0.01, "no", output_gain=of) for model, of in ((plain, 1.0), (scaled, root**2))
    ]
    for group in (group for one in optimizers for group in one.param_groups):
        group["lr"] *= group["lr_scale"]  # as `Trainer` does
    for step in range(20):
        torch.manual_seed(step)
        clips, wanted = torch.randn(8, 6), torch.randn(8, 4)
        outputs = [root * plain["projector"].linear(clips), scaled["projector"].linear(clips)]
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
        for output, one in zip(outputs, optimizers, strict=True):
            (output - wanted).square().mean().backward()
            one.step()
            one.zero_grad()


def test_the_gain_is_kept_for_later_parts_and_later_runs(run_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["train", *run_settings, "training.max_steps=2", "data.eval_datasets=[]", "training.save_steps=1"]
    built = []
    build = build_module.build_optimizer

    def watched(model, training, rate, precision, **more):
        built.append(more["output_gain"])
        return build(model, training, rate, precision, **more)

    monkeypatch.setattr(build_module, "build_optimizer", watched)
    assert main([*typed, "training.ctc_warmup_steps=2", "paths.output_dir=first"]) == 0
    checkpoints = tmp_path / "first/transcription/checkpoints"
    assert load_checkpoint(checkpoints / "final.pt")["state"]["output_gain"] == built[0] != 1
    resumed = f"training.resume_from_checkpoint={checkpoints / 'checkpoint-step-1.pt'}"
    assert main([*typed, "training.ctc_warmup_steps=2", resumed, "paths.output_dir=resumed"]) == 0
    assert main([*typed, f"model.projector_checkpoint={checkpoints / 'final.pt'}", "paths.output_dir=second"]) == 0
    assert main([*typed, "training.ctc_warmup_steps=0", "paths.output_dir=cold"]) == 0
    assert built == [built[0]] * 3 + [1.0]


def test_a_warmup_that_is_made_shorter_than_what_is_done_still_ends_with_the_gain(run_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["train", *run_settings, "training.max_steps=1", "data.eval_datasets=[]", "training.save_steps=1"]
    finish = CTCWarmup.finish_step

    def killed(self, shown):
        finish(self, shown)
        if self.state.ctc_step == 3:
            raise ZeroDivisionError

    with monkeypatch.context() as changed:
        changed.setattr(CTCWarmup, "finish_step", killed)
        with pytest.raises(ZeroDivisionError):
            main([*typed, "training.ctc_warmup_steps=6"])
    assert main([*typed, "training.ctc_warmup_steps=3"]) == 0
    state = load_checkpoint(tmp_path / "outputs/transcription/checkpoints/final.pt")["state"]
    assert state["ctc_step"] == 3
    assert state["output_gain"] != 1


def test_a_step_that_is_left_out_changes_nothing_and_a_copy_goes_on_alike():
    model = a_model()
    optimizer = built(model)

    def step(of: nn.Module, by: MuonAdamW, seed: int, found: float) -> None:
        torch.manual_seed(seed)
        for weight in of.parameters():
            weight.grad = torch.randn_like(weight) if not found else torch.full_like(weight, torch.nan)
        by.found_inf = torch.tensor(found)
        by.step()

    step(model, optimizer, 0, 1.0)  # before there is any moment
    step(model, optimizer, 1, 0.0)
    before, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    step(model, optimizer, 2, 1.0)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    for index, kept in optimizer.state_dict()["state"].items():
        assert all(torch.equal(moments["state"][index][name], value) for name, value in kept.items())
    other = a_model()
    again = built(other)
    other.load_state_dict(before)
    again.load_state_dict(moments)
    for seed in (3, 4):
        step(model, optimizer, seed, 0.0)
        step(other, again, seed, 0.0)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_a_run_that_was_killed_goes_on_to_the_bit(run_settings, tmp_path, monkeypatch, capsys):
    """In its warm-up and after it; and a checkpoint of Muon is not taken for one of AdamW."""
    monkeypatch.chdir(tmp_path)
    typed = ["train", *run_settings, "training.ctc_warmup_steps=4", "training.max_steps=4", "training.save_steps=2"]
    typed += ["data.eval_datasets=[]", "logging.log_steps=1"]
    muon = [*typed, "training.optimizer=muon"]

    def losses(folder: str) -> list[tuple[int, float]]:
        rows = read_lines(tmp_path / folder / "transcription/metrics.jsonl")
        return [(row["step"], row[key]) for row in rows for key in ("ctc_warmup/loss", "train/loss") if key in row]

    assert main([*muon, "paths.output_dir=whole"]) == 0
    for part, position in ((CTCWarmup, "ctc_step"), (Trainer, "step")):
        finish = part.finish_step

        def killed(self, shown, finish=finish, position=position):
            finish(self, shown)
            if getattr(self.state, position) == 3:
                raise ZeroDivisionError  # nothing is written any more, as after SIGKILL

        with monkeypatch.context() as changed:
            changed.setattr(part, "finish_step", killed)
            with pytest.raises(ZeroDivisionError):
                main([*muon, "paths.output_dir=killed"])
        capsys.readouterr()
        assert main([*typed, "training.optimizer=adamw", "paths.output_dir=killed"]) != 0
        assert "the checkpoint's run had training.optimizer=muon" in capsys.readouterr().err
    assert main([*muon, "paths.output_dir=killed"]) == 0
    assert main([*typed, "training.optimizer=adamw", "paths.output_dir=killed"]) == 0
    assert "nothing is left to train" in capsys.readouterr().err
    assert losses("killed") == losses("whole")
    assert len(losses("whole")) == 8


def test_a_state_of_other_weights_is_refused():
    """Such as that of a warm-up which an earlier version stopped: it had two groups."""
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(3)]}])
    saved = torch.optim.AdamW([{"params": [torch.zeros(2), torch.zeros(3)]}]).state_dict()
    with pytest.raises(UserError, match="trained other parts"):
        refuse_another(saved, optimizer)


def test_sharded_matrices_are_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    config = Config(training=TrainingConfig(optimizer="muon"), hardware=HardwareConfig(fsdp=True, device="cpu"))
    with pytest.raises(UserError, match=r"training.optimizer=muon needs whole matrices"):
        start_accelerator(config)
