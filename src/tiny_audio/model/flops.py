"""Compute the floating-point operations of a training step; a multiplication and an addition count as two.

Only matrix products are counted, as `torch.utils.flop_counter` counts them: attention over the whole square, although
causal kernels skip half of it (2 % of the decoder at clips of 12 s), and its backward pass without the products that
kernels recompute. Norms, activations and the Fourier transform are left out.

The frozen models have no gradients of weights. The encoder runs forward only. The decoder's backward pass costs as
much as its forward pass in linear layers, and twice as much in attention. The projector's first layers need no
gradient of their input frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data.loader import Batch
from ..lengths import N_FFT
from .projectors import Projector
from .projectors.conv import ConvProjector
from .projectors.mlp import MLPProjector
from .projectors.moe import MoEProjector
from .projectors.mosa import MOSAProjector
from .projectors.qformer import QFormerProjector
from .speech_llm import SpeechLLM


@dataclass(frozen=True)
class Widths:
    """The sizes of the models that the computation needs.

    Attributes:
        mel_bins, encoder_dim: of the encoder's input and its hidden states.
        encoder_linear: numbers in the matrices of all its transformer layers.
        encoder_attention: widths of its layers' attention, added up.
        decoder_dim, vocabulary: of the decoder.
        decoder_linear: numbers in the matrices of all its layers; for a mixture of experts this includes all experts,
            which is too many.
        decoder_trained: those among them that train.
        decoder_attention: widths of its layers' queries, added up.
    """

    mel_bins: int
    encoder_dim: int
    encoder_linear: int
    encoder_attention: int
    decoder_dim: int
    vocabulary: int
    decoder_linear: int
    decoder_trained: int
    decoder_attention: int

    @classmethod
    def of(cls, model: SpeechLLM) -> Widths:
        """Count the sizes of a model."""
        encoder, decoder = model.encoder, model.decoder
        config = decoder.module.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = encoder.layers[: encoder.encoder_layers[-1]]
        read = [weight for layer in layers for weight in layer.parameters() if weight.ndim == 2]
        written = [weight for layer in decoder.layers for weight in layer.parameters() if weight.ndim == 2]
        return cls(
            mel_bins=encoder.module.config.num_mel_bins,
            encoder_dim=encoder.width,
            encoder_linear=sum(weight.numel() for weight in read),
            encoder_attention=encoder.width * encoder.encoder_layers[-1],
            decoder_dim=decoder.decoder_dim,
            vocabulary=config.vocab_size,
            decoder_linear=sum(weight.numel() for weight in written),
            decoder_trained=sum(weight.numel() for weight in written if weight.requires_grad),
            decoder_attention=config.num_attention_heads * head * len(decoder.layers),
        )


@dataclass(frozen=True)
class Load:
    """The positions that a step computes, including padding if it computes padding.

    Attributes:
        mel_positions: mel frames whose spectrogram is computed; 0: it is not part of the step.
        conv_positions: mel frames that enter the convolutions.
        encoder_positions, encoder_pairs: encoder frames, and pairs of them that attend.
        projector_lengths: frames of each clip that the projector reads.
        decoder_positions, decoder_pairs: likewise of the decoder.
        logit_positions: positions whose logits are computed.
    """

    mel_positions: int
    conv_positions: int
    encoder_positions: int
    encoder_pairs: int
    projector_lengths: list[int]
    decoder_positions: int
    decoder_pairs: int
    logit_positions: int

    @classmethod
    def of(cls, model: SpeechLLM, batch: Batch) -> Load:
        """The positions of `SpeechLLM.forward`. Without a kernel for packed clips attention is padded inside the op."""
        positions = decoder_lengths(model, batch)
        encoded: list[int] = []
        if batch.features is None and model.reads_audio:
            encoded = [window.whole for window in model.encoder.windows_of(batch.num_samples)]
        padded, longest = len(encoded) * max(encoded, default=0), max(positions, default=0)
        packed, whole = model.encoder.kernel is not None, len(positions) * longest
        return cls(
            mel_positions=2 * padded,
            conv_positions=2 * padded,
            encoder_positions=sum(encoded),
            encoder_pairs=sum(n**2 for n in encoded) if packed else padded * max(encoded, default=0),
            projector_lengths=model.encoder.num_frames(batch.num_samples) if model.reads_audio else [],
            decoder_positions=sum(positions) if model.decoder.reading.packed else whole,
            decoder_pairs=sum(n**2 for n in positions) if packed and model.decoder.reading.packed else whole * longest,
            logit_positions=sum(map(len, batch.target_ids)),
        )


def decoder_lengths(model: SpeechLLM, batch: Batch) -> list[int]:
    """Return the positions that the decoder reads of each clip: prompt, audio tokens if it reads any, transcript."""
    prompt = model.decoder.prompt
    contexts = batch.context_ids or [torch.empty(0)] * len(batch)
    around = [len(prompt.prefix_ids) + len(prompt.suffix(ids.tolist())) for ids in contexts]
    frames = model.encoder.num_frames(batch.num_samples)
    counts = [model.projector.num_tokens(n) if model.reads_audio else 0 for n in frames]
    return [n + count + len(ids) for n, count, ids in zip(around, counts, batch.target_ids, strict=True)]


def step_flops(widths: Widths, load: Load, projector: Projector) -> dict[str, float]:
    """Return the operations of each part of a step."""
    width, bins = widths.encoder_dim, widths.mel_bins
    convolutions = 3 * bins * width * load.conv_positions + 3 * width**2 * load.conv_positions // 2
    encoder = load.encoder_positions * widths.encoder_linear + load.encoder_pairs * 2 * widths.encoder_attention
    linear = load.decoder_positions * widths.decoder_linear
    attention = load.decoder_pairs * 2 * widths.decoder_attention
    head = load.logit_positions * widths.decoder_dim * widths.vocabulary
    return {
        "mel": 2.0 * load.mel_positions * bins * (N_FFT // 2 + 1),
        "encoder": 2.0 * (convolutions + encoder),
        "projector": projector_flops(projector, load.projector_lengths),
        "decoder forward": 2.0 * (linear + attention),
        "decoder backward": 2.0 * (linear + load.decoder_positions * widths.decoder_trained + 2 * attention),
        "head and loss": 4.0 * head,
    }


def projector_flops(projector: Projector, lengths: list[int]) -> float:
    """Return the operations of a projector, forward and backward.

    Args:
        projector: for one that is not of this package, the result is an estimate.
        lengths: encoder frames of each clip.
    """
    config, tokens = projector.config, sum(projector.num_tokens(n) for n in lengths)
    stacked, width = projector.encoder_dim * config.frame_stack, projector.decoder_dim
    # Products with frames: forward, gradient of the weights. All others: also the gradient of their input.
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
        case ConvProjector():  # the gain of the norm on the frames trains, so all products have three passes
            channels = config.conv_dim
            block = 7 * channels**2 + channels * config.kernel_size
            layers = (stacked + projector.hidden_dim) * channels + projector.hidden_dim * width
            others = tokens * (layers + config.num_layers * block)
        case _:  # a user's own: every weight for every token
            others = tokens * sum(weight.numel() for weight in projector.parameters())
    return 4.0 * frames + 6.0 * others
