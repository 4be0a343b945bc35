"""Describe the models of a checkpoint, and load its weights back into them."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ..config import Config, ModelConfig, SearchChanges, build_config
from ..errors import UserError
from .build import build_speech_llm
from .encoder import CONVENTIONS, LAYERS
from .lora import load_lora, lora_weights
from .sharded import whole
from .speech_llm import SpeechLLM

logger = logging.getLogger(__name__)

# The parts of a checkpoint's weights: their names in messages, and the settings that they depend on.
TITLES = {"projector": "projector", "ctc": "CTC head", "lora": "LoRA", "decoder": "decoder"}
ENABLED_BY = {"lora": "model.use_lora=true", "decoder": "model.freeze_decoder=false"}
DESCRIBED_BY = {
    "projector": "model.projector_config",
    "ctc": "training.ctc_warmup_steps",
    "lora": "model.lora_config",
    "decoder": "model.decoder",
}


def describe_models(model: SpeechLLM, config: ModelConfig) -> dict[str, Any]:
    """Return what a checkpoint records of the models, as plain values."""
    return {
        "encoder": model.encoder.name,
        "encoder_revision": model.encoder.revision,
        "encoder_fingerprint": model.encoder.fingerprint,
        "feature_convention": model.encoder.convention,
        "decoder": model.decoder.name,
        "decoder_revision": model.decoder.revision,
        "decoder_fingerprint": model.decoder.fingerprint,
        "prompt": config.prompt,
        "context_prompt": config.context_prompt,
        "prompt_ids": model.decoder.prompt.describe(),
        "projector_type": config.projector_type,
        "projector_config": asdict(model.projector.config),
    }


def trained_weights(model: SpeechLLM) -> dict[str, dict[str, Tensor]]:
    """Return the weights that a checkpoint stores, on the CPU: all that differ from the pretrained models.

    `projector` always; `lora` if there are adapters; `decoder` if all of it trains. For a sharded model all processes
    must call this, and the first one gets the weights: see `whole`.
    """
    found = _stored_weights(model)
    return {part: {name: whole(weight) for name, weight in weights.items()} for part, weights in found.items()}


def trained_bytes(model: SpeechLLM) -> int:
    """Return the size of `trained_weights`, without copying them."""
    return sum(weight.nbytes for weights in _stored_weights(model).values() for weight in weights.values())


def _stored_weights(model: SpeechLLM) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Any]] = {"projector": model.projector.state_dict()}
    if model.ctc is not None:
        found["ctc"] = model.ctc.state_dict()
    if adapters := lora_weights(model.decoder.module):
        found["lora"] = {name: weight.detach() for name, weight in adapters.items()}
    elif any(weight.requires_grad for weight in model.decoder.module.parameters()):
        found["decoder"] = model.decoder.module.state_dict()
    return found


def load_weights(
    model: SpeechLLM, saved: dict[str, Any], config: ModelConfig, path: str, only_projector: bool = False
) -> None:
    """Load a checkpoint's weights into `model`, and set the prompt that they were trained with.

    Args:
        model: its weights are overwritten.
        saved: as `load_checkpoint` returned it.
        config: the settings that `model` was built from.
        path: the checkpoint, for the error.
        only_projector: leave adapters and decoder as they are.

    Raises:
        UserError: the checkpoint was trained with other models or another prompt, has another projector, or holds
            adapters or a decoder that `model` does not have.
    """
    check_models(model, saved, config, path)
    if "ctc" in saved["weights"]:
        head = saved["weights"]["ctc"]
        model.add_ctc(head["vocabulary"], head["frequencies"])
    ours = trained_weights(model)
    kept = ("projector", "ctc") if only_projector else tuple(saved["weights"])
    theirs = {part: weights for part, weights in saved["weights"].items() if part in kept}
    for part, weights in theirs.items():
        if part not in ours:
            raise UserError(
                f"checkpoint {path} holds a trained {TITLES[part]}; set {ENABLED_BY[part]} to continue with it."
            )
        _check_shapes(part, ours[part], weights, path)
        if broken := next((name for name, weight in weights.items() if not bool(weight.isfinite().all())), None):
            raise UserError(f"checkpoint {path} holds numbers that are not finite ({part} {broken}); take another.")
    adopt_prompt(model, saved, path)
    for part, weights in theirs.items():
        if part == "lora":
            load_lora(model.decoder.module, weights)
        else:
            modules = {"projector": model.projector, "ctc": model.ctc, "decoder": model.decoder.module}
            modules[part].load_state_dict(weights)


def check_models(model: SpeechLLM, saved: dict[str, Any], config: ModelConfig, path: str) -> None:
    """Refuse a checkpoint that was trained with other models, or another prompt or projector.

    Raises:
        UserError: something differs; names it.
    """
    theirs, ours = saved["models"], describe_models(model, config)
    for part in ("encoder", "decoder"):
        if theirs[f"{part}_fingerprint"] != ours[f"{part}_fingerprint"]:
            names = [" at revision ".join(filter(None, (m[part], m[f"{part}_revision"]))) for m in (theirs, ours)]
            other = f"of other weights than {names[1]} has" if names[0] == names[1] else f"and this run has {names[1]}"
            raise UserError(f"checkpoint {path} was trained with model.{part}={names[0]}, {other}.")
    for key in ("feature_convention", "prompt", "context_prompt", "projector_type"):
        if theirs.get(key, ours[key]) != ours[key]:  # an older version had no contexts
            values, setting = (theirs[key], ours[key]), key
            if key == "feature_convention":
                setting, values = _differing_setting(*values)
            raise UserError(
                f"checkpoint {path} was trained with model.{setting}={values[0]}, and this run has {values[1]}."
            )


def _differing_setting(theirs: str, ours: str) -> tuple[str, tuple[str, str]]:
    """Return the setting that makes two feature conventions differ, and its values."""
    windows, layers = zip(*(value.partition(LAYERS)[::2] for value in (theirs, ours)), strict=True)
    if windows[0] == windows[1]:
        first, second = (f"[{','.join(numbers.split())}]" for numbers in layers)
        return "encoder_layers", (first, second)
    names = {convention: name for name, convention in CONVENTIONS.items()}
    return "encoder_window", (names.get(windows[0], windows[0]), names.get(windows[1], windows[1]))


def adopt_prompt(model: SpeechLLM, saved: dict[str, Any], path: str) -> None:
    """Make the decoder use the prompt tokens that a checkpoint was trained with.

    The chat template may write another prompt than in training, for example with another date; then a line is logged. A
    checkpoint of an older version does not record the tokens; the template's present prompt is used.

    Raises:
        UserError: the decoder's tokenizer has changed, and these tokens mean something else in it.
    """
    prompt = model.decoder.prompt
    before = prompt.ids
    if not prompt.adopt(saved["models"].get("prompt_ids")):
        raise UserError(
            f"checkpoint {path} was trained with another tokenizer than model.decoder={model.decoder.name} has now; "
            "name the folder or the revision of the decoder that has the earlier tokenizer."
        )
    if prompt.ids != before:
        logger.info("The prompt is that of %s; the decoder's chat template now writes another one.", path)


def _check_shapes(part: str, ours: dict[str, Tensor], theirs: dict[str, Tensor], path: str) -> None:
    here, there = ({name: tuple(weight.shape) for name, weight in weights.items()} for weights in (ours, theirs))
    for name in sorted(here | there):
        if here.get(name) != there.get(name):
            raise UserError(
                f"checkpoint {path} holds another {TITLES[part]}: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here; compare {DESCRIBED_BY[part]}."
            )


def rebuild(
    saved: dict[str, Any], path: str, dtype: torch.dtype, encoder: str | None = None, decoder: str | None = None
) -> SpeechLLM:
    """Build the recognizer that a checkpoint belongs to, ready to transcribe.

    Args:
        saved: as `load_checkpoint` returned it.
        path: the checkpoint, for errors.
        dtype: precision of the frozen models.
        encoder, decoder: the present folders of its models, if they were moved after training.

    Raises:
        UserError: its models cannot be loaded, or are not those that it was trained with.
    """
    config: Config = build_config({"model": saved["config"]["model"]})
    chosen: dict[str, Any] = {}
    for part, name in (("encoder", encoder), ("decoder", decoder)):
        if name is None:  # the commit that was used in training
            name, revision = saved["models"][part], saved["models"][f"{part}_revision"]
        else:
            revision = None
        chosen |= {part: name, f"{part}_revision": revision}
    settings = replace(config.model, **chosen)
    model = build_speech_llm(settings, dtype)
    load_weights(model, saved, settings, path)
    return model.eval()


def choose_search(model: SpeechLLM, changes: SearchChanges) -> None:
    """Change the search settings of a model.

    Raises:
        UserError: a search is asked for, and there is no CTC head.
    """
    typed: dict[str, Any] = {name: value for name, value in changes._asdict().items() if value is not None}
    model.search = replace(model.search, **typed)
    model.check_search()
