"""What the benchmark needs of a machine: models made on the device that is measured, and no tracker."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from tiny_audio.benchmark.models import build_frozen, build_model
from tiny_audio.benchmark.variants import Ours
from tiny_audio.model import decoder, reading


def test_models_may_be_made_on_a_device_that_is_not_the_cpu(sizes, monkeypatch):
    """`meta` stands in for a GPU: it refuses tensors of the CPU as well. It has no values to compare or to hash."""
    compared, written_after = [], []

    def write_after(module, embeddings, mask, **options):
        written_after.append((embeddings, mask))
        return SimpleNamespace(logits=[module.get_output_embeddings()(embeddings[:, -1])])

    monkeypatch.setattr(torch, "equal", lambda *pair: bool(compared.append(pair)) or True)
    monkeypatch.setattr(reading._Trial, "_agrees", lambda self, *pair: bool(compared.append(pair)) or True)
    monkeypatch.setattr(reading, "write_after", write_after)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    monkeypatch.setattr("transformers.masking_utils._ignore_causal_mask_sdpa", lambda *_, **__: False)
    monkeypatch.setattr(decoder, "fingerprint", lambda module: "none")
    monkeypatch.setattr("tiny_audio.model.encoder.fingerprint", lambda module: "none")
    frozen = build_frozen(sizes, torch.device("meta"), torch.bfloat16)
    assert frozen[1].reading.packed
    assert frozen[1].reading.rows_leave
    assert len(compared) == 5
    assert len(written_after) == 2
    assert {one.device.type for pair in compared + written_after for one in pair} == {"meta"}
    assert {weight.device.type for part in frozen for weight in part.parameters()} == {"meta"}


def test_no_tracker_need_be_installed(frozen, batch, accelerator, monkeypatch):
    monkeypatch.setattr("tiny_audio.training.tracking.find_spec", lambda name: None)
    ours = Ours(build_model("mlp", *frozen, batch), batch, accelerator)
    ours.step()
    assert ours.trainer.state.step == 1
