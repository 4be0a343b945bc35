"""What the encoder hears differently each time: loudness, noise, vocal tract length, gaps.

Dimensions: B clips, S samples, M mel bins, L mel frames.
"""

from __future__ import annotations

import torch
from torch import Tensor


def noisy(waveforms: Tensor) -> Tensor:
    """Scale each clip of (B, S) by -14 to +3 dB; half of them get noise, white to brown, at 5 to 35 dB."""
    clips, samples = waveforms.shape
    noise = torch.fft.rfft(torch.randn(clips, samples))
    slope = torch.rand(clips, 1)  # of the amplitude over the frequency: 0 white, 0.5 pink, 1 brown
    noise = torch.fft.irfft(noise * torch.arange(1, noise.shape[1] + 1) ** -slope, n=samples)
    decibels = torch.empty(clips, 1).uniform_(5.0, 35.0)
    decibels[torch.rand(clips, 1) < 0.5] = 90.0
    level = waveforms.square().mean(1, keepdim=True).sqrt() / noise.square().mean(1, keepdim=True).sqrt()
    gain = 10 ** (torch.empty(clips, 1).uniform_(-14.0, 3.0) / 20)
    return (waveforms + noise * level * 10 ** (-decibels / 20)) * gain


def warp_frequencies(mel: Tensor, most: float = 0.12) -> Tensor:
    """Stretch the mel axis of (B, M, L) by up to `most` either way, and tilt it by up to 0.2 (8 dB).

    The stretch is vocal tract length perturbation (Jaitly and Hinton, 2013), done on mel bins.
    """
    bins = mel.shape[1]
    factor = 1 + torch.empty(len(mel), 1).uniform_(-most, most)
    position = (torch.arange(bins) * factor).clamp(0, bins - 1)  # (B, M): where each new bin is read
    lower = position.floor().long().clamp(max=bins - 2)
    share = (position - lower)[..., None]
    index = lower[..., None].expand(-1, -1, mel.shape[2])
    warped = mel.gather(1, index) * (1 - share) + mel.gather(1, index + 1) * share
    tilt = torch.empty(len(mel), 1, 1).uniform_(-0.2, 0.2)
    return warped + tilt * torch.linspace(-1, 1, bins)[None, :, None]


def mask_spectrogram(mel: Tensor, widest: int) -> Tensor:
    """Set two bands of bins and two of frames of each clip of (B, M, L) to its mean (arXiv 1904.08779)."""
    clips, bins, frames = mel.shape
    hidden = torch.zeros(mel.shape, dtype=torch.bool)
    for _ in range(2):
        for axis, size in ((1, bins), (2, frames)):
            width = torch.randint(0, widest + 1, (clips, 1))
            start = (torch.rand(clips, 1) * (size - width)).long()
            place = torch.arange(size)
            band = (place >= start) & (place < start + width)
            hidden |= band[:, :, None] if axis == 1 else band[:, None]
    return torch.where(hidden, mel.mean((1, 2), keepdim=True), mel)
