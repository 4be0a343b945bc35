"""A projector that mixes neighboring tokens: stacked frames, convolutions over time, two linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, gelu, glu, silu

from ...config import ProjectorConfig
from ...lengths import num_stacked_tokens
from ..device import upload
from ..dropout import dropout
from .base import Projected, Projector, stack_frames


class ConvProjector(Projector):
    """Convolution blocks between the stacked frames and the two layers of an `mlp` projector.

    A word piece rarely fits within one audio token. The other projectors, except the Q-Former, make each token from
    its own frames only. Here each block mixes `kernel_size` tokens: it is the convolution module of the Conformer
    (arXiv 2005.08100, with a layer norm instead of batch norm) and a feed-forward layer of twice the width.

    At 1280 -> 1024 with frame_stack 4, conv_dim 384, num_layers 2, hidden_dim 2048: 6,944,640 parameters. At 512 -> 576
    as in `experiment=laptop`, with frame_stack 2, num_layers 3, hidden_dim 1152: 4,625,216.

    Dimensions: see `base`; C width of the blocks. Frames (N, D) become tokens (T, W) with T = sum of
    n_i // frame_stack.
    """

    title = "Conv"

    def __init__(self, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> None:
        super().__init__(config, encoder_dim, decoder_dim)
        width = encoder_dim * config.frame_stack
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, config.conv_dim)
        self.blocks = nn.ModuleList(
            ConvBlock(config.conv_dim, config.kernel_size, config.dropout) for _ in range(config.num_layers)
        )
        self.linear_1 = nn.Linear(config.conv_dim, self.hidden_dim)
        self.linear_2 = nn.Linear(self.hidden_dim, decoder_dim)

    def num_tokens(self, num_frames: int) -> int:
        """See `Projector.num_tokens`."""
        return num_stacked_tokens(num_frames, self.config.frame_stack)

    def forward(self, frames: Tensor, lengths: list[int]) -> Projected:
        """See `Projector.forward`."""
        x = self.enter(self.norm(stack_frames(frames, lengths, self.config.frame_stack)))  # (T, C)
        apart = Apart([self.num_tokens(n) for n in lengths], self.config.kernel_size // 2, x.device)
        for block in self.blocks:
            x = block(x, apart)
        hidden = dropout(gelu(self.linear_1(x)), self.config.dropout, self.training)
        return Projected.without_experts(self.linear_2(hidden))

    def output_layer(self) -> list[Tensor]:
        """See `Projector.output_layer`."""
        return [self.linear_2.weight, self.linear_2.bias]


class Apart:
    """A layout of clips in one row with zeros between them, so that a convolution over the row never mixes two clips.

    Args:
        counts: tokens of each clip, adding up to T.
        gap: zeros after each clip.
        device: of the tokens.
    """

    def __init__(self, counts: list[int], gap: int, device: torch.device) -> None:
        shifts = torch.arange(len(counts)) * gap
        places = torch.arange(sum(counts)) + shifts.repeat_interleave(torch.tensor(counts))
        self.places = upload(places, device)
        self.length = sum(counts) + gap * max(0, len(counts) - 1)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve tokens (T, C) over time, each channel with its own kernel: `weight` is (C, 1, kernel size)."""
        row = x.new_zeros(self.length, x.shape[1]).index_copy(0, self.places, x)
        mixed = conv1d(row.T[None], weight, bias, padding=weight.shape[2] // 2, groups=len(weight))
        return mixed[0].T.index_select(0, self.places)


class ConvBlock(nn.Module):
    """A convolution module and a feed-forward layer, each with a residual connection.

    Args:
        width: C.
        kernel_size: tokens that are mixed; odd.
        dropout: applied after both parts, and within the second.
    """

    def __init__(self, width: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv_norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel_size, groups=width)
        self.mixed_norm = nn.LayerNorm(width)
        self.conv_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, apart: Apart) -> Tensor:
        """Map tokens (T, C) to tokens (T, C)."""
        opened = glu(self.gated(self.conv_norm(x)))
        assert self.depthwise.bias is not None
        mixed = apart.convolve(opened, self.depthwise.weight, self.depthwise.bias)
        x = x + self._drop(self.conv_out(silu(self.mixed_norm(mixed))))
        return x + self._drop(self.down(self._drop(silu(self.up(self.norm(x))))))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)
