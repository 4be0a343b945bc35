"""The folder of `ta export`: the model and what is known of it, without paths of the machine it was made on."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .. import __version__
from ..config import build_config
from ..errors import UserError
from ..inference.opened import RECORD_VERSION, WEIGHTS_FILE
from ..model.checkpointed import describe_models, trained_weights
from ..model.lora import merge_lora
from ..model.speech_llm import SpeechLLM
from ..model.weights import RECORD_FILE, fingerprint, trained_fingerprint
from ..training.checkpoint import FORMAT
from .licenses import languages_of, license_of_corpus, license_of_model
from .native import native_processor, save_native, why_not_native

# The settings of the data that the use of the folder depends on.
DATA_SETTINGS = ("max_audio_length", "text_case", "keep_punctuation", "max_context_length")


def write_folder(model: SpeechLLM, saved: dict[str, Any], folder: Path, dtype: torch.dtype) -> str | None:
    """Write a trained model into a folder, a native one if there is a class for it.

    Args:
        model: with the checkpoint's weights; its adapters are merged permanently.
        saved: the checkpoint.
        folder: new or empty.
        dtype: precision of encoder and decoder.

    Returns:
        Why the folder is not native; None if it is.

    Raises:
        UserError: the folder cannot be written.
    """
    merge_lora(model.decoder.module)
    model.decoder.fingerprint = fingerprint(model.decoder.module)
    prompt = model.decoder.prompt.describe()  # before the tokenizer gets a token for the audio
    reason = why_not_native(model)
    processor = None
    if reason is None:
        made = native_processor(model)
        reason, processor = (made, None) if isinstance(made, str) else (None, made)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD_FILE).parent.mkdir(exist_ok=True)
        kept = {part: weights for part, weights in trained_weights(model).items() if part in ("projector", "ctc")}
        if processor is not None:
            save_native(model, processor, folder, dtype)
            del kept["projector"]
            record_projector(model)
        else:
            _save_parts(model, folder, dtype)
        tensors = {f"{part}.{name}": t.contiguous() for part, own in kept.items() for name, t in own.items()}
        if tensors:
            save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt"})
        record = describe(model, saved, processor is not None, prompt)
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"output={folder}: cannot be written ({error.strerror or error}).") from None
    return reason


def record_projector(model: SpeechLLM) -> None:
    """Record that the projector is as wide as the native one."""
    model.projector.config = replace(model.projector.config, hidden_dim=2 * model.projector.decoder_dim)


def _save_parts(model: SpeechLLM, folder: Path, dtype: torch.dtype) -> None:
    encoder, decoder = model.encoder.module, model.decoder.module
    encoder.config.name_or_path = decoder.config.name_or_path = ""
    # By the modules' present names: the names in the files that they were loaded from cannot be restored.
    encoder.to(dtype).save_pretrained(folder / "encoder", save_original_format=False)
    decoder.to(dtype).save_pretrained(folder / "decoder", save_original_format=False)
    model.decoder.prompt.tokenizer.save_pretrained(folder / "decoder")


def describe(model: SpeechLLM, saved: dict[str, Any], native: bool, prompt: dict[str, Any]) -> dict[str, Any]:
    """Return the folder's record of itself: what is needed to open it, and where it comes from."""
    settings = build_config({"model": saved["config"]["model"]}).model
    names: dict[str, Any] = {part: public_name(saved["models"][part]) for part in ("encoder", "decoder")}
    own = replace(
        settings,
        **names,
        projector_config=model.projector.config,
        projector_checkpoint=None,
        checkpoint=None,
        freeze_projector=False,
        use_lora=False,
        freeze_decoder=True,
    )
    models = describe_models(model, own) | names | {"prompt_ids": prompt}
    trained = [title for title, on in (("LoRA", settings.use_lora), ("decoder", not settings.freeze_decoder)) if on]
    data = {key: value for key, value in saved["config"]["data"].items() if key in DATA_SETTINGS}
    corpora = {
        name: about | {"origin": public_name(about["origin"]), "license": license_of_corpus(name, about["origin"])}
        for name, about in saved["corpora"].items()
    }
    run = {key: value for key, value in saved.get("run", {}).items() if key in ("tiny_audio", "packages")}
    known: dict[str, Any] = {key: saved[key] for key in ("clip_seconds", "contexts") if key in saved}
    training = saved["config"]["training"]
    return {
        "format": FORMAT,
        "version": RECORD_VERSION,
        "native": native,
        "tiny_audio": __version__,
        "config": {"model": asdict(own), "data": data},
        "models": models,
        **known,
        "provenance": {
            "encoder": _source(saved, "encoder"),
            "decoder": _source(saved, "decoder"),
            "trained": ["projector", *trained],
            "step": saved["state"]["step"],
            "weights": trained_fingerprint(saved["weights"]),
            "history": [row for row in saved["state"]["history"] if "wer" in row][-1:],
            "training": {key: training[key] for key in ("max_steps", "batch_size", "learning_rate")},
            "corpora": corpora,
            "languages": languages_of(saved["config"]["data"]["datasets"]),
            # Only the weights are known of the checkpoint that it started from.
            "earlier_stage": bool(settings.checkpoint or settings.projector_checkpoint),
            "run": run,
        },
    }


def _source(saved: dict[str, Any], part: str) -> dict[str, Any]:
    models = saved["models"]
    return {
        "name": public_name(models[part]),
        "revision": models[f"{part}_revision"],
        "fingerprint": models[f"{part}_fingerprint"],
        "license": license_of_model(models[part]),
    }


def public_name(name: str) -> str:
    """Return the name of a model or corpus without the folders of this machine that contain it."""
    on_hub = re.fullmatch(r"[\w.@:+-]+(/[\w.@:+-]+)?( \([\w.-]+\))?", name) and not name.startswith(".")
    return name if on_hub else Path(name).name
