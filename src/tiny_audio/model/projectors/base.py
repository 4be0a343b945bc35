"""The base class of all projectors.

Dimensions: N encoder frames of all clips together, T audio tokens of all clips together, D encoder width,
W decoder width, E experts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...config import ProjectorConfig
from ..device import upload


@dataclass
class Projected:
    """What a projector returns.

    Attributes:
        tokens: (T, W), the clips one after another.
        auxiliary: a scalar that is added to the mean loss of a target token; 0 if there is nothing to add.
        expert_usage: (E,) fp32, the tokens that each expert read, counted by their shares, for the log; (0,) without
            experts.
    """

    tokens: Tensor
    auxiliary: Tensor
    expert_usage: Tensor

    @classmethod
    def without_experts(cls, tokens: Tensor) -> Projected:
        """Return tokens of a projector without experts."""
        return cls(tokens, tokens.new_zeros((), dtype=torch.float32), tokens.new_zeros(0, dtype=torch.float32))


class Projector(nn.Module, ABC):
    """Maps packed encoder frames to packed audio tokens; padding never enters it.

    Args:
        config: the settings.
        encoder_dim: D.
        decoder_dim: W.

    Attributes:
        title: its common name.
        num_experts: E; 0 if there are none.
        config: the settings, with the `hidden_dim` that is used.
        hidden_dim: if none is set, twice the decoder's width, as in GLM-ASR's own projector; a native checkpoint can
            hold no wider one.
    """

    title: str
    num_experts = 0

    def __init__(self, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> None:
        super().__init__()
        self.hidden_dim = config.hidden_dim or 2 * decoder_dim
        self.config = replace(config, hidden_dim=self.hidden_dim)
        self.encoder_dim = encoder_dim
        self.decoder_dim = decoder_dim

    def matrices(self) -> list[Tensor]:
        """Return the weights (..., m, n) that are products with the input: what Muon moves, without gates."""
        return [module.weight for module in self.modules() if isinstance(module, nn.Linear)]

    @abstractmethod
    def num_tokens(self, num_frames: int) -> int:
        """Return how many audio tokens a clip of `num_frames` encoder frames has."""

    @abstractmethod
    def forward(self, frames: Tensor, lengths: list[int]) -> Projected:
        """Project the encoder frames of clips to audio tokens.

        Args:
            frames: (N, D), the clips one after another.
            lengths: frames of each clip, summing to N.
        """

    @abstractmethod
    def output_layer(self) -> list[Tensor]:
        """Return the weights of the last layer, biases included: multiplied by a number, they multiply the output."""

    @torch.no_grad()
    def calibrate(self, clips: Iterable[tuple[Tensor, list[int]]], target_rms: float) -> float:
        """Scale the output for these clips to the root mean square of the decoder's embeddings.

        A frozen decoder needs inputs of the scale of its own embeddings. The gain is folded into the weights, which
        needs no norm layer; the native GLM-ASR projector has none.

        Args:
            clips: frames (N, D) and lengths, as `forward` takes them; without clips, nothing is changed.
            target_rms: root mean square that the output must have.

        Returns:
            The gain: by what the output was multiplied.
        """
        training = self.training
        self.eval()
        squares, count = 0.0, 0
        for frames, lengths in clips:
            tokens = self(frames, lengths).tokens.double()
            squares, count = squares + float(tokens.square().sum()), count + tokens.numel()
        self.train(training)
        readable = count and math.isfinite(squares)
        gain = target_rms / max(math.sqrt(squares / count), 1e-12) if readable else 1.0
        for weight in self.output_layer():
            weight.mul_(gain)
        return gain


def stack_frames(frames: Tensor, lengths: list[int], factor: int) -> Tensor:
    """Concatenate each `factor` consecutive frames of a clip; an incomplete stack at its end is dropped.

    Args:
        frames: (N, D), the clips one after another.
        lengths: frames of each clip.
        factor: frames of a stack.

    Returns:
        (sum of lengths[i] // factor, factor * D).
    """
    if any(n % factor for n in lengths):
        starts = torch.tensor([0, *lengths]).cumsum(0)[:-1].tolist()
        kept = [torch.arange(s, s + n // factor * factor) for s, n in zip(starts, lengths, strict=True)]
        frames = frames.index_select(0, upload(torch.cat(kept), frames.device))
    return frames.reshape(-1, factor * frames.shape[1])
