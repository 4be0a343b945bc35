"""Encoder, projector and decoder as one native `GlmAsrForConditionalGeneration`, with its processor.

GLM-ASR's encoder keeps its class. Whisper's has the same layers and names as `voxtral_encoder`, which `AutoModel`
builds instead. The decoder is any causal language model whose logits are the plain output of its head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import (
    GenerationConfig,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    PreTrainedConfig,
    VoxtralEncoderConfig,
    WhisperFeatureExtractor,
)

from ..lengths import ALIGNMENT_SAMPLES, MAX_CLIP_SAMPLES, MAX_CLIP_SECONDS
from ..model.encoder import WhisperSpeechEncoder
from ..model.projectors.mlp import MLPProjector
from ..model.speech_llm import SpeechLLM, transcript_limit
from ..prompt import Prompt

FRAME_STACK = 4  # of the native projector
MAX_NEW_TOKENS = transcript_limit(MAX_CLIP_SAMPLES // ALIGNMENT_SAMPLES, 400)
# Tokens of common vocabularies that no transcript contains; one of them marks the place of the audio.
PLACEHOLDERS = (
    *("<|audio_pad|>", "<|AUDIO|>", "<|audio|>", "<audio>", "<|image_pad|>", "<image>", "<|video_pad|>"),
    *("<|vision_pad|>", "<filename>", "<|reserved_special_token_0|>", "<unused0>"),
)
PROJECTOR = "model.multi_modal_projector."


def why_not_native(model: SpeechLLM) -> str | None:
    """Return why a model has no native class, in words that follow `because`; None if it has one."""
    projector, decoder = model.projector, model.decoder
    if not isinstance(projector, MLPProjector):
        return f"its projector is {projector.title}; native is mlp alone"
    if projector.config.frame_stack != FRAME_STACK:
        return f"its projector stacks {projector.config.frame_stack} frames; native is {FRAME_STACK}"
    if model.encoder.encoder_layers != [model.encoder.num_layers]:
        return f"its projector reads the encoder's layers {model.encoder.encoder_layers}; native is the last one alone"
    if projector.hidden_dim > 2 * decoder.decoder_dim:
        return f"its projector is {projector.hidden_dim} wide; native is at most {2 * decoder.decoder_dim}"
    if (width := audio_config(model).intermediate_size) != FRAME_STACK * model.encoder.encoder_dim:
        return f"its encoder's feed-forward layers are {width} wide, not {FRAME_STACK} times its frames"
    head = decoder.module.get_output_embeddings()
    if not decoder.reading.bare_head or head.bias is not None:
        kind = decoder.module.config.model_type
        return f"a {kind} decoder changes its logits after its head, and the native class does not"
    if find_placeholder(decoder.prompt, head.weight.shape[0]) is None:
        return "the decoder's vocabulary has no token left to mark the audio"
    return None


def audio_config(model: SpeechLLM) -> Any:
    """Return the configuration of the native audio tower."""
    config: Any = model.encoder.module.config
    if not isinstance(model.encoder, WhisperSpeechEncoder):
        return config
    return VoxtralEncoderConfig(
        hidden_size=config.d_model,
        intermediate_size=config.encoder_ffn_dim,
        num_hidden_layers=config.encoder_layers,
        num_attention_heads=config.encoder_attention_heads,
        num_mel_bins=config.num_mel_bins,
        max_source_positions=config.max_source_positions,
        activation_function=config.activation_function,
        scale_embedding=config.scale_embedding,
    )


def find_placeholder(prompt: Prompt, rows: int) -> str | None:
    """Return a token to mark the place of the audio, which the tokenizer has or may get.

    Args:
        prompt: of the decoder; its own tokens cannot be used.
        rows: number of rows of the embedding table, which is not changed.
    """
    tokenizer = prompt.tokenizer
    own = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    taken = {*prompt.prefix_ids, *prompt.suffix_ids, *prompt.end_ids, prompt.pad_id, *own}
    added = sorted(tokenizer.added_tokens_decoder.items())
    special = {str(token): number for number, token in added if token.special and number not in taken}
    for name in (*PLACEHOLDERS, *special):
        if name in special and special[name] < rows:
            return name
    return "<|audio|>" if len(tokenizer) < rows and "<|audio|>" not in tokenizer.get_vocab() else None


def native_model(model: SpeechLLM, audio_token_id: int, dtype: torch.dtype) -> GlmAsrForConditionalGeneration:
    """Return the native model, with the weights of a model whose adapters are merged.

    Args:
        model: one for which `why_not_native` returns None.
        audio_token_id: marks the place of an audio token.
        dtype: precision of its weights.
    """
    decoder, projector = model.decoder.module, model.projector
    text: PreTrainedConfig = decoder.config
    config = GlmAsrConfig(
        audio_config=_nameless(audio_config(model)),
        text_config=_nameless(text),
        audio_token_id=audio_token_id,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    with torch.device("meta"):
        native = GlmAsrForConditionalGeneration(config)
    state = {f"model.audio_tower.{name}": weight for name, weight in model.encoder.module.state_dict().items()}
    state |= {f"model.language_model.{name}": weight for name, weight in decoder.base_model.state_dict().items()}
    state["lm_head.weight"] = decoder.get_output_embeddings().weight
    state |= {PROJECTOR + name: weight for name, weight in _widened(projector, 2 * projector.decoder_dim).items()}
    converted = {name: weight.detach().cpu().to(dtype) for name, weight in state.items()}
    native.load_state_dict(converted, assign=True)
    native.tie_weights()
    native.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=sorted(model.decoder.end_ids),
        pad_token_id=model.decoder.prompt.pad_id,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    native.config.dtype = dtype
    return native.eval()


def _nameless(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a configuration without the path it was read from, which may be a folder of this machine."""
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def _widened(projector: Any, width: int) -> dict[str, torch.Tensor]:
    """Return the projector's weights with as many hidden units as the native one has; the additional ones are zero."""
    more = width - projector.hidden_dim
    return {
        "linear_1.weight": pad(projector.linear_1.weight, (0, 0, 0, more)),
        "linear_1.bias": pad(projector.linear_1.bias, (0, more)),
        "linear_2.weight": pad(projector.linear_2.weight, (0, more)),
        "linear_2.bias": projector.linear_2.bias,
    }


