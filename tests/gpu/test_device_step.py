"""A step on a GPU: the figures of the CPU, and a host that never waits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import decoder_zoo
from tiny_audio.benchmark.variants import Ours
from tiny_audio.config import PROJECTORS, Config, HardwareConfig, ProjectorConfig
from tiny_audio.data.synthetic import synthetic_batch
from tiny_audio.model.attention import choose_attention
from tiny_audio.model.decoder import load_decoder
from tiny_audio.model.graphed import GraphedRows
from tiny_audio.model.kernels import available_kernels
from tiny_audio.model.projectors.moe import MoEProjector
from tiny_audio.model.reading import pad_left
from tiny_audio.model.writing import Rows
from tiny_audio.training.build import start_accelerator
from tiny_models import build

pytestmark = pytest.mark.gpu


@pytest.fixture
def batch():
    """Clips of 1.2, 0.4 and 2.6 s."""
    return synthetic_batch([1.2, 0.4, 2.6], [[5, 6, 2], [7, 2], [8, 9, 10, 11, 2]])


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.cpu() - theirs).norm() / theirs.norm().clamp_min(1e-9))


@pytest.mark.parametrize("kind", PROJECTORS)
def test_loss_and_gradients_are_those_of_the_cpu(kind, tiny_models, batch, device):
    """In fp32; convolutions may use TensorFloat-32."""
    results = []
    for where in (torch.device("cpu"), device):
        model = build(tiny_models, kind).to(where)
        loss = model(batch)
        (loss.objective / loss.num_targets).backward()
        results.append((loss, {name: weight.grad for name, weight in model.projector.named_parameters()}))
    (expected, gradients), (found, others) = results
    assert found.cross_entropy.item() == pytest.approx(expected.cross_entropy.item(), rel=2e-3)
    assert found.auxiliary.item() == pytest.approx(expected.auxiliary.item(), rel=2e-2, abs=1e-6)
    for name, gradient in gradients.items():
        assert relative(others[name], gradient) < 0.03, name


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gemma2", "qwen3_5", "lfm2", "recurrent_gemma"])
def test_decoders_of_other_classes_read_a_batch_as_they_read_each_clip(name, tiny_models, device, tmp_path):
    """In bf16, as they run: with a window, with capped scores, with a state that is carried along."""
    decoder = load_decoder(str(decoder_zoo.save(name, tmp_path)), None, "Transcribe.", torch.bfloat16).to(device)
    assert decoder.reading.packed == (decoder_zoo.ZOO[name].padded is None)
    model = build(tiny_models, "mlp", torch.bfloat16).to(device)
    model.decoder = decoder
    choose_attention(model, "auto")
    torch.manual_seed(1)
    clips = [(torch.randn(n, 32) * decoder.embedding_rms).to(device, torch.bfloat16) for n in (40, 25, 31)]
    with torch.no_grad():
        together = decoder.logits(torch.cat(clips), [40, 25, 31], torch.arange(96, device=device))
        alone = [decoder.logits(clip, [len(clip)], torch.arange(len(clip), device=device)) for clip in clips]
    assert relative(together.float(), torch.cat(alone).float().cpu()) < 0.05
    assert len(decoder.generate(clips, [4, 4, 4])) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_of_a_step_of_decoding_writes_what_the_step_itself_writes(tiny_models, device, dtype):
    """Greedily, and rows that continue any row of their clip, as in a beam search."""
    if device.type != "cuda":
        pytest.skip("graphs are for GPUs")
    decoder = build(tiny_models, "mlp", dtype).to(device).decoder
    torch.manual_seed(1)
    lengths, limits = [40, 25, 31], [9, 60, 30]
    clips = [(torch.randn(n, 32) * decoder.embedding_rms).to(device, dtype) for n in lengths]
    expected = decoder.generate(clips, limits)
    decoder.use_cuda_graph(True)
    assert decoder.reading.graphed
    if dtype == torch.float32:
        assert decoder.generate(clips, limits) == expected
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=dtype != torch.float32):
        plain = Rows(decoder.module, *pad_left(clips), lengths)
        graphed = GraphedRows(decoder.module, *pad_left(clips), lengths, 7, 5)
        for number, origins in enumerate(([0, 0, 1, 1, 2, 2], [1, 1, 3, 2, 4, 4], [1, 0, 2, 5, 4], [0, 1, 4], [2])):
            tokens = torch.arange(3, 3 + len(origins), device=device) + 7 * number
            for rows in (plain, graphed):
                rows.step(tokens, origins)
            assert relative(graphed.logits.float(), plain.logits.float().cpu()) < 0.03
    assert torch.randn(3, device=device).isfinite().all(), "the generator is as it was"


@pytest.mark.parametrize("name", ["auto", *available_kernels()])
def test_each_kernel_agrees_with_the_padded_operation(name, tiny_models, device):
    if device.type != "cuda":
        pytest.skip("kernels are for GPUs")
    model = build(tiny_models, "mlp", torch.bfloat16).to(device)
    assert choose_attention(model, name) != "sdpa"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_grouped_product_of_experts_is_the_dense_one(precision, device):
    """Experts that no token chose included: what is there of their gradient must be zero."""
    torch.manual_seed(0)
    settings = ProjectorConfig(num_experts=8, num_experts_per_token=2, expert_dim=64, dropout=0.0)
    projector = MoEProjector(settings, 64, 48).to(device)
    stacked = torch.randn(40, 256, device=device)
    weights = torch.rand(40, 2, device=device)
    chosen = torch.tensor([[0, 3], [3, 6]], device=device).repeat(20, 1)
    results = []
    for read in (projector.read_densely, projector._read):
        projector.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = read(stacked, weights, chosen)
        tokens.float().square().sum().backward()
        results.append([tokens.float().detach().cpu(), *(getattr(projector, n).grad.cpu() for n in ("up", "down"))])
    for expected, found in zip(*results, strict=True):
        assert torch.isfinite(found).all()
        assert relative(found, expected) < (0.03 if precision == "bf16" else 1e-3)
    for unused in (1, 2, 4, 5, 7):
        assert not results[1][1][unused].any()
        assert not results[1][2][unused].any()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")  # said once, by what switches it on
@pytest.mark.parametrize("kind", PROJECTORS)
def test_the_host_never_waits_for_the_device_in_a_step(kind, tiny_models, batch, device, tmp_path, monkeypatch):
    """torch raises at whatever would make it wait."""
    monkeypatch.chdir(tmp_path)
    accelerator = start_accelerator(Config(hardware=HardwareConfig(device=str(device))))
    dtype = torch.float32 if accelerator.mixed_precision == "no" else torch.bfloat16
    model = build(tiny_models, kind, dtype).to(device).train()
    model.audio_token_dropout = 0.2
    choose_attention(model, "auto")
    if device.type == "cuda":
        batch = batch.pin_memory()
    ours = Ours(model, batch, accelerator)
    ours.step()  # what a first use sets up may wait
    before = [weight.detach().clone() for weight in ours.trainer.weights]
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            ours.step()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert any(not torch.equal(old, new) for old, new in zip(before, ours.trainer.weights, strict=True))
    assert not list(Path().iterdir())
