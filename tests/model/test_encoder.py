"""The encoder: every clip as if it were alone, and nothing loaded that is not needed."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import tiny_models as make
from runs import Started
from tiny_audio.audio import pad_waveforms
from tiny_audio.config import ENCODER_WINDOWS
from tiny_audio.errors import UserError
from tiny_audio.lengths import num_clip_frames, window_of
from tiny_audio.model.encoder import WhisperSpeechEncoder, load_encoder

SAMPLES = (16_000, 1_281, 48_333, 160_000, 8_000)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, num_samples]).standard_normal(num_samples) * 0.1).astype(np.float32)


@pytest.mark.parametrize("kind", ["glm_asr", "whisper"])
@pytest.mark.parametrize("window", ENCODER_WINDOWS)
def test_a_clip_does_not_depend_on_its_batch(tiny_models, kind, window):
    encoder = load_encoder(str(getattr(tiny_models, kind)), None, torch.float32, window)
    waveforms, num_samples = pad_waveforms([noise(n) for n in SAMPLES])
    frames, lengths = encoder(waveforms, num_samples)
    assert lengths == [num_clip_frames(n) + (24 if window == "padded" else 0) for n in SAMPLES]
    for i, clip in enumerate(frames.split(lengths)):
        alone, _ = encoder(*pad_waveforms([noise(SAMPLES[i])]))
        torch.testing.assert_close(clip, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [200, 960, 961, 1280, 1281, 15_999, 16_000, 16_321, 48_333])
def test_frames_make_as_many_tokens_as_the_native_processor_counts(tiny_models, samples):
    processor = GlmAsrProcessor.from_pretrained(tiny_models.glm_asr)
    native = processor(text=[processor.audio_token], audio=[noise(samples)], sampling_rate=16_000)
    tokens = int((native["input_ids"] == processor.audio_token_id).sum())
    assert num_clip_frames(samples) // 4 == max(tokens, 1), "of a clip below 60 ms it counts none"


def test_windows_equal_what_the_native_processor_and_model_make_of_clips(tiny_models):
    encoder = load_encoder(str(tiny_models.glm_asr), None, torch.float32, "30s")
    whole = GlmAsrForConditionalGeneration.from_pretrained(tiny_models.glm_asr).eval()
    processor = GlmAsrProcessor.from_pretrained(tiny_models.glm_asr)
    waveforms = [noise(n) for n in (16_000, 48_333)]
    native = [processor(text=[processor.audio_token], audio=[w], sampling_rate=16_000) for w in waveforms]
    with torch.no_grad():
        expected = whole.model.audio_tower(torch.cat([n["input_features"] for n in native])).last_hidden_state
    frames, lengths = encoder(*pad_waveforms(waveforms))
    for clip, window, n in zip(frames.split(lengths), expected, lengths, strict=True):
        torch.testing.assert_close(clip, window[:n], atol=1e-5, rtol=0)


def test_a_window_that_an_encoder_lacks_is_told(tiny_models, monkeypatch):
    monkeypatch.setattr(WhisperSpeechEncoder, "windows", ("30s",))
    with pytest.raises(UserError, match=r"model.encoder_window=clip: Whisper .* set model.encoder_window=30s"):
        load_encoder(str(tiny_models.whisper), None, torch.float32, "clip")


def test_packed_encoder_equals_the_stock_forward_of_one_clip(tiny_models):
    """The reference: `transformers`' own GLM-ASR model and feature extractor on a single, aligned clip."""
    encoder = load_encoder(str(tiny_models.glm_asr), None, torch.float32, "clip")
    whole = GlmAsrForConditionalGeneration.from_pretrained(tiny_models.glm_asr).eval()
    extractor = WhisperFeatureExtractor(feature_size=128)
    waveform = noise(1280 * 17)
    mel = extractor(waveform, sampling_rate=16_000, return_tensors="pt", padding="longest").input_features
    with torch.no_grad():
        expected = whole.model.audio_tower(mel).last_hidden_state[0]
    frames, _ = encoder(*pad_waveforms([waveform]))
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=0)


