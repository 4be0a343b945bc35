"""Load the models of a configuration, and put a new projector between them."""

from __future__ import annotations

import logging

import torch

from ..config import ModelConfig
from .decoder import load_decoder
from .encoder import load_encoder
from .lora import add_lora, lora_weights
from .projectors import build_projector, projector_class
from .speech_llm import SpeechLLM

logger = logging.getLogger(__name__)


def build_speech_llm(config: ModelConfig, dtype: torch.dtype) -> SpeechLLM:
    """Load the models of `config` and put a new projector between them.

    Args:
        config: also says what trains: the projector, LoRA on the decoder, or the whole decoder.
        dtype: precision of the frozen weights; weights that train are fp32.

    Raises:
        UserError: a model cannot be loaded, or does not match the settings.
    """
    layers = config.encoder_layers
    encoder = load_encoder(config.encoder, config.encoder_revision, dtype, config.encoder_window, layers)
    decoder_dtype = dtype if config.freeze_decoder else torch.float32
    decoder = load_decoder(config.decoder, config.decoder_revision, config.prompt, decoder_dtype, config.context_prompt)
    if config.use_lora:
        add_lora(decoder.module, config.lora_config)
    logger.info("Initializing %s projector...", projector_class(config.projector_type).title)
    projector = build_projector(
        config.projector_type, config.projector_config, encoder.encoder_dim, decoder.decoder_dim
    )
    projector.requires_grad_(not config.freeze_projector)
    decoder.module.requires_grad_(not config.freeze_decoder)
    for weight in lora_weights(decoder.module).values():
        weight.requires_grad_(not config.freeze_lora)
    masking = config.audio_token_dropout, config.frame_masking, config.channel_masking
    model = SpeechLLM(encoder, projector, decoder, *masking)
    model.search = config.search
    return model
