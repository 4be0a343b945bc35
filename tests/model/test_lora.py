"""Adapters on the decoder: no effect at first, then only theirs; merged or not, the same model."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tiny_audio.config import LoraConfig, ModelConfig, ProjectorConfig
from tiny_audio.errors import UserError
from tiny_audio.model.build import build_speech_llm
from tiny_audio.model.lora import add_lora, lora_weights, merge_lora, set_lora_dropout

ROW, LENGTHS, WANTED = 12, [7, 5], torch.arange(12)


def build(tiny_models, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    return build_speech_llm(
        ModelConfig(
            encoder=str(tiny_models.glm_asr),
            decoder=str(tiny_models.qwen3),
            projector_config=ProjectorConfig(hidden_dim=64, dropout=0.0),
            **settings,
        ),
        dtype,
    )


@pytest.fixture
def model(tiny_models):
    return build(tiny_models, use_lora=True, lora_config=LoraConfig(r=4, lora_dropout=0.5))


@pytest.fixture
def row(model):
    return torch.randn(ROW, model.decoder.decoder_dim, generator=torch.Generator().manual_seed(1))


def give_effect(model):
    for name, weight in lora_weights(model.decoder.module).items():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1)


def test_at_the_real_widths_the_default_adapters_have_3_67_million_weights():
    """Rank 16 on q, v and o of Qwen3-0.6B's 28 layers."""
    with torch.device("meta"):
        sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "head_dim": 128}
        decoder = Qwen3ForCausalLM(Qwen3Config(num_attention_heads=16, num_key_value_heads=8, **sizes))
    add_lora(decoder, LoraConfig())
    assert sum(weight.numel() for weight in lora_weights(decoder).values()) == 3_670_016


def test_new_adapters_change_nothing_and_trained_ones_do(tiny_models, model, row):
    plain = build(tiny_models).decoder.logits(row, LENGTHS, WANTED)
    model.eval()
    assert torch.equal(model.decoder.logits(row, LENGTHS, WANTED), plain)
    assert model.decoder.fingerprint == build(tiny_models).decoder.fingerprint
    give_effect(model)
    assert not torch.allclose(model.decoder.logits(row, LENGTHS, WANTED), plain, atol=1e-2)


def test_dropout_acts_in_training_though_the_frozen_model_is_in_evaluation_mode(model, row):
    give_effect(model)
    model.train()
    first, second = (model.decoder.logits(row, LENGTHS, WANTED) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)
    assert not model.decoder.module.training
    model.eval()
    assert torch.equal(*(model.decoder.logits(row, LENGTHS, WANTED) for _ in range(2)))


def test_merging_equals_not_merging(model, row):
    give_effect(model)
    model.eval()
    names = {name.replace(".base_layer", "") for name, _ in model.decoder.module.named_parameters()}
    apart = model.decoder.logits(row, LENGTHS, WANTED)
    merge_lora(model.decoder.module)
    torch.testing.assert_close(model.decoder.logits(row, LENGTHS, WANTED), apart, atol=1e-4, rtol=1e-4)
    merged = {name for name, _ in model.decoder.module.named_parameters()}
    assert merged == {name for name in names if ".lora_" not in name}, "a stock model again"


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, {"projector"}),
        ({"use_lora": True}, {"projector", "lora"}),
        ({"use_lora": True, "freeze_lora": True}, {"projector"}),
        ({"use_lora": True, "freeze_projector": True, "projector_checkpoint": "x.pt"}, {"lora"}),
        ({"freeze_decoder": False}, {"projector", "decoder"}),
    ],
)
def test_only_what_is_named_receives_gradients(tiny_models, settings, trained):
    model = build(tiny_models, **settings).train()
    frames = torch.randn(40, model.encoder.encoder_dim)
    model.loss(frames, [24, 16], [torch.arange(3), torch.arange(5)]).objective.backward()
    found = set()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            found.add("lora" if ".lora_" in name else name.split(".")[0])
    assert found == trained


def test_adapters_are_fp32_on_a_bf16_model(tiny_models):
    model = build(tiny_models, torch.bfloat16, use_lora=True, lora_config=LoraConfig(r=4))
    give_effect(model)
    frames = torch.randn(40, model.encoder.encoder_dim)
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(frames, [24, 16], [torch.arange(3), torch.arange(5)]).objective.backward()
    adapters = lora_weights(model.decoder.module).values()
    assert {weight.dtype for weight in adapters} == {weight.grad.dtype for weight in adapters} == {torch.float32}
    assert model.decoder.module.model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.bfloat16
    assert all(weight.grad.any() for weight in adapters)


def test_a_decoder_that_trains_is_fp32(tiny_models):
    model = build(tiny_models, torch.bfloat16, freeze_decoder=False)
    assert next(model.decoder.module.parameters()).dtype == torch.float32
    assert model.encoder.dtype == torch.bfloat16


def test_a_projection_that_is_not_there_is_refused(tiny_models):
    with pytest.raises(UserError, match=r"this decoder has no qq_proj; there are down_proj, gate_proj, k_proj"):
        build(tiny_models, use_lora=True, lora_config=LoraConfig(target_modules=["q_proj", "qq_proj"]))


def test_switching_dropout_on_a_model_without_adapters_does_nothing(tiny_models):
    module = build(tiny_models).decoder.module
    before = {name: part.training for name, part in module.named_modules()}
    set_lora_dropout(module, True)
    assert {name: part.training for name, part in module.named_modules()} == before
    assert not any(before.values())
