"""What a checkpoint says of the models it belongs to, and putting its weights back between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..config import Config, ModelConfig, build_config
from ..errors import UserError
from .speech_llm import SpeechLLM, build_speech_llm


def describe_models(model: SpeechLLM, config: ModelConfig) -> dict[str, Any]:
    """Return what a checkpoint stores of the models, in plain values."""
    return {
        "encoder": model.encoder.name,
        "encoder_revision": model.encoder.revision,
        "encoder_fingerprint": model.encoder.fingerprint,
        "feature_convention": model.encoder.convention,
        "decoder": model.decoder.name,
        "decoder_revision": model.decoder.revision,
        "decoder_fingerprint": model.decoder.fingerprint,
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
    for part in ("encoder", "decoder"):
        if theirs[f"{part}_fingerprint"] != ours[f"{part}_fingerprint"]:
            names = [" at revision ".join(filter(None, (m[part], m[f"{part}_revision"]))) for m in (theirs, ours)]
            other = f"of other weights than {names[1]} has" if names[0] == names[1] else f"and this run has {names[1]}"
            raise UserError(f"checkpoint {path} was trained with model.{part}={names[0]}, {other}.")
    for key in ("feature_convention", "prompt", "projector_type"):
        if theirs[key] != ours[key]:
            setting = key if key == "feature_convention" else f"model.{key}"
            raise UserError(
                f"checkpoint {path} was trained with {setting}={theirs[key]}, and this run has {ours[key]}."
            )
    shapes = {name: tuple(weight.shape) for name, weight in model.projector.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in saved["projector"].items()}
    for name in sorted(shapes | found):
        if shapes.get(name) != found.get(name):
            raise UserError(
                f"checkpoint {path} holds another projector: {name} is {found.get(name, 'missing')} there and "
                f"{shapes.get(name, 'missing')} here; compare model.projector_config."
            )
    model.projector.load_state_dict(saved["projector"])


def rebuild(
    saved: dict[str, Any], path: str, dtype: torch.dtype, encoder: str | None = None, decoder: str | None = None
) -> SpeechLLM:
    """Build the recogniser that a checkpoint belongs to, ready to transcribe.

    Args:
        saved: as `load_checkpoint` returned it.
        path: the checkpoint, for errors.
        dtype: precision of the frozen models.
        encoder, decoder: where its models lie now, if not where they lay in training.

    Raises:
        UserError: its models cannot be loaded, or are not those that it was trained with.
    """
    config: Config = build_config({"model": saved["config"]["model"]})
    chosen: dict[str, Any] = {}
    for part, name in (("encoder", encoder), ("decoder", decoder)):
        if name is None:  # the very commit, unless another one was asked for in training
            name, revision = saved["models"][part], saved["models"][f"{part}_revision"]
        else:
            revision = None
        chosen |= {part: name, f"{part}_revision": revision}
    settings = replace(config.model, **chosen)
    model = build_speech_llm(settings, dtype)
    load_projector(model, saved, settings, path)
    return model.eval()
