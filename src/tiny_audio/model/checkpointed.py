"""What a checkpoint says of the models it belongs to, and putting its weights back between them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from ..config import ModelConfig, build_config
from ..errors import UserError
from .speech_llm import SpeechLLM, build_speech_llm


def describe_models(model: SpeechLLM, config: ModelConfig) -> dict[str, Any]:
    """Return what a checkpoint stores of the models, in plain values."""
    return {
        "encoder": model.encoder.name,
        "encoder_revision": model.encoder.revision,
        "encoder_dim": model.encoder.encoder_dim,
        "feature_convention": model.encoder.convention,
        "decoder": model.decoder.name,
        "decoder_revision": model.decoder.revision,
        "decoder_dim": model.decoder.decoder_dim,
        "prompt": config.prompt,
        "projector_type": config.projector_type,
    }


def load_projector(model: SpeechLLM, saved: dict[str, Any], config: ModelConfig, path: str) -> None:
    """Put a checkpoint's projector into `model`.

    Args:
        model: whose projector is overwritten.
        saved: as `load_checkpoint` returned it.
        config: what `model` was built from.
        path: the checkpoint, for the error.

    Raises:
        UserError: it was trained between other models, with another prompt, or is another projector.
    """
    theirs, ours = saved["models"], describe_models(model, config)
    for key, value in ours.items():
        unknown = key.endswith("_revision") and None in (value, theirs[key])  # a local copy has no revision
        if theirs[key] != value and not unknown:
            setting = f"model.{key}" if key in {f.name for f in fields(ModelConfig)} else key
            raise UserError(f"checkpoint {path} was trained with {setting}={theirs[key]}, but this run has {value}.")
    shapes = {name: tuple(weight.shape) for name, weight in model.projector.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in saved["projector"].items()}
    for name in sorted(shapes | found):
        if shapes.get(name) != found.get(name):
            raise UserError(
                f"checkpoint {path} holds another projector: {name} is {found.get(name, 'missing')} there and "
                f"{shapes.get(name, 'missing')} here; compare model.projector_config."
            )
    model.projector.load_state_dict(saved["projector"])


def rebuild(saved: dict[str, Any], path: str, dtype: torch.dtype) -> tuple[SpeechLLM, ModelConfig]:
    """Build the recogniser that a checkpoint belongs to, ready to transcribe.

    Raises:
        UserError: its models cannot be loaded, or are not those that it was trained with.
    """
    config = build_config(saved["config"]).model
    model = build_speech_llm(config, dtype)
    load_projector(model, saved, config, path)
    return model.eval(), config
