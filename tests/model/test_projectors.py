"""The four projectors: sizes, lengths, and fast ways against obvious ones."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu

from tiny_audio.cli import main
from tiny_audio.config import PROJECTORS, ProjectorConfig
from tiny_audio.errors import UserError
from tiny_audio.inference import Recognizer
from tiny_audio.lengths import align_samples, num_encoder_frames, num_mel_frames
from tiny_audio.model.projectors import build_projector, moe
from tiny_audio.model.projectors.moe import balance_loss
from tiny_audio.model.projectors.qformer import RotaryAttention, rotary_angles

SMALL = {"hidden_dim": 12, "expert_dim": 16, "num_heads": 2, "dropout": 0.0}
DOCS = Path(__file__).parents[2] / "docs/projectors.md"
LENGTHS = [4, 128, 132, 600, 252, 124, 8, 1500]


def small(kind: str, **settings: object):
    torch.manual_seed(0)
    return build_projector(kind, ProjectorConfig(**{**SMALL, **settings}), 8, 8)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mlp", 12_585_984), ("mosa", 12_609_540), ("moe", 25_219_072), ("qformer", 27_333_632), ("conv", 6_944_640)],
)
def test_at_the_real_widths_each_is_as_large_as_its_docstring_says(kind, expected):
    with torch.device("meta"):
        projector = build_projector(kind, ProjectorConfig(), 1280, 1024)
    assert sum(p.numel() for p in projector.parameters()) == expected
    assert f"{expected:,}" in type(projector).__doc__


def test_mlp_has_the_parameter_names_of_the_native_projector():
    assert set(small("mlp").state_dict()) == {"linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"}


@pytest.mark.parametrize("kind", PROJECTORS)
@torch.inference_mode()
def test_every_length_from_80_ms_to_30_s_gives_as_many_tokens_as_promised(kind):
    """12.5 tokens a second of audio, each of 80 ms, from all of them."""
    projector = small(kind).eval()
    for samples in range(1, 30 * 16_000 + 1, 1280):
        frames = num_encoder_frames(num_mel_frames(align_samples(samples)))
        tokens = projector(torch.zeros(frames, 8), [frames]).tokens
        assert tokens.shape == (projector.num_tokens(frames), 8) == (align_samples(samples) // 1280, 8)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {"frame_stack": n}) for kind in ("mlp", "mosa", "moe") for n in (1, 3, 5)),
        *(("qformer", {"num_queries": q, "window_frames": w}) for q, w in ((1, 4), (3, 15), (7, 50), (5, 3))),
    ],
)
def test_other_rates_give_as_many_tokens_as_promised_and_keep_clips_apart(kind, settings):
    projector = small(kind, **settings).eval()
    lengths = [*LENGTHS, 5, 7, 131]
    frames = torch.randn(sum(lengths), 8)
    tokens = projector(frames, lengths).tokens
    counts = [projector.num_tokens(n) for n in lengths]
    assert tokens.shape == (sum(counts), 8)
    for clip, its_tokens in zip(frames.split(lengths), tokens.split(counts), strict=True):
        torch.testing.assert_close(projector(clip, [len(clip)]).tokens, its_tokens, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PROJECTORS)
def test_dropout_acts_in_training_only(kind):
    projector, frames = small(kind, dropout=0.5), torch.randn(132, 8)
    torch.manual_seed(0)
    first, second = (projector.train()(frames, [132]).tokens for _ in range(2))
    assert not torch.allclose(first, second)
    projector.eval()
    assert torch.equal(projector(frames, [132]).tokens, projector(frames, [132]).tokens)


def test_mosa_is_the_sum_of_its_experts_weighted_by_the_gate():
    projector, frames = small("mosa"), torch.randn(600, 8)
    torch.nn.init.normal_(projector.down_bias)
    stacked = frames.reshape(150, 32)
    gates = (stacked @ projector.gate.weight.T + projector.gate.bias).softmax(-1)
    expected = torch.zeros(150, 8)
    for e in range(4):
        own = slice(16 * e, 16 * (e + 1))
        hidden = gelu(stacked @ projector.up.weight[own].T + projector.up.bias[own])
        expected += gates[:, e : e + 1] * (hidden @ projector.down.weight[:, own].T + projector.down_bias[e])
    found = projector(frames, [600])
    torch.testing.assert_close(found.tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.expert_usage, gates.sum(0))
    assert found.auxiliary == 0


def moe_by_loop(projector, stacked):
    """Token by token, expert by expert."""
    probabilities = (stacked @ projector.router.weight.T).softmax(-1)
    rows = []
    for token, chances in zip(stacked, probabilities, strict=True):
        best = chances.argsort(descending=True)[:2]
        row = 0
        for e in best:
            hidden = gelu(token @ projector.up[e] + projector.up_bias[e])
            row = row + chances[e] / chances[best].sum() * (hidden @ projector.down[e] + projector.down_bias[e])
        rows.append(row)
    return torch.stack(rows), probabilities


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "dense"])
def test_moe_equals_a_loop_over_tokens_and_experts(grouped, monkeypatch):
    if not grouped:
        monkeypatch.setattr(moe, "has_grouped_mm", lambda device, dtype, *widths: False)
    elif not moe.has_grouped_mm(torch.device("cpu"), torch.float32, 32, 16, 8):
        pytest.skip("this torch has no grouped product")
    projector, frames = small("moe"), torch.randn(200, 8)
    torch.nn.init.normal_(projector.router.weight)
    torch.nn.init.normal_(projector.up_bias)
    torch.nn.init.normal_(projector.down_bias)
    weighting = torch.randn(50, 8)
    found = projector(frames, [200])
    ((found.tokens * weighting).sum() + found.auxiliary).backward()
    ours = {name: p.grad.clone() for name, p in projector.named_parameters()}
    projector.zero_grad()
    expected, probabilities = moe_by_loop(projector, frames.reshape(50, 32))
    balance = probabilities.mean(0).var(unbiased=False) / (1 / 8) ** 2
    ((expected * weighting).sum() + 0.01 * balance).backward()
    torch.testing.assert_close(found.tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.auxiliary, 0.01 * balance, atol=1e-6, rtol=1e-5)
    for name, p in projector.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text)
    chosen = probabilities.topk(2).indices.flatten()
    assert found.expert_usage.tolist() == torch.bincount(chosen, minlength=8).tolist()


def test_moe_of_any_width_reads():
    projector = build_projector("moe", ProjectorConfig(expert_dim=5), 3, 7)
    assert projector(torch.randn(8, 3), [8]).tokens.shape == (2, 7)


def test_an_expert_that_no_token_chose_is_left_alone():
    projector, frames = small("moe"), torch.randn(40, 8).abs()
    with torch.no_grad():
        projector.router.weight[:] = torch.arange(8.0)[:, None]  # experts 7 and 6, for every token
    found = projector(frames, [40])
    found.tokens.sum().backward()
    assert found.expert_usage.tolist() == [0] * 6 + [10, 10]
    assert not projector.up.grad[:6].any()
    assert projector.up.grad[6:].any(dim=(1, 2)).all()


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([[0.25] * 4] * 3, 0.0),
        ([[1.0, 0, 0, 0]] * 3, 3.0),  # one expert does it all: E - 1
        ([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], 1.0),
        ([[1.0, 0], [0, 1.0]], 0.0),  # certain of each token, and even over all of them
    ],
)
def test_balance_loss_is_the_squared_coefficient_of_variation(probabilities, expected):
    assert balance_loss(torch.tensor(probabilities)) == pytest.approx(expected)


def test_rotary_attention_sees_distances_not_places():
    torch.manual_seed(0)
    attention = RotaryAttention(8, 6, 2)
    hidden, read, mask = torch.randn(1, 3, 8), torch.randn(1, 5, 6), torch.ones(1, 1, 1, 5, dtype=torch.bool)
    places, frames = torch.tensor([1.5, 5.5, 9.5]), torch.arange(5)
    here = attention(hidden, read, rotary_angles(places, 4), rotary_angles(frames, 4), mask)
    there = attention(hidden, read, rotary_angles(places + 40, 4), rotary_angles(frames + 40, 4), mask)
    moved = attention(hidden, read, rotary_angles(places + 3, 4), rotary_angles(frames, 4), mask)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(here, moved, atol=1e-3)


def test_qformer_does_not_read_past_the_end_of_a_clip():
    projector = small("qformer").eval()
    frames = torch.randn(150, 8)
    tokens = projector(frames, [132, 18]).tokens
    changed = frames.clone()
    changed[132:] = 100.0
    assert torch.equal(projector(changed, [132, 18]).tokens[:33], tokens[:33])


def test_heads_that_do_not_fit_the_width_are_refused():
    with pytest.raises(UserError, match=r"num_heads=3 does not divide the decoder's width, which is 8"):
        small("qformer", num_heads=3)


def test_a_fifth_projector_is_the_file_and_the_line_of_the_docs(run_settings, tmp_path, monkeypatch):
    """Typed in as the docs have it, it trains and its checkpoint transcribes."""
    code, line = re.search(r"```python\n(.*?)```.*?```\n(    \"pool\".*?)```", DOCS.read_text(), re.DOTALL).groups()
    kind, target = re.fullmatch(r'\s*"(\w+)": "([\w.]+)",\s*', line).groups()
    name = f"tiny_audio.model.projectors.{target.split('.')[0]}"
    module = types.ModuleType(name)
    module.__package__ = "tiny_audio.model.projectors"
    exec(compile(code, str(DOCS), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(PROJECTORS, kind, target)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *run_settings, f"model.projector_type={kind}"]) == 0
    recognizer = Recognizer(tmp_path / "outputs/transcription/checkpoints/final.pt", "cpu")
    assert type(recognizer.model.projector).__name__ == "PoolProjector"
    assert isinstance(recognizer.transcribe(torch.randn(16_000) * 0.1).text, str)


@pytest.mark.parametrize(
    ("capability", "dtype", "taken"),
    [
        ((9, 0), torch.bfloat16, True),
        ((10, 0), torch.bfloat16, True),
        ((9, 0), torch.float32, False),
        ((8, 0), torch.bfloat16, False),
        ((12, 0), torch.bfloat16, False),
    ],
)
def test_a_gpu_without_the_grouped_kernel_is_not_made_to_wait(monkeypatch, capability, dtype, taken):
    """Elsewhere torch would read on the host where each expert's tokens end; all experts read all tokens instead."""
    if not hasattr(torch.nn.functional, "grouped_mm"):
        pytest.skip("torch 2.10 on")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert moe.has_grouped_mm(torch.device("cuda"), dtype, 32, 16, 8) == taken
