"""Tiny speech recognizers of others, as transformers runs them: real classes and processors, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

import tiny_models

AUDIO = "<|im_start|>"
AUDIO_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    f"{AUDIO}"
    "{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def save_wav2vec2(folder: Path) -> Path:
    """A whole `Wav2Vec2ForCTC` with its processor."""
    torch.manual_seed(0)
    folder.mkdir()
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    config = Wav2Vec2Config(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 3,
        conv_stride=(5, 8, 8),
        conv_kernel=(10, 8, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
        feat_extract_norm="layer",
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer(folder / "vocab.json")).save_pretrained(folder)
    return folder


def save_whisper(folder: Path) -> Path:
    """A whole multilingual `WhisperForConditionalGeneration` with its processor."""
    torch.manual_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    special += [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    vocabulary = {letter: i for i, letter in enumerate([*letters, *special])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:10]})
    ids = {name: vocabulary[name] for name in special}
    config = WhisperConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=len(vocabulary),
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in ("<|en|>", "<|de|>")},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        max_length=448,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def save_glm_asr(folder: Path) -> Path:
    """A whole `GlmAsrForConditionalGeneration` whose processor knows how to ask for a transcript."""
    tiny_models.save_glm_asr(folder)
    model = GlmAsrForConditionalGeneration.from_pretrained(folder)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.15)  # it writes letters, not special tokens alone
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    words = tiny_models.tokenizer()
    words.padding_side = "left"
    (folder / "config.json").write_text(json.dumps(config | {"audio_token_id": words.convert_tokens_to_ids(AUDIO)}))
    processor = GlmAsrProcessor(
        WhisperFeatureExtractor(feature_size=128), words, audio_token=AUDIO, chat_template=AUDIO_TEMPLATE
    )
    processor.save_pretrained(folder)
    return folder
