"""The model class that `vllm_plugin` registers; it can only be imported inside vLLM."""

from __future__ import annotations

from typing import Any

from vllm.config import SpeechToTextConfig
from vllm.inputs import TokensPrompt
from vllm.model_executor.models.interfaces import SupportsTranscription
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.model_executor.models.whisper import ISO639_1_SUPPORTED_LANGS
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.transformers_utils.processor import cached_processor_from_config


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=MultiModalProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class TranscribingGlmAsr(TransformersMultiModalForCausalLM, SupportsTranscription):
    """The model of transformers, which also answers requests for a transcript."""

    supported_languages = ISO639_1_SUPPORTED_LANGS

    @classmethod
    def get_speech_to_text_config(cls, model_config: Any, task_type: str) -> SpeechToTextConfig:
        """Return how recordings are read: their rate, and the seconds above which vLLM cuts them."""
        processor = cached_processor_from_config(model_config)
        return SpeechToTextConfig(
            sample_rate=processor.feature_extractor.sampling_rate, max_audio_clip_s=processor.max_audio_len
        )

    @classmethod
    def get_generation_prompt(cls, stt_params: Any) -> TokensPrompt:
        """Return the prompt of training, around the audio; language and task of a request are ignored."""
        tokenizer = cached_tokenizer_from_config(stt_params.model_config)
        text = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
        ids = tokenizer.encode(text, add_special_tokens=False)
        return TokensPrompt(prompt_token_ids=ids, multi_modal_data={"audio": stt_params.audio})
