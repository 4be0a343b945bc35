"""Floating-point operations of a training step, by arithmetic: a multiplication and an addition are two.

Counted are the matrix products, as `torch.utils.flop_counter` counts them: attention over the whole square, although
causal kernels skip half of it (2 % of the decoder at clips of 12 s), and its backward pass without the products that
kernels compute anew. Norms, activations and the Fourier transform are left out.

The frozen models have no gradients of weights: the encoder runs forward only, and the decoder's backward pass costs
what its forward pass costs, in linear layers, and twice as much in attention. The projector's first layers
need no gradient of the frames they read.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..audio import N_FFT
from ..model.projectors import Projector
from ..model.projectors.mlp import MLPProjector
from ..model.projectors.moe import MoEProjector
from ..model.projectors.mosa import MOSAProjector
from ..model.projectors.qformer import QFormerProjector
from .models import Sizes


@dataclass(frozen=True)
class Load:
    """What a way of computing the step runs on, padding included where it computes padding.

    Attributes:
        mel_positions: mel frames that the spectrogram is computed of; 0: it is not part of the step.
        conv_positions: mel frames that enter the convolutions.
        encoder_positions, encoder_pairs: encoder frames, and pairs of them that attend.
        projector_lengths: frames of each clip that the projector reads.
        decoder_positions, decoder_pairs: likewise of the decoder.
        logit_positions: positions that logits are computed of.
    """

    mel_positions: int
    conv_positions: int
    encoder_positions: int
    encoder_pairs: int
    projector_lengths: list[int]
    decoder_positions: int
    decoder_pairs: int
    logit_positions: int


def step_flops(sizes: Sizes, load: Load, projector: Projector) -> dict[str, float]:
    """Return the operations of each part of a step."""
    width, depth = sizes.encoder_dim, sizes.encoder_layers
    convolutions = 3 * sizes.mel_bins * width * load.conv_positions + 3 * width**2 * load.conv_positions // 2
    encoder_layer = 4 * width**2 + 2 * width * sizes.encoder_hidden
    encoder = load.encoder_positions * encoder_layer + load.encoder_pairs * 2 * width

    query, key = (heads * sizes.decoder_head_dim for heads in (sizes.decoder_heads, sizes.decoder_kv_heads))
    decoder_layer = sizes.decoder_dim * (2 * query + 2 * key + 3 * sizes.decoder_hidden)
    linear = load.decoder_positions * decoder_layer * sizes.decoder_layers
    attention = load.decoder_pairs * 2 * query * sizes.decoder_layers
    head = load.logit_positions * sizes.decoder_dim * sizes.vocabulary
    return {
        "mel": 2.0 * load.mel_positions * sizes.mel_bins * (N_FFT // 2 + 1),
        "encoder": 2.0 * (convolutions + encoder * depth),
        "projector": projector_flops(projector, load.projector_lengths),
        "decoder forward": 2.0 * (linear + attention),
        "decoder backward": 2.0 * (linear + 2 * attention),
        "head and loss": 4.0 * head,
    }


def projector_flops(projector: Projector, lengths: list[int]) -> float:
    """Return the operations of a projector, forward and backward.

    Args:
        projector: one of the four; of another one an estimate.
        lengths: encoder frames of each clip.
    """
    config, tokens = projector.config, sum(projector.num_tokens(n) for n in lengths)
    stacked, width = projector.encoder_dim * config.frame_stack, projector.decoder_dim
    # Products with frames: forward, gradient of the weights. All others: the gradient of what they read, too.
    frames, others = 0, 0
    match projector:
        case MLPProjector():
            frames, others = tokens * stacked * projector.hidden_dim, tokens * projector.hidden_dim * width
        case MOSAProjector(num_experts=experts):
            units = experts * config.expert_dim
            frames, others = tokens * stacked * (units + experts), tokens * (units + experts) * width
        case MoEProjector(num_experts=experts):
            units = config.num_experts_per_token * config.expert_dim
            frames, others = tokens * stacked * (units + experts), tokens * units * width
        case QFormerProjector():
            windows = sum(-(-n // config.window_frames) for n in lengths)
            queries, keys = windows * config.num_queries, windows * config.window_frames
            linear = queries * (6 * width**2 + 2 * width * projector.hidden_dim)  # self: 4, cross: query and output
            attention = 2 * queries * (config.num_queries + config.window_frames) * width
            frames = config.num_layers * keys * projector.encoder_dim * 2 * width
            others = config.num_layers * (linear + attention) + tokens * width**2
        case _:  # of one's own: every weight for every token
            others = tokens * sum(weight.numel() for weight in projector.parameters())
    return 4.0 * frames + 6.0 * others
