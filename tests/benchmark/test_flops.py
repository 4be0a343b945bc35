"""The arithmetic of a step, against torch's own counter on a step that really runs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tiny_audio.benchmark.models import PUBLISHED, build_model
from tiny_audio.benchmark.variants import Ours, Plain, Usual
from tiny_audio.config import PROJECTORS, ProjectorConfig
from tiny_audio.model.flops import Load, Widths, projector_flops, step_flops
from tiny_audio.model.projectors import build_projector
from widths import widths_of


@pytest.mark.parametrize("kind", [Usual, Plain, Ours])
def test_a_whole_step_equals_what_torch_counts(kind, frozen, batch, accelerator, sizes):
    """Decomposed attention, which torch can count on a CPU; the spectrogram's Fourier transform is in neither."""
    model = build_model("mlp", *frozen, batch)
    variant = kind(model, batch, accelerator)
    assert model.decoder.reading.packed, "found out before the counting begins"
    with variant.installed(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        variant.step()
    expected = counter.get_total_flops()
    widths = Widths.of(model)
    assert widths == widths_of(sizes)
    assert sum(step_flops(widths, variant.load, model.projector).values()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", [name for name in PROJECTORS if name != "moe"])
def test_a_projector_equals_what_torch_counts(kind):
    projector = build_projector(kind, ProjectorConfig(hidden_dim=64, expert_dim=32, num_heads=2), 48, 64)
    lengths = [300, 128, 40]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        projector(torch.randn(sum(lengths), 48), lengths).tokens.sum().backward()
    # Of a convolution of each channel by itself torch counts the backward pass as if all channels were mixed.
    counted = sum(n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" not in str(name))
    assert projector_flops(projector, lengths) == pytest.approx(counted, rel=0.02)


def test_sparse_experts_cost_what_is_active():
    """torch does not count its grouped product; two of eight experts cost a quarter of a dense mixture of eight."""
    config = ProjectorConfig(num_experts=8)
    sparse, dense = (build_projector(kind, config, 1280, 1024) for kind in ("moe", "mosa"))
    assert projector_flops(sparse, [600]) == pytest.approx(projector_flops(dense, [600]) / 4, rel=0.01)


def test_sixteen_clips_of_twelve_seconds_at_the_published_widths():
    """20 TFLOP, of which the encoder has two thirds: worked out by hand when the project began."""
    frames, positions = 16 * 600, 16 * 212
    load = Load(2 * frames, 2 * frames, frames, 16 * 600**2, [600] * 16, positions, 16 * 212**2, 16 * 43)
    projector = build_projector("mlp", ProjectorConfig(), 1280, 1024)
    flops = step_flops(widths_of(PUBLISHED), load, projector)
    assert sum(flops.values()) == pytest.approx(20.1e12, rel=0.02)
    assert flops["encoder"] == pytest.approx(13.1e12, rel=0.02)
    assert flops["head and loss"] == pytest.approx(0.43e12, rel=0.02)
