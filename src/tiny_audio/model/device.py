"""Choose the device and the precision of a run."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from ..errors import ConfigError

logger = logging.getLogger(__name__)

# Of dense matrix products in bf16 and fp16, from the makers' data sheets. The first name within the device's applies.
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "A40": 150,
    "A10G": 70,
    "A10": 125,
    "L4": 121,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "V100": 125,
    "T4": 65,
}
FROZEN_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def choose_device(name: str) -> torch.device:
    """Return the device of `hardware.device`; `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: the device that was asked for is not there.
    """
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"hardware.device={name}: no CUDA device can be used here; hardware.device=auto takes what is available."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"hardware.device={name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("hardware.device=mps: there is no Apple GPU that can be used here.")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return `bf16`, `fp16` or `no` for `hardware.mixed_precision`; `auto` is bf16 if the device multiplies it.

    Weights that train are fp32 in any case.

    Raises:
        ConfigError: the device does not support the precision that was asked for.
    """
    if name == "auto":
        return "bf16" if multiplies_bf16(device) else "no"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("hardware.mixed_precision=fp16 needs a GPU; use bf16 or no on the CPU.")
    if name == "bf16" and device.type == "cuda" and not multiplies_bf16(device):
        raise ConfigError("hardware.mixed_precision=bf16: this GPU does not have bf16; use fp16 or no.")
    if name == "bf16" and device.type == "cpu" and not multiplies_bf16(device):
        _warn_of_software()
    return name


@cache
def _warn_of_software() -> None:
    logger.warning("This CPU has no instructions for bf16: it computes bf16 in software, many times slower than fp32.")


def peak_flops(given_tflops: float | None, device: torch.device, precision: str) -> float | None:
    """Return the peak operations a second of a device, or None if it is not known.

    Args:
        given_tflops: `hardware.peak_tflops`; used unchanged.
        device: its name is looked up.
        precision: bf16, fp16 or no; in fp32 the peak is not known.
    """
    if given_tflops is not None:
        return 1e12 * given_tflops
    if device.type != "cuda" or precision == "no":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * tflops for known, tflops in PEAK_TFLOPS.items() if known in name), None)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 in hardware: a GPU, or a CPU with AVX512-BF16 or AMX.

    Other CPUs convert it to fp32 and back, which is slower than fp32 itself.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to `device` without making the host wait for the device's earlier work.

    Only a copy from page-locked memory does not wait; pinning a few kilobytes costs microseconds.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
