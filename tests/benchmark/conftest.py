"""Models of tiny widths, as the benchmark builds them."""

from __future__ import annotations

import pytest
import torch

from tiny_audio.benchmark.models import Sizes, build_frozen, random_batch
from tiny_audio.config import Config, HardwareConfig
from tiny_audio.training.build import start_accelerator


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return Sizes(
        encoder_layers=2,
        encoder_dim=64,
        encoder_heads=4,
        encoder_hidden=128,
        mel_bins=32,
        decoder_layers=2,
        decoder_dim=48,
        decoder_heads=4,
        decoder_kv_heads=2,
        decoder_head_dim=16,
        decoder_hidden=96,
        vocabulary=1100,  # no fewer than the pocket tokenizer has
    )


@pytest.fixture(scope="session")
def frozen(sizes):
    return build_frozen(sizes, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def batch(sizes, frozen):
    return random_batch(3, 2.0, frozen[1].prompt, sizes.vocabulary)


@pytest.fixture
def accelerator():
    return start_accelerator(Config(hardware=HardwareConfig(device="cpu", mixed_precision="no")))