def test_whisper_encoder_equals_the_stock_forward(tiny_models):
    encoder = load_encoder(str(tiny_models.whisper), None, torch.float32)
    stock = WhisperModel.from_pretrained(tiny_models.whisper).eval()
    waveform = noise(1280 * 25)
    mel = WhisperFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = stock.encoder(mel).last_hidden_state[0]
    frames, lengths = encoder(*pad_waveforms([waveform]))
    assert lengths == [100]
    torch.testing.assert_close(frames, expected[:100], atol=1e-5, rtol=0)


def test_whisper_on_a_bare_clip_equals_the_stock_forward_of_a_shorter_window(tiny_models):
    encoder = load_encoder(str(tiny_models.whisper), None, torch.float32, "clip")
    weights = WhisperModel.from_pretrained(tiny_models.whisper).encoder.state_dict()
    config = WhisperConfig.from_pretrained(tiny_models.whisper, max_source_positions=4 * 17)
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: 4 * 17]
    stock = WhisperEncoder(config).eval()
    stock.load_state_dict(weights)
    waveform = noise(1280 * 17)
    extractor = WhisperFeatureExtractor()
    mel = extractor(waveform, sampling_rate=16_000, return_tensors="pt", padding="longest").input_features
    with torch.no_grad():
        expected = stock(mel).last_hidden_state[0]
    frames, _ = encoder(*pad_waveforms([waveform]))
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["glm_asr", "whisper"])
@pytest.mark.parametrize("samples", [900, 16_000, 48_333])
def test_a_padded_clip_is_a_longer_bare_clip_whose_late_silence_is_dropped(tiny_models, kind, samples):
    name = str(getattr(tiny_models, kind))
    clip, unit = noise(samples), 320
    after = -samples % 1280 + 48 * unit
    longer = np.concatenate((np.zeros(12 * unit, np.float32), clip, np.zeros(after, np.float32)))
    frames, (count,) = load_encoder(name, None, torch.float32, "padded")(*pad_waveforms([clip]))
    expected, _ = load_encoder(name, None, torch.float32, "clip")(*pad_waveforms([longer]))
    assert count == 12 + max(-(-samples // unit), 4) + 12
    torch.testing.assert_close(frames, expected[:count], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("seconds", "window"),
    [
        (10.0, (12, 12 + 500 + 12, 12 + 500 + 48)),
        (29.0, (12, 12 + 1450 + 12, 1500)),
        (29.7, (12, 1500, 1500)),
        (29.76, (12, 1500, 1500)),
        (29.77, (0, 1500, 1500)),
        (30.0, (0, 1500, 1500)),
    ],
)
def test_silence_around_a_clip_ends_at_30_s(tiny_models, seconds, window):
    samples = round(seconds * 16_000)
    assert window_of(samples, "padded") == window
    encoder = load_encoder(str(tiny_models.whisper), None, torch.float32, "padded")
    frames, lengths = encoder(*pad_waveforms([noise(samples), noise(8_000)]))
    assert lengths == [window[1], 12 + 25 + 12]
    torch.testing.assert_close(frames[: window[1]], encoder(*pad_waveforms([noise(samples)]))[0], atol=1e-5, rtol=0)


def test_whisper_s_last_layer_is_computed_for_the_clip_alone(tiny_models):
    encoder = load_encoder(str(tiny_models.whisper), None, torch.float32)
    seen = []
    for layer in encoder.layers:
        layer.fc1.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[-2]))
    encoder(*pad_waveforms([noise(1280 * 25)]))
    assert seen == [1500] * (len(encoder.layers) - 1) + [100]


@pytest.mark.parametrize("kind", ["glm_asr", "whisper"])
@pytest.mark.parametrize("window", ENCODER_WINDOWS)
def test_outputs_of_several_layers_are_side_by_side(tiny_models, kind, window):
    name = str(getattr(tiny_models, kind))
    last = load_encoder(name, None, torch.float32, window)
    second = getattr(last.layers[1], "self_attn_layer_norm" if kind == "whisper" else "input_layernorm")
    outputs = []
    second.register_forward_hook(lambda module, given, out: outputs.append(out.reshape(-1, last.width)))
    whole, count = noise(1280 * 25), last.num_layers
    frames, _ = last(*pad_waveforms([whole]))
    encoder = load_encoder(name, None, torch.float32, window, [count, 1])
    joined, lengths = encoder(*pad_waveforms([whole, noise(1280 * 13)]))
    expected = torch.cat((outputs[0][: lengths[0]], frames), dim=1)
    torch.testing.assert_close(joined[: lengths[0]], expected, atol=1e-5, rtol=0)
    assert joined.shape == (sum(lengths), encoder.encoder_dim)
    assert encoder.encoder_dim == 2 * last.encoder_dim
    assert encoder.convention == f"{last.convention}; layers 1 {count}"


