"""Checkpoints of the real classes and the hub's on-disk layout, tiny in width, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    GlmAsrConfig,
    GlmAsrEncoderConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tiny_audio.config import ModelConfig, ProjectorConfig
from tiny_audio.model.build import build_speech_llm
from tiny_audio.model.speech_llm import SpeechLLM

if TYPE_CHECKING:
    from conftest import TinyModels

# Turns as in Qwen3's template, with its empty think block where thinking is switched off.
CHAT_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["transcribe the speech to text", "user assistant system think", "one two three four five six seven"]


def tokenizer(vocab_size: int = 300, special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[*special])
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def save_qwen3(folder: Path, *, width: int = 48, vocab_size: int = 320, seed: int = 0) -> Path:
    """A `Qwen3ForCausalLM` checkpoint in several safetensors shards with an index, as the hub holds larger ones."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.15)  # wide enough that greedy decoding has no near ties
    # What Qwen3 ships: sampling by default, which a recognizer must not inherit.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, eos_token_id=[2, 0], pad_token_id=0
    )
    model.save_pretrained(folder, max_shard_size="40KB")
    tokenizer().save_pretrained(folder)
    return folder


def save_glm_asr(folder: Path, *, width: int = 64, text_width: int = 32, text_layers: int = 1, seed: int = 0) -> Path:
    """A whole `GlmAsrForConditionalGeneration` checkpoint: audio tower, its projector and its own LLM."""
    torch.manual_seed(seed)
    audio = GlmAsrEncoderConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2, num_attention_heads=4, num_mel_bins=128
    )
    text = LlamaConfig(
        vocab_size=320,
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        num_hidden_layers=text_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = GlmAsrForConditionalGeneration(GlmAsrConfig(audio_config=audio, text_config=text, audio_token_id=5))
    model.save_pretrained(folder, max_shard_size="100KB")
    processor = GlmAsrProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=tokenizer(),
        audio_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def save_whisper(folder: Path, *, width: int = 32) -> Path:
    """A whole `WhisperForConditionalGeneration` checkpoint."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=width,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=64,
        vocab_size=100,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=2,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def build(models: TinyModels, kind: str, dtype: torch.dtype = torch.float32, encoder_window: str = "clip") -> SpeechLLM:
    """A recognizer of the tiny GLM-ASR and Qwen3 with a projector of this kind; the same at every call."""
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=str(models.glm_asr),
        encoder_window=encoder_window,
        decoder=str(models.qwen3),
        projector_type=kind,
        projector_config=ProjectorConfig(hidden_dim=64, expert_dim=32, dropout=0.0),
    )
    return build_speech_llm(config, dtype)
