"""What `Widths.of` counts in a model, computed from the sizes of its configuration."""

from __future__ import annotations

from tiny_audio.benchmark.models import Sizes
from tiny_audio.model.flops import Widths


def widths_of(sizes: Sizes) -> Widths:
    query, key = (heads * sizes.decoder_head_dim for heads in (sizes.decoder_heads, sizes.decoder_kv_heads))
    encoder_layer = 4 * sizes.encoder_dim**2 + 2 * sizes.encoder_dim * sizes.encoder_hidden
    decoder_layer = sizes.decoder_dim * (2 * query + 2 * key + 3 * sizes.decoder_hidden)
    return Widths(
        mel_bins=sizes.mel_bins,
        encoder_dim=sizes.encoder_dim,
        encoder_linear=sizes.encoder_layers * encoder_layer,
        encoder_attention=sizes.encoder_layers * sizes.encoder_dim,
        decoder_dim=sizes.decoder_dim,
        vocabulary=sizes.vocabulary,
        decoder_linear=sizes.decoder_layers * decoder_layer,
        decoder_trained=0,
        decoder_attention=sizes.decoder_layers * query,
    )
