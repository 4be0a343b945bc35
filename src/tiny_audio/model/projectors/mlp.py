"""The plain projector: stack frames, two linear layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from ...config import ProjectorConfig
from ...lengths import num_stacked_tokens
from ..dropout import dropout
from .base import Projected, Projector, stack_frames


class MLPProjector(Projector):
    """`linear_1 -> GELU -> linear_2` on `frame_stack` stacked frames, as in GLM-ASR's own projector.

    Layout and parameter names are exactly those of `GlmAsrMultiModalProjector`, so that encoder, projector and decoder
    together are a native checkpoint. At 1280 -> 1024 with hidden_dim 2048 and frame_stack 4: 5120 -> 2048 -> 1024,
    12,585,984 parameters. Dropout acts between the layers.

    Dimensions: see `base`; frames (N, D) become tokens (T, W) with T = sum of n_i // frame_stack.
    """

    title = "MLP"

    def __init__(self, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> None:
        super().__init__(config, encoder_dim, decoder_dim)
        self.linear_1 = nn.Linear(encoder_dim * config.frame_stack, self.hidden_dim)
        self.linear_2 = nn.Linear(self.hidden_dim, decoder_dim)

    def num_tokens(self, num_frames: int) -> int:
        """See `Projector.num_tokens`."""
        return num_stacked_tokens(num_frames, self.config.frame_stack)

    def forward(self, frames: Tensor, lengths: list[int]) -> Projected:
        """See `Projector.forward`."""
        stacked = stack_frames(frames, lengths, self.config.frame_stack)
        hidden = dropout(gelu(self.linear_1(stacked)), self.config.dropout, self.training)
        return Projected.without_experts(self.linear_2(hidden))

    def output_layer(self) -> list[Tensor]:
        """See `Projector.output_layer`."""
        return [self.linear_2.weight, self.linear_2.bias]
