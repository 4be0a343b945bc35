"""The composition, against the obvious way of computing it, and free of its neighbours' influence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny_audio.audio import pad_waveforms
from tiny_audio.config import ModelConfig, ProjectorConfig
from tiny_audio.errors import UserError
from tiny_audio.model.speech_llm import build_speech_llm

SECONDS = (1.0, 0.3, 3.1, 0.5, 7.9)
TRANSCRIPTS = ("one two", "three", "six seven one four", "", "two")


@pytest.fixture(scope="module")
def model(tiny_models):
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=str(tiny_models.glm_asr),
        decoder=str(tiny_models.qwen3),
        projector_config=ProjectorConfig(hidden_dim=64, dropout=0.0),
    )
    return build_speech_llm(config, torch.float32)


@pytest.fixture(scope="module")
def batch(model):
    rng = np.random.default_rng(0)
    clips = [(rng.standard_normal(int(s * 16_000)) * 0.1).astype(np.float32) for s in SECONDS]
    return *pad_waveforms(clips), [torch.tensor(model.decoder.prompt.target_ids(text)) for text in TRANSCRIPTS]


def naive_loss(model, waveforms, num_samples, targets):
    """Each clip alone, the stock causal LM with labels over the whole sequence, mean over all target tokens."""
    losses = []
    for i, target in enumerate(targets):
        tokens, _, _ = model.audio_tokens(waveforms[i : i + 1, : num_samples[i]], num_samples[i : i + 1])
        embed, prompt = model.decoder.embed, model.decoder.prompt
        parts = (embed(torch.tensor(prompt.prefix_ids)), tokens, embed(torch.tensor(prompt.suffix_ids)), embed(target))
        row = torch.cat(parts)[None]
        labels = torch.full((1, row.shape[1]), -100)
        labels[0, -len(target) :] = target
        losses.append(model.decoder.module(inputs_embeds=row, labels=labels).loss * len(target))
    return sum(losses) / sum(map(len, targets))


def test_loss_and_gradients_equal_the_obvious_way(model, batch):
    weights = list(model.projector.parameters())
    model.zero_grad()
    loss_sum, auxiliary = model.loss(*batch)
    assert auxiliary == 0
    loss = loss_sum / sum(map(len, batch[2]))
    loss.backward()
    ours = [weight.grad.clone() for weight in weights]
    model.zero_grad()
    expected = naive_loss(model, *batch)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    for weight, gradient in zip(weights, ours, strict=True):
        torch.testing.assert_close(gradient, weight.grad, atol=1e-5, rtol=1e-3)


def test_only_the_projector_has_gradients_and_trains(model, batch):
    model.train()
    model.loss(*batch)[0].backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"projector"}
    assert model.projector.training
    assert not model.encoder.module.training
    assert not model.decoder.module.training


def test_a_clip_alone_and_in_a_batch_gives_the_same_audio_tokens_and_transcript(model, batch):
    model.eval()
    waveforms, num_samples, _ = batch
    tokens, counts, _ = model.audio_tokens(waveforms, num_samples)
    written = model.transcribe(waveforms, num_samples, 24)
    assert counts == [n // 1280 for n in num_samples.tolist()]
    for i, clip in enumerate(tokens.split(counts)):
        alone = waveforms[i : i + 1, : num_samples[i]], num_samples[i : i + 1]
        torch.testing.assert_close(clip, model.audio_tokens(*alone)[0], atol=1e-4, rtol=0)
        assert model.transcribe(*alone, 24) == [written[i]]


def test_an_empty_batch_has_a_loss_of_zero_that_reaches_every_weight(model):
    """A process whose clips could all not be read must still take part in the step."""
    model.zero_grad()
    loss, _ = model.loss(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), [])
    loss.backward()
    assert loss == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.projector.parameters())


def test_projector_of_the_real_models_has_the_published_size():
    from tiny_audio.model.projectors import build_projector

    projector = build_projector("mlp", ProjectorConfig(), 1280, 1024)
    assert sum(p.numel() for p in projector.parameters()) == 12_585_984
    assert set(projector.state_dict()) == {"linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"}


@pytest.mark.parametrize("frame_stack", [1, 3, 4, 5])
def test_projector_returns_as_many_tokens_as_it_says(frame_stack):
    from tiny_audio.model.projectors import build_projector

    projector = build_projector("mlp", ProjectorConfig(frame_stack=frame_stack, hidden_dim=8), 6, 5).eval()
    lengths = list(range(4, 1501, 132))
    frames = torch.randn(sum(lengths), 6)
    tokens, _ = projector(frames, lengths)
    assert len(tokens) == sum(projector.num_tokens(n) for n in lengths)
    start = 0
    for clip, count in zip(frames.split(lengths), map(projector.num_tokens, lengths), strict=True):
        torch.testing.assert_close(projector(clip, [len(clip)])[0], tokens[start : start + count], atol=1e-5, rtol=0)
        start += count


def test_calibration_brings_the_output_to_the_embeddings_scale(model, batch):
    frames, lengths = model.encoder(*batch[:2])
    model.projector.calibrate(frames, lengths, model.decoder.embedding_rms)
    tokens = model.projector.eval()(frames, lengths)[0].detach()
    assert float(tokens.square().mean().sqrt()) == pytest.approx(model.decoder.embedding_rms, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_dim": 1024}, "model.projector_config.input_dim is 1024, but the encoder is 64 wide"),
        ({"output_dim": 896}, "model.projector_config.output_dim is 896, but the decoder is 48 wide"),
    ],
)
def test_a_width_that_disagrees_with_the_models_is_refused(tiny_models, settings, message):
    config = ModelConfig(
        encoder=str(tiny_models.glm_asr), decoder=str(tiny_models.qwen3), projector_config=ProjectorConfig(**settings)
    )
    with pytest.raises(UserError, match=message):
        build_speech_llm(config, torch.float32)


def test_bf16_gives_nearly_the_loss_of_fp32(tiny_models, model, batch):
    """As on a GPU: frozen models in bf16, the projector in fp32 under autocast."""
    half = build_speech_llm(
        ModelConfig(
            encoder=str(tiny_models.glm_asr),
            decoder=str(tiny_models.qwen3),
            projector_config=ProjectorConfig(hidden_dim=64, dropout=0.0),
        ),
        torch.bfloat16,
    )
    half.projector.load_state_dict(model.projector.state_dict())
    assert half.encoder.dtype == torch.bfloat16
    assert half.encoder.fingerprint == model.encoder.fingerprint
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = half.loss(*batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(weight.grad.dtype == torch.float32 for weight in half.projector.parameters())
    torch.testing.assert_close(loss, model.loss(*batch)[0], rtol=0.02, atol=0)
