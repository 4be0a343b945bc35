"""Choose the attention of a run: the fastest that is available and gives the right result on this device."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..errors import ConfigError
from .kernels import Kernel, available_kernels
from .reading import short_windows
from .speech_llm import SpeechLLM
from .weights import first_line

logger = logging.getLogger(__name__)

TOLERANCE = 0.05  # relative; bf16 rounding gives 0.01, attention to a neighboring clip 0.2 and more


def choose_attention(model: SpeechLLM, name: str) -> str:
    """Set the attention of encoder and decoder as `hardware.attention` says, and return its name.

    A kernel is tried on two short clips, forward and backward. It is used only if it agrees with padded
    `scaled_dot_product_attention`; if no kernel does, `auto` uses the latter.

    Raises:
        ConfigError: the given attention is not installed, or does not work on this device.
    """
    _ = model.decoder.reading  # tried first: an unusable decoder is reported before data are read
    kernels = available_kernels()
    if name not in ("auto", "sdpa", *kernels):
        raise ConfigError(
            f"hardware.attention={name} is not installed; hardware.attention=auto takes what is available."
        )
    if name == "sdpa" or (name == "auto" and model.device.type != "cuda"):
        kernels = {}
    elif name != "auto":
        kernels = {name: kernels[name]}
    expected = _probe(model, None) if kernels else []
    for chosen, kernel in kernels.items():
        problem = _problem(model, kernel, expected)
        if problem is None:
            return chosen
        if name != "auto":
            raise ConfigError(f"hardware.attention={name} does not work on {model.device}: {problem}")
        logger.debug("Attention %s does not work on %s: %s", chosen, model.device, problem)
    _set(model, None)
    return "sdpa"


def _set(model: SpeechLLM, kernel: Kernel | None) -> None:
    model.encoder.kernel = model.decoder.kernel = kernel


def _probe(model: SpeechLLM, kernel: Kernel | None) -> list[Tensor]:
    """Return encoder frames, logits, and the gradient of the decoder's input, of two random clips."""
    _set(model, kernel)
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 6 * 1280, generator=generator) * 0.1
    waveforms[1, 2 * 1280 :] = 0
    frames, _ = model.encoder(waveforms.to(model.device), torch.tensor([6 * 1280, 2 * 1280]))
    row = torch.randn(12, model.decoder.decoder_dim, generator=generator).to(model.device, model.encoder.dtype)
    row.requires_grad_()
    with short_windows(model.decoder.module, 4):  # shorter than the clips
        logits = model.decoder.logits(row, [7, 5], torch.arange(12, device=model.device)).float()
    (gradient,) = torch.autograd.grad(logits.logsumexp(-1).sum(), row)
    return [frames.float(), logits.detach(), gradient.float()]


def _problem(model: SpeechLLM, kernel: Kernel, expected: list[Tensor]) -> str | None:
    """Return in one line what is wrong with a kernel; None if nothing is."""
    try:
        found = _probe(model, kernel)
    except Exception as error:  # any error of a kernel that does not support a device, precision or width
        return first_line(error)
    errors = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, expected, strict=True)]
    if all(error < TOLERANCE for error in errors):  # false for NaN
        return None
    return f"its result differs from the reference by {max(errors):.2g}"