@pytest.mark.parametrize("window", ENCODER_WINDOWS)
def test_layers_after_the_last_one_that_is_read_do_not_run(tiny_models, window):
    encoder = load_encoder(str(tiny_models.whisper), None, torch.float32, window, [1])
    seen = []
    for layer in encoder.layers:
        layer.fc1.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[-2]))
    frames, _ = encoder(*pad_waveforms([noise(1280 * 25)]))
    assert frames.shape == (124 if window == "padded" else 100, encoder.width)
    assert seen == [12 + 100 + 48 if window == "padded" else 100], "in windows of 30 s nothing of the silence"


def test_a_layer_that_an_encoder_lacks_is_told(tiny_models):
    with pytest.raises(UserError, match=r"model.encoder_layers=\[1, 9\]: Whisper .* has \d layers"):
        load_encoder(str(tiny_models.whisper), None, torch.float32, "clip", [9, 1])


def test_encoder_stays_frozen_and_in_evaluation_mode(tiny_models):
    encoder = load_encoder(str(tiny_models.glm_asr), None, torch.float32).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_older_and_newer_key_names_are_both_read(tiny_models, tmp_path):
    """`audio_tower.*`, as older exports of GLM-ASR name it, and `model.audio_tower.*`."""
    encoder = load_encoder(str(tiny_models.glm_asr), None, torch.float32)
    weights = {}
    for shard in sorted(tiny_models.glm_asr.glob("*.safetensors")):
        weights |= load_file(shard)
    names = {key for key in weights if "audio_tower." in key}
    assert names, "the checkpoint holds an audio tower"
    for prefix in ("audio_tower.", "model.audio_tower."):
        folder = tmp_path / prefix.replace(".", "_")
        folder.mkdir()
        (folder / "config.json").write_text((tiny_models.glm_asr / "config.json").read_text())
        renamed = {prefix + key.split("audio_tower.", 1)[1]: weights[key] for key in names}
        save_file(renamed, folder / "model.safetensors", {"format": "pt"})
        again = load_encoder(str(folder), None, torch.float32)
        for ours, theirs in zip(encoder.module.parameters(), again.module.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_missing_weights_are_an_error(tiny_models, tmp_path):
    """`from_pretrained` only warns, and goes on with random weights."""
    (tmp_path / "config.json").write_text((tiny_models.glm_asr / "config.json").read_text())
    weights = {"audio_tower.conv1.bias": torch.zeros(64), "another": torch.zeros(100_000)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"cannot be read: \d+ weights are missing"):
        load_encoder(str(tmp_path), None, torch.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "there is no such folder"),
        ("nobody/no-such-encoder", "could not be fetched: HF_HUB_OFFLINE is set"),
    ],
)
def test_an_encoder_that_cannot_be_had(name, message):
    with pytest.raises(UserError, match=message):
        load_encoder(name, None, torch.float32)


def test_another_kind_of_model_is_refused(tiny_models):
    with pytest.raises(UserError, match=r"is a qwen3 model; known are GLM-ASR and Whisper"):
        load_encoder(str(tiny_models.qwen3), None, torch.float32)


def measure_peak(small: Path, folder: Path, result: Path) -> None:
    """Write down how many MiB a process grows by at its largest when it loads an encoder, after a small one."""
    load_encoder(str(small), None, torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_encoder(str(folder), None, torch.float32)
    result.write_text(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def test_the_llm_of_a_glm_asr_checkpoint_is_never_in_memory(tiny_models, tmp_path):
    folder = make.save_glm_asr(tmp_path / "large", text_width=1024, text_layers=8)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
    assert size > 450, "an LLM large enough to be noticed, MiB"
    assert Started(measure_peak, tiny_models.glm_asr, folder, tmp_path / "peak").wait(60) == 0
    assert float((tmp_path / "peak").read_text()) < size / 4
