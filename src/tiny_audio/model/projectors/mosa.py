"""A dense mixture of simple adapters: every expert reads every token, and a softmax gate weighs the experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ...config import ProjectorConfig
from ...lengths import num_stacked_tokens
from ..dropout import dropout
from .base import Projected, Projector, stack_frames


class MOSAProjector(Projector):
    """Mixture of simple adapters (MOSA, arXiv 2508.18998) on `frame_stack` stacked frames.

    Token x becomes the sum over experts e of g_e * (down_e(gelu(up_e(x)))), with gates g = softmax(gate(x)). As
    down_e is linear, the gate can be applied before it. All experts together are then two plain matrix products, with
    the hidden units of all experts side by side.

    At 1280 -> 1024 with 4 experts of width 512 and frame_stack 4: 5120 -> 4 x 512 -> 1024 and a gate 5120 -> 4,
    12,609,540 parameters, all active. Dropout acts on the hidden units.

    Dimensions: see `base`; H units of an expert. Frames (N, D) become tokens (T, W) with T = sum of n_i // frame_stack.
    """

    title = "MOSA"

    def __init__(self, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> None:
        super().__init__(config, encoder_dim, decoder_dim)
        self.num_experts = config.num_experts or 4
        width = encoder_dim * config.frame_stack
        self.gate = nn.Linear(width, self.num_experts)
        self.up = nn.Linear(width, self.num_experts * config.expert_dim)
        self.down = nn.Linear(self.num_experts * config.expert_dim, decoder_dim, bias=False)
        self.down_bias = nn.Parameter(torch.zeros(self.num_experts, decoder_dim))
        with torch.no_grad():  # each expert is initialized as its own layer, not as a part of a wider one
            self.down.weight.mul_(self.num_experts**0.5)

    def matrices(self) -> list[Tensor]:
        """Return the experts' weights."""
        return [self.up.weight, self.down.weight]

    def num_tokens(self, num_frames: int) -> int:
        """See `Projector.num_tokens`."""
        return num_stacked_tokens(num_frames, self.config.frame_stack)

    def forward(self, frames: Tensor, lengths: list[int]) -> Projected:
        """See `Projector.forward`."""
        stacked = stack_frames(frames, lengths, self.config.frame_stack)  # (T, frame_stack * D)
        gates = self.gate(stacked).float().softmax(-1)  # (T, E)
        hidden = gelu(self.up(stacked)).unflatten(1, (self.num_experts, -1))  # (T, E, H)
        hidden = dropout(hidden, self.config.dropout, self.training) * gates[..., None].to(hidden.dtype)
        tokens = self.down(hidden.flatten(1)) + gates @ self.down_bias
        return Projected(tokens, gates.new_zeros(()), gates.detach().sum(0))

    def output_layer(self) -> list[Tensor]:
        """See `Projector.output_layer`."""
        return [self.down.weight, self.down_bias]
