"""Which precision a device gets."""

from __future__ import annotations

import logging

import pytest
import torch

from tiny_audio.config import Config, HardwareConfig
from tiny_audio.model import device
from tiny_audio.model.device import choose_precision
from tiny_audio.training.build import start_accelerator

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(False, False, "no"), (True, False, "bf16"), (False, True, "bf16"), (True, True, "bf16")],
)
def test_auto_is_bf16_on_a_cpu_that_multiplies_it(avx512_bf16, amx, expected, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("no", CPU) == "no"
    device._warn_of_software.cache_clear()
    assert choose_precision("bf16", CPU) == "bf16", "slowly, where it was asked for"
    assert ("in software" in caplog.text) == (expected == "no")
    caplog.clear()
    caplog.set_level(logging.INFO)
    accelerator = start_accelerator(Config(hardware=HardwareConfig(device="cpu")))
    assert accelerator.mixed_precision == expected
    native = "Device: cpu, precision: bf16 (which this CPU multiplies natively)"
    assert caplog.messages[0] == (native if expected == "bf16" else "Device: cpu, precision: fp32")


def test_apple_gpus_stay_at_fp32():
    assert choose_precision("auto", torch.device("mps")) == "no"
