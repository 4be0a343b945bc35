"""A window-level Q-Former: learned queries read the frames of each window."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ...config import ProjectorConfig
from ...errors import ConfigError
from ..device import upload
from ..dropout import dropout
from .base import Projected, Projector

ROPE_BASE = 10_000.0


class QFormerProjector(Projector):
    """Queries that attend to the encoder frames window by window (BLIP-2's Q-Former, arXiv 2301.12597; the number of
    tokens grows with the audio as in SALMONN, arXiv 2310.13289).

    The same `num_queries` learned queries read each window of `window_frames` frames of a clip, through pre-norm layers
    of self-attention, cross-attention and a feed-forward part. The queries are spread evenly over the window: query i
    is at frame (i + 1/2) * window_frames / num_queries - 1/2. Both attentions use these positions, and those of the
    frames, by rotary embedding (arXiv 2104.09864); a query has no other way to know a frame's position in the window.
    A clip's last window is mostly shorter. Queries beyond its end are left out, so a clip of n frames becomes
    n * num_queries // window_frames tokens.

    The layers are as wide as the decoder; `hidden_dim` is the width of their feed-forward part. At 1280 -> 1024 with 2
    layers, 8 heads and hidden_dim 2048: 27,333,632 parameters. Dropout acts on the output of each part.

    Dimensions: see `base`; V windows, Q queries and F frames of a window.

    Raises:
        ConfigError: `num_heads` does not divide the decoder's width into heads of an even width.
    """

    title = "Q-Former"

    def __init__(self, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> None:
        super().__init__(config, encoder_dim, decoder_dim)
        if decoder_dim % (2 * config.num_heads):
            raise ConfigError(
                f"model.projector_config.num_heads={config.num_heads} does not divide the decoder's width, which is "
                f"{decoder_dim}, into an even width for each head."
            )
        self.queries = nn.Parameter(torch.randn(config.num_queries, decoder_dim))
        self.layers = nn.ModuleList(
            QFormerLayer(config, encoder_dim, decoder_dim, self.hidden_dim) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(decoder_dim)
        self.linear = nn.Linear(decoder_dim, decoder_dim)

    def num_tokens(self, num_frames: int) -> int:
        """See `Projector.num_tokens`."""
        return num_frames * self.config.num_queries // self.config.window_frames

    def forward(self, frames: Tensor, lengths: list[int]) -> Projected:
        """See `Projector.forward`."""
        num_queries, window = self.config.num_queries, self.config.window_frames
        device, head_dim = frames.device, self.decoder_dim // self.config.num_heads
        sizes = torch.tensor([min(window, n - start) for n in lengths for start in range(0, n, window)])  # (V,)
        place = torch.arange(window)
        starts = (sizes.cumsum(0) - sizes)[:, None]
        rows = starts + place.clamp(max=sizes[:, None] - 1)  # (V, F); past a clip's end its last frame, masked
        real_queries = torch.arange(num_queries) < sizes[:, None] * num_queries // window  # (V, Q)
        read_frames = upload((place < sizes[:, None])[:, None, None], device)  # (V, 1, 1, F)
        read_queries = upload((real_queries | (torch.arange(num_queries) == 0))[:, None, None], device)  # at least one
        kept = upload(real_queries.flatten().nonzero()[:, 0], device)

        windows = frames.index_select(0, upload(rows.flatten(), device)).unflatten(0, rows.shape)  # (V, F, D)
        query_places = (torch.arange(num_queries, device=device) + 0.5) * window / num_queries - 0.5
        query_angles = rotary_angles(query_places, head_dim)
        frame_angles = rotary_angles(torch.arange(window, device=device), head_dim)
        hidden = self.queries.expand(len(sizes), -1, -1)  # (V, Q, W)
        for layer in self.layers:
            hidden = layer(hidden, windows, query_angles, frame_angles, read_queries, read_frames)
        tokens = self.linear(self.norm(hidden.flatten(0, 1).index_select(0, kept)))
        return Projected.without_experts(tokens)

    def output_layer(self) -> list[Tensor]:
        """See `Projector.output_layer`."""
        return [self.linear.weight, self.linear.bias]


class QFormerLayer(nn.Module):
    """Self-attention among a window's queries, attention to its frames, feed-forward; each part is residual."""

    def __init__(self, config: ProjectorConfig, encoder_dim: int, width: int, hidden_dim: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = RotaryAttention(width, width, config.num_heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = RotaryAttention(width, encoder_dim, config.num_heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden_dim)
        self.down = nn.Linear(hidden_dim, width)

    def forward(
        self,
        hidden: Tensor,
        windows: Tensor,
        query_angles: Tensor,
        frame_angles: Tensor,
        read_queries: Tensor,
        read_frames: Tensor,
    ) -> Tensor:
        """Apply the layer.

        Args:
            hidden: (V, Q, W).
            windows: (V, F, D).
            query_angles, frame_angles: (Q, head width / 2) and (F, head width / 2).
            read_queries, read_frames: (V, 1, 1, Q) and (V, 1, 1, F) bool, False at padding.

        Returns:
            (V, Q, W).
        """
        read = self.self_norm(hidden)
        hidden = hidden + self._drop(self.self_attention(read, read, query_angles, query_angles, read_queries))
        read = self.cross_norm(hidden)
        hidden = hidden + self._drop(self.cross_attention(read, windows, query_angles, frame_angles, read_frames))
        return hidden + self._drop(self.down(gelu(self.up(self.feed_forward_norm(hidden)))))

    def _drop(self, added: Tensor) -> Tensor:
        return dropout(added, self.dropout, self.training)


class RotaryAttention(nn.Module):
    """Multi-head attention with rotary positions (arXiv 2104.09864) for queries and keys."""

    def __init__(self, width: int, key_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(key_width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor, read: Tensor, hidden_angles: Tensor, read_angles: Tensor, mask: Tensor) -> Tensor:
        """Attend from (V, Q, W) to (V, K, key width), where `mask` (V, 1, 1, K) is true; return (V, Q, W)."""
        query = self._heads(self.query(hidden))
        key, value = map(self._heads, self.key_value(read).chunk(2, -1))
        query, key = rotate(query, hidden_angles), rotate(key, read_angles)
        return self.output(scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2))

    def _heads(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (V, heads, places, head width)


def rotary_angles(places: Tensor, head_dim: int) -> Tensor:
    """Return the angles (places, head_dim / 2) that turn each pair of a head's units at each place."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2, device=places.device) / head_dim)
    return places[:, None] * frequencies


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turn (V, heads, places, head width) by angles (places, head width / 2)."""
    cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
