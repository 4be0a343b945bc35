"""vLLM's plugin: `/v1/audio/transcriptions` for exported folders, whatever their language model is.

vLLM's own class for GLM-ASR builds a Llama and asks in its own words. This one runs the classes of transformers, and
asks with the prompt that the folder's chat template writes: the one that was trained with.
"""

from __future__ import annotations

ARCHITECTURE = "GlmAsrForConditionalGeneration"


def register() -> None:
    """Tell vLLM of the class; it is called in each of its processes (entry point `vllm.general_plugins`)."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, "tiny_audio.publish.vllm_model:TranscribingGlmAsr")
