"""Waveforms to log-mel spectrograms.

Dimensions: B clips, S samples, M mel bins, L mel frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .lengths import HOP_LENGTH, N_FFT, SAMPLE_RATE, num_mel_frames


def surround(waveforms: Tensor, before: list[int], size: int) -> Tensor:
    """Put silence before waveforms (B, S), `before` samples of each, and after them up to `size` samples."""
    after = size - waveforms.shape[1]  # below 0: `pad` cuts zeros off
    if not any(before):
        return pad(waveforms, (0, after))
    return torch.stack([pad(row, (start, after - start)) for row, start in zip(waveforms, before, strict=True)])


class LogMel(nn.Module):
    """Whisper's log-mel spectrogram (arXiv 2212.04356, section 2.2) of a padded batch, on the batch's device.

    Each clip's result is the same as for that clip alone: it is reflected at its own end, not at the end of
    the batch, and its dynamic range is clamped to its own maximum. Equal to
    `transformers.WhisperFeatureExtractor` without padding.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, num_mel_bins: int) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(1 + N_FFT // 2, num_mel_bins, 0.0, 8000.0, SAMPLE_RATE, "slaney", "slaney")
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Compute the spectrogram.

        Args:
            waveforms: (B, S) float32, zero beyond each clip's length.
            lengths: (B,) samples of each clip; more than 200, multiples of 160.

        Returns:
            (B, M, L) float32, zero beyond each clip's `lengths // 160` frames.
        """
        half = N_FFT // 2
        num_frames = num_mel_frames(waveforms.shape[1])
        # Sample i of the clip is at half + i. A position after the end reads the sample mirrored at the last
        # one.
        position = torch.arange(-half, waveforms.shape[1] + half, device=waveforms.device).abs()[None]
        last = lengths[:, None] - 1
        mirrored = torch.where(position > last, 2 * last - position, position)
        padded = waveforms.gather(1, mirrored.clamp_min(0)) * (mirrored >= 0)
        spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=self.window, center=False, return_complex=True)
        power = spectrum[..., :num_frames].abs().square()
        log_mel = (self.filters @ power).clamp_min(1e-10).log10()
        real = (torch.arange(num_frames, device=lengths.device) < (lengths // HOP_LENGTH)[:, None])[:, None]
        peak = log_mel.masked_fill(~real, -torch.inf).amax((1, 2), keepdim=True)
        return ((torch.maximum(log_mel, peak - 8.0) + 4.0) / 4.0) * real
