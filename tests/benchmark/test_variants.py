"""The ways of computing a step: plain and ours must be the same thing, and usual and ours in windows of 30 s."""

from __future__ import annotations

import pytest
import torch

from tiny_audio.benchmark.models import build_model, clip_lengths, random_batch
from tiny_audio.benchmark.parts import PARTS, measure_parts, watched
from tiny_audio.benchmark.variants import Ours, Plain, Usual, Windows
from tiny_audio.config import PROJECTORS
from tiny_audio.model.packing import PACKED_ATTENTION


def gradients(model) -> list[torch.Tensor]:
    found = [weight.grad.clone() for weight in model.projector.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", ["mlp", "moe"])
def test_plain_and_ours_agree_in_loss_and_gradients_and_usual_does_not(kind, frozen, batch, accelerator):
    model = build_model(kind, *frozen, batch)
    usual, plain, ours, windows = (chosen(model, batch, accelerator) for chosen in (Usual, Plain, Ours, Windows))
    losses = {}
    for variant in (usual, plain, ours, windows):
        with variant.installed():
            losses[variant.title] = variant.loss()
    assert losses["plain"] == pytest.approx(losses["ours"], abs=1e-5)
    assert losses["ours, 30s"] == pytest.approx(losses["usual"], abs=1e-5)
    assert abs(losses["usual"] - losses["ours"]) > 1e-3

    with plain.installed():
        sum(plain.forward()).backward()
    expected = gradients(model)
    found = ours.model(batch)
    (found.objective / found.num_targets).backward()
    torch.testing.assert_close(gradients(model), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("chosen", [Usual, Plain, Ours, Windows])
@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_step_changes_the_projector_and_leaves_the_frozen_models_as_they_were(
    chosen, kind, frozen, batch, accelerator
):
    model = build_model(kind, *frozen, batch)
    variant = chosen(model, batch, accelerator)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with variant.installed():
        variant.step()
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("projector.") for name in changed)
    for part in (model.encoder, model.decoder):
        assert part.module.config._attn_implementation == PACKED_ATTENTION


def test_steps_of_ours_and_plain_lower_the_loss_of_the_same_clips(frozen, batch, accelerator):
    for chosen in (Plain, Ours):
        model = build_model("mlp", *frozen, batch)
        variant = chosen(model, batch, accelerator)
        if isinstance(variant, Ours):
            variant.trainer.training.warmup_steps = 0
        with variant.installed():
            first = variant.loss()
            for _ in range(3):
                variant.step()
            assert variant.loss() < first


def test_parts_come_in_order_and_add_up_to_the_step(frozen, batch, accelerator):
    ours = Ours(build_model("mlp", *frozen, batch), batch, accelerator)
    seen: list[str] = []
    with watched(ours, seen.append):
        ours.step()
    assert list(dict.fromkeys(seen)) == [
        *("the rest", "mel", "encoder", "projector", "decoder forward", "head and loss", "decoder backward"),
        "clipping and optimizer",
    ]
    assert seen.index("decoder backward") < len(seen) - 1 - seen[::-1].index("projector"), "its backward pass"
    ours.step()
    assert len(seen) == seen.index("clipping and optimizer") + 1, "the hooks are gone"
    seconds = measure_parts(ours, 2)
    assert tuple(seconds) == PARTS
    assert all(value > 0 for value in seconds.values())


def test_the_batch_is_the_same_each_time_and_as_the_loader_makes_it(frozen, sizes):
    prompt = frozen[1].prompt
    one, two = (random_batch(4, 3.0, prompt, sizes.vocabulary) for _ in range(2))
    assert torch.equal(one.waveforms, two.waveforms)
    assert all(map(torch.equal, one.target_ids, two.target_ids))
    assert one.audio_seconds == pytest.approx(12)
    assert len(one) == len(one.target_ids) == 4
    assert not (one.waveforms.shape[1] % 1280)


def test_lengths_spread_about_their_mean_as_far_as_thirty_seconds_allow():
    assert clip_lengths(3, 12) == pytest.approx([3.6, 12, 20.4])
    assert clip_lengths(3, 25) == pytest.approx([20, 25, 30])
    assert clip_lengths(2, 30) == [30, 30]
    assert clip_lengths(1, 12) == [12]
