"""What the benchmark needs of a machine: models made on the device that is measured, and no tracker."""

from __future__ import annotations

import torch

from tiny_audio.benchmark.models import build_frozen, build_model
from tiny_audio.benchmark.variants import Ours
from tiny_audio.model import decoder


def test_models_may_be_made_on_a_device_that_is_not_the_cpu(sizes, monkeypatch):
    """`meta` stands in for a GPU: it refuses tensors of the CPU as well. It has no values to compare or to hash."""
    compared = []
    monkeypatch.setattr(torch, "equal", lambda *pair: bool(compared.append(pair)) or True)
    monkeypatch.setattr(decoder, "fingerprint", lambda module: "none")
    monkeypatch.setattr("tiny_audio.model.encoder.fingerprint", lambda module: "none")
    frozen = build_frozen(sizes, torch.device("meta"), torch.bfloat16)
    assert [one.device.type for pair in compared for one in pair] == ["meta", "meta"]
    assert {weight.device.type for part in frozen for weight in part.parameters()} == {"meta"}


def test_no_tracker_need_be_installed(frozen, batch, accelerator, monkeypatch):
    monkeypatch.setattr("tiny_audio.training.trackers.find_spec", lambda name: None)
    ours = Ours(build_model("mlp", *frozen, batch), batch, accelerator)
    ours.step()
    assert ours.trainer.state.step == 1
