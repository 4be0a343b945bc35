"""The real classes at the published widths, with random weights, whose values do not change the time of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import GlmAsrEncoder, GlmAsrEncoderConfig, Qwen3Config, Qwen3ForCausalLM

from ..config import ModelConfig, ProjectorConfig
from ..data.loader import Batch
from ..data.synthetic import synthetic_batch
from ..lengths import MAX_CLIP_SECONDS
from ..model.decoder import Decoder, load_prompt
from ..model.encoder import GlmAsrSpeechEncoder
from ..model.packing import PACKED_ATTENTION
from ..model.projectors import build_projector
from ..model.speech_llm import SpeechLLM
from ..prompt import Prompt

TOKENS_PER_SECOND = 3.6  # of English read aloud, in tokens of Qwen3


@dataclass(frozen=True)
class Sizes:
    """Widths and depths; the defaults are those of GLM-ASR-Nano-2512's audio tower and of Qwen3-0.6B."""

    encoder_layers: int = 32
    encoder_dim: int = 1280
    encoder_heads: int = 20
    encoder_hidden: int = 5120
    mel_bins: int = 128
    decoder_layers: int = 28
    decoder_dim: int = 1024
    decoder_heads: int = 16
    decoder_kv_heads: int = 8
    decoder_head_dim: int = 128
    decoder_hidden: int = 3072
    vocabulary: int = 151_936


PUBLISHED = Sizes()


def build_frozen(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[GlmAsrSpeechEncoder, Decoder]:
    """Make encoder and decoder with random weights of precision `dtype`, directly on the device.

    The prompt is the real one in the pocket decoder's tokens: 3 before the audio and 16 after it; in Qwen3's tokens
    it is 3 and 17.
    """
    audio = GlmAsrEncoderConfig(
        hidden_size=sizes.encoder_dim,
        intermediate_size=sizes.encoder_hidden,
        num_hidden_layers=sizes.encoder_layers,
        num_attention_heads=sizes.encoder_heads,
        num_mel_bins=sizes.mel_bins,
    )
    text = Qwen3Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.decoder_dim,
        intermediate_size=sizes.decoder_hidden,
        num_hidden_layers=sizes.decoder_layers,
        num_attention_heads=sizes.decoder_heads,
        num_key_value_heads=sizes.decoder_kv_heads,
        head_dim=sizes.decoder_head_dim,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    torch.manual_seed(0)
    options = {"attn_implementation": PACKED_ATTENTION, "dtype": dtype}
    with torch.device(device):
        tower = GlmAsrEncoder._from_config(audio, **options)
        language_model = Qwen3ForCausalLM._from_config(text, **options)
    prompt = load_prompt("pocket", None, ModelConfig().prompt)
    encoder = GlmAsrSpeechEncoder(tower, "random", "clip").to(device)
    return encoder, Decoder(language_model, prompt, "random").to(device)


def build_model(kind: str, encoder: GlmAsrSpeechEncoder, decoder: Decoder, some: Batch) -> SpeechLLM:
    """Put a projector between the frozen models: of default widths, without dropout, so that losses can be compared.

    As in a run, `some` clips scale its output to the decoder's embeddings.
    """
    torch.manual_seed(0)
    projector = build_projector(kind, ProjectorConfig(dropout=0.0), encoder.encoder_dim, decoder.decoder_dim)
    model = SpeechLLM(encoder, projector.to(next(decoder.parameters()).device), decoder)
    frames, lengths = model.encode(some)
    projector.calibrate([(frames.float(), lengths)], decoder.embedding_rms)
    return model.train()


def clip_lengths(batch_size: int, mean_seconds: float) -> list[float]:
    """Return lengths in seconds, spread evenly within 70 % of their mean, up to 30 s: for 12 s from 3.6 to 20.4 s."""
    spread = min(0.7 * mean_seconds, MAX_CLIP_SECONDS - mean_seconds) if batch_size > 1 else 0.0
    lengths: list[float] = np.linspace(mean_seconds - spread, mean_seconds + spread, batch_size).tolist()
    return lengths


def random_batch(batch_size: int, mean_seconds: float, prompt: Prompt, vocabulary: int) -> Batch:
    """Return a batch of noise and random target tokens, the same at every call, without a source."""
    rng = np.random.default_rng(0)
    seconds = clip_lengths(batch_size, mean_seconds)
    targets = [[*rng.integers(0, vocabulary, round(s * TOKENS_PER_SECOND)).tolist(), prompt.end_id] for s in seconds]
    return synthetic_batch(seconds, targets, rng=rng)
