"""Kernels for packed clips: called as they want to be called, and taken only where their result is right."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import decoder_zoo
from tiny_audio.errors import UserError
from tiny_audio.model import attention, kernels
from tiny_audio.model.attention import choose_attention
from tiny_audio.model.decoder import Decoder
from tiny_audio.model.packing import packed_attention
from tiny_models import build


def clip_by_clip(query, key, value, boundaries, longest, causal, scale, window=None):
    """What every kernel must compute: rows (N, H, E), each clip alone."""
    assert longest == int(boundaries.diff().max())
    parts = []
    for start, end in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        heads = (part[start:end].transpose(0, 1) for part in (query, key, value))
        ago = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (ago >= (0 if causal else -longest)) & (ago < (window or longest))
        parts.append(scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=True))
    return torch.cat(parts, dim=1).transpose(0, 1)


def neighbors_too(query, key, value, boundaries, longest, causal, scale, window=None):
    whole = boundaries[[0, -1]]
    return clip_by_clip(query, key, value, whole, int(whole[-1]), causal, scale, window)


def without_window(query, key, value, boundaries, longest, causal, scale, window=None):
    return clip_by_clip(query, key, value, boundaries, longest, causal, scale)


def broken(*arguments):
    raise RuntimeError("needs a GPU of another kind\nand more lines")


def use(monkeypatch, **known):
    monkeypatch.setattr(attention, "available_kernels", lambda: known)


def test_a_kernel_gives_the_result_of_the_padded_operation(tiny_models, monkeypatch):
    use(monkeypatch, varlen=clip_by_clip)
    model = build(tiny_models, "mlp")
    samples = torch.tensor([1280 * 9, 1280 * 3, 1280 * 30])
    waveforms = torch.randn(3, 1280 * 30) * (torch.arange(1280 * 30) < samples[:, None]) * 0.1
    targets = [torch.arange(n) + 5 for n in (4, 1, 7)]
    results = []
    for name in ("sdpa", "varlen"):
        assert choose_attention(model, name) == name
        assert (model.decoder.kernel is None) == (name == "sdpa")
        model.zero_grad()
        frames, lengths = model.encoder(waveforms, samples)
        loss = model.loss(frames, lengths, targets).cross_entropy
        loss.backward()
        results.append([frames, loss, *(p.grad for p in model.projector.parameters())])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (neighbors_too, r"hardware.attention=varlen does not work on cpu: its result differs from the reference by"),
        (broken, r"hardware.attention=varlen does not work on cpu: needs a GPU of another kind$"),
    ],
)
def test_a_kernel_that_is_wrong_or_fails_is_refused(tiny_models, monkeypatch, kernel, message):
    use(monkeypatch, varlen=kernel)
    with pytest.raises(UserError, match=message):
        choose_attention(build(tiny_models, "mlp"), "varlen")


def test_one_that_is_not_installed_is_refused(tiny_models, monkeypatch):
    use(monkeypatch)
    with pytest.raises(UserError, match=r"hardware.attention=flash_attn is not installed"):
        choose_attention(build(tiny_models, "mlp"), "flash_attn")


def test_auto_takes_the_first_that_works_and_else_the_padded_operation(tiny_models, monkeypatch):
    model = build(tiny_models, "mlp")
    assert choose_attention(model, "auto") == "sdpa", "kernels are for GPUs"
    monkeypatch.setattr(type(model), "device", type("OnGpu", (), {"type": "cuda", "__str__": lambda self: "cuda"})())
    monkeypatch.setattr(attention, "_probe", lambda model, kernel: probe(model, kernel))
    real, cpu = attention.__dict__["_set"], torch.device("cpu")

    def probe(model, kernel):
        real(model, kernel)
        rows = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
        boundaries = torch.tensor([0, 2, 5], dtype=torch.int32, device=cpu)
        return [(kernel or clip_by_clip)(rows, rows, rows, boundaries, 3, True, None)]

    use(monkeypatch, varlen=broken, flash_attn=clip_by_clip)
    assert choose_attention(model, "auto") == "flash_attn"
    assert model.encoder.kernel is model.decoder.kernel is clip_by_clip
    use(monkeypatch, varlen=neighbors_too, flash_attn=broken)
    assert choose_attention(model, "auto") == "sdpa"
    assert model.encoder.kernel is model.decoder.kernel is None


def test_a_kernel_is_tried_with_a_window_shorter_than_the_clips(tiny_models, monkeypatch):
    """Mistral's own is 4096 positions; the trial's clips are shorter."""
    model = build(tiny_models, "mlp")
    model.decoder = windowed = Decoder(decoder_zoo.make("mistral"), model.decoder.prompt, "mistral")
    windowed.module.config.sliding_window = 4096
    for layer in windowed.module.model.layers:
        layer.self_attn.sliding_window = 4096
    use(monkeypatch, varlen=clip_by_clip)
    assert choose_attention(model, "varlen") == "varlen"
    assert windowed.module.model.layers[0].self_attn.sliding_window == windowed.module.config.sliding_window == 4096
    use(monkeypatch, varlen=without_window)
    with pytest.raises(UserError, match=r"hardware.attention=varlen does not work on cpu: its result differs"):
        choose_attention(model, "varlen")


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shares_heads", [True, False])
def test_torch_varlen_is_called_as_its_signature_says(monkeypatch, causal, shares_heads, window):
    """The kernel itself needs a GPU; here its place is taken by a slow one that checks what it is given."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    signature = inspect.signature(varlen.varlen_attn)
    if not shares_heads:  # as in torch 2.11
        kept = [p for name, p in signature.parameters.items() if name != "enable_gqa"]
        signature = signature.replace(parameters=kept)

    def slow(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        a = given.arguments
        assert a["cu_seq_q"].dtype == a["cu_seq_k"].dtype == torch.int32
        assert torch.equal(a["cu_seq_q"], a["cu_seq_k"])
        assert a["max_q"] == a["max_k"]
        same_heads = a["query"].shape[1] == a["key"].shape[1]
        assert same_heads or a.get("enable_gqa", False)
        left, right = a["window_size"]
        assert right in (0, -1)
        where = (a["cu_seq_q"], a["max_q"], right == 0, a["scale"], None if left == -1 else left + 1)
        return clip_by_clip(a["query"], a["key"], a["value"], *where)

    slow.__signature__ = signature
    monkeypatch.setattr(varlen, "varlen_attn", slow)
    kernel = kernels.available_kernels()["varlen"]
    query, key, value = torch.randn(9, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    given = (query, key, value, torch.tensor([0, 4, 9], dtype=torch.int32), 5, causal, 0.3, window)
    torch.testing.assert_close(kernel(*given), clip_by_clip(*given))


def test_a_kernel_is_tried_in_the_precision_that_trains(tiny_models, monkeypatch):
    """A decoder that trains has weights in fp32 and computes in bf16, which is all that these kernels know."""

    def in_bf16(query, key, value, *where):
        if not query.dtype == key.dtype == value.dtype == torch.bfloat16:
            raise RuntimeError("only bf16")
        return clip_by_clip(query, key, value, *where)

    use(monkeypatch, varlen=in_bf16)
    model = build(tiny_models, "mlp", torch.bfloat16)
    model.decoder.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_attention(model, "varlen") == "varlen"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", ["none", "padding", "padding of each head", "scores"])
@pytest.mark.parametrize(("heads", "groups"), [(9, 3), (4, 4), (4, 1)])
def test_a_token_that_is_written_attends_as_with_the_stock_operation(heads, groups, mask, dtype):
    """Keys and values are views of larger tensors, whose other positions hold anything."""
    torch.manual_seed(0)
    query = torch.randn(3, heads, 1, 8).to(dtype)
    rooms = [torch.randn(3, groups, 20, width).to(dtype) for width in (8, 6)]  # some models have narrower values
    key, value = (room[:, :, :11] for room in rooms)
    seen = torch.arange(11) >= torch.tensor([0, 4, 10])[:, None, None, None]  # (B, 1, 1, L)
    masks = {
        "none": None,
        "padding": seen,
        "padding of each head": seen | (torch.rand(3, heads, 1, 11) < 0.3),
        "scores": torch.randn(3, 1, 1, 11).to(dtype),
    }
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = heads // groups, True
    given = (module, query, key, value, masks[mask])
    ours, _ = packed_attention(*given, scaling=0.3, dropout=0.0)
    stock, _ = sdpa_attention_forward(*given, scaling=0.3, dropout=0.0)
    assert ours.shape == (3, 1, heads, 6)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, stock, **({} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}))