def native_processor(model: SpeechLLM) -> GlmAsrProcessor | str:
    """Return the processor; its chat template always writes the model's own prompt, for any message.

    A context is a variable of the template, `context`, and not part of a message, which programs may fill differently.

    Returns:
        The processor, or the reason why there is none: the decoder's tokenizer reads the prompt's text differently
        than in training.
    """
    prompt = model.decoder.prompt
    tokenizer = prompt.tokenizer
    rows = model.decoder.module.get_output_embeddings().weight.shape[0]
    audio_token = find_placeholder(prompt, rows)
    assert audio_token is not None
    if audio_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [audio_token]})
    before, after = (tokenizer.decode(ids) for ids in (prompt.prefix_ids, prompt.suffix_ids))
    token = tokenizer.convert_tokens_to_ids(audio_token)
    wanted = [*prompt.prefix_ids, token, token, *prompt.suffix_ids]
    for options in ({"add_special_tokens": False}, {}):  # for chat templates, and for a processor's text
        if tokenizer(before + 2 * audio_token + after, **options)["input_ids"] != wanted:
            return "its tokenizer does not read the text of the prompt as the tokens that were trained with"
    template = "{{ " + json.dumps(before + audio_token + after) + " }}"
    if (around := context_texts(prompt, before + 2 * audio_token, wanted[: -len(prompt.suffix_ids)])) is not None:
        first, last = (json.dumps(text) for text in (before + audio_token + around[0] + " ", around[1]))
        template = f"{{% if context %}}{{{{ {first} + context + {last} }}}}{{% else %}}{template}{{% endif %}}"
    tokenizer.chat_template = template
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(prompt.pad_id)
    return GlmAsrProcessor(
        WhisperFeatureExtractor(feature_size=model.encoder.log_mel.filters.shape[0]),
        tokenizer,
        chat_template=template,
        audio_token=audio_token,
        default_transcription_prompt=prompt.instruction,
        max_audio_len=MAX_CLIP_SECONDS,
    )


def context_texts(prompt: Prompt, before: str, ids: list[int]) -> tuple[str, str] | None:
    """Return the text around a context; None if the tokenizer does not turn it into the tokens of training.

    Args:
        prompt: of the decoder.
        before: the text before it.
        ids: the tokens of that text.
    """
    if prompt.before_context_ids is None or prompt.after_context_ids is None:
        return None
    first, last = (prompt.tokenizer.decode(some) for some in (prompt.before_context_ids, prompt.after_context_ids))
    for context in ("one", "two, Three 4"):
        wanted = [*ids, *prompt.suffix(prompt.context_ids(context))]
        for options in ({"add_special_tokens": False}, {}):
            if prompt.tokenizer(f"{before}{first} {context}{last}", **options)["input_ids"] != wanted:
                return None
    return first, last


def save_native(model: SpeechLLM, processor: GlmAsrProcessor, folder: Path, dtype: torch.dtype) -> None:
    """Write weights, configurations, tokenizer and chat template."""
    native_model(model, processor.audio_token_id, dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
