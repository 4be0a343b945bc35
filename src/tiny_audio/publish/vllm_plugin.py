"""A plugin for vLLM: `/v1/audio/transcriptions` for exported folders with any language model.

vLLM's own class for GLM-ASR builds a Llama and has its own prompt. This class runs the classes of transformers, with
the prompt of training, which the folder's chat template writes.
"""

from __future__ import annotations

ARCHITECTURE = "GlmAsrForConditionalGeneration"


def register() -> None:
    """Register the class; vLLM calls this in each of its processes (entry point `vllm.general_plugins`)."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, "tiny_audio.publish.vllm_model:TranscribingGlmAsr")
