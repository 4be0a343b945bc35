"""Check the content of a checkpoint once, when it is read: it may be damaged, or made to do harm."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..config import TEXT_CASES
from ..prompt import CONTEXT_IDS
from .state import RunState

MAX_TEXT = 1_000_000  # characters of a setting or a name; real ones are shorter
MAX_DEPTH = 20
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")  # except white space
TEXTS = ("encoder_fingerprint", "decoder_fingerprint", "feature_convention", "prompt")  # of `models`
NAMES = ("encoder", "decoder", "projector_type")
POSITION = ("step", "batches", "draws")  # of `state`
OPTIONAL = ("encoder_revision", "decoder_revision")


def fault(content: Mapping[str, Any]) -> str | None:
    """Return in a few words what no run would have written; None if there is no such fault.

    Args:
        content: of a checkpoint, or of an exported folder, which has no `state`.
    """
    return next(_faults(content), None)


def _faults(content: Mapping[str, Any]) -> Iterator[str]:
    for part in ("config", "models", "weights"):
        if not isinstance(content.get(part), dict):
            yield f"it has no {part}"
    yield from _plain("config", content["config"])
    for group in ("model",) + (("data", "training", "hardware", "paths") if "state" in content else ()):
        if not isinstance(content["config"].get(group), dict):
            yield f"config has no {group}"
    data = content["config"].get("data", {})
    if not _is_length(data.get("max_audio_length")):
        yield "config.data.max_audio_length is not a number of seconds"
    if data.get("text_case", "lower") not in TEXT_CASES:
        yield "config.data.text_case is not a known case"
    if type(data.get("max_context_length", 1)) is not int:  # what an older version did not know of may be missing
        yield "config.data.max_context_length is not a number"
    if type(content.get("contexts", 0)) not in (int, type(None)):
        yield "contexts is not a number"
    seconds = content.get("clip_seconds")
    if seconds is not None and not (isinstance(seconds, dict) and _is_length(seconds.get("p95"))):
        yield "clip_seconds has no p95"
    elif seconds is not None and not _is_length(seconds.get("max", 1.0)):
        yield "clip_seconds.max is not a number of seconds"
    yield from _of_models(content["models"])
    yield from _of_weights(content["weights"])
    if "state" in content:
        yield from _of_state(content["state"])
        yield from _plain("corpora", content.get("corpora"))
        yield from _plain("run", content.get("run"))


def _plain(key: str, value: Any, depth: int = 0) -> Iterator[str]:
    """Yield faults of a setting: it may be a number, a text without escape sequences, or a list or table of these."""
    if isinstance(value, dict | list | tuple) and depth < MAX_DEPTH:
        items = value.items() if isinstance(value, dict) else ((f"{number}", one) for number, one in enumerate(value))
        for name, inner in items:
            if not isinstance(name, str) or _CONTROL.search(name):
                yield f"{key} has an invalid name"
            yield from _plain(f"{key}.{name}", inner, depth + 1)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT or _CONTROL.search(value):
            yield f"{key} is not a text that the setting allows"
    elif not isinstance(value, int | float | None):
        yield f"{key} is a {type(value).__name__}"


def _is_length(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _of_models(models: dict[str, Any]) -> Iterator[str]:
    for name in (*TEXTS, *NAMES):
        if not isinstance(models.get(name), str):
            yield f"models.{name} is missing"
    for name in OPTIONAL:
        if name not in models or not isinstance(models[name], str | None):
            yield f"models.{name} is not a text"
    yield from _plain("models", models)
    prompt = models.get("prompt_ids")
    if prompt is None:  # from an older version
        return
    if not isinstance(prompt, dict) or not isinstance(prompt.get("vocabulary"), str):
        yield "models.prompt_ids is not a prompt"
    size = prompt.get("vocabulary_size", 0)
    if type(size) is not int:
        yield "models.prompt_ids.vocabulary_size is not a number"
    known = [name for name in CONTEXT_IDS if prompt.get(name) is not None]  # older versions have none
    for name in ("prefix_ids", "suffix_ids", "end_ids", *(CONTEXT_IDS if known else ())):
        if not _are_tokens(prompt.get(name), size):
            yield f"models.prompt_ids.{name} are not tokens"
    if "example_ids" in prompt and not _are_tokens(prompt["example_ids"], size):  # older versions have none
        yield "models.prompt_ids.example_ids are not tokens"
    if not prompt["end_ids"]:
        yield "models.prompt_ids.end_ids is empty"
    if type(prompt.get("pad_id")) is not int or not 0 <= prompt["pad_id"] < size:
        yield "models.prompt_ids.pad_id is not a token"


def _are_tokens(ids: Any, size: int) -> bool:
    return isinstance(ids, list) and all(type(one) is int and 0 <= one < size for one in ids)


def _of_weights(weights: dict[str, Any]) -> Iterator[str]:
    if "projector" not in weights:
        yield "it has no projector"
    for part, tensors in weights.items():
        if not isinstance(tensors, dict):
            yield f"weights.{part} is a {type(tensors).__name__}"
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                yield f"weights.{part}.{name} is a {type(tensor).__name__}"
            elif tensor.nbytes > tensor.untyped_storage().nbytes():  # one stored number that claims to be a billion
                yield f"weights.{part}.{name} is larger than what is stored of it"
    if "ctc" in weights:
        pieces, frequencies = weights["ctc"].get("vocabulary"), weights["ctc"].get("frequencies")
        if pieces is None or pieces.dtype != torch.int64 or pieces.ndim != 1 or not len(pieces) or pieces.min() < 0:
            yield "weights.ctc.vocabulary is not a list of word pieces"
        if frequencies is None or not frequencies.is_floating_point() or frequencies.shape != pieces.shape:
            yield "weights.ctc.frequencies are not those of its vocabulary"


def _of_state(state: Any) -> Iterator[str]:
    if not isinstance(state, dict):
        yield "it has no state"
    yield from _plain("state", state)
    kinds = {one.name: type(getattr(RunState(), one.name)) for one in fields(RunState)}
    for name, kind in kinds.items():
        value = state.get(name)
        if kind in (int, float):
            right = type(value) in (int, float) if name in state else name not in POSITION
            right = right and (name == "evaluated_step" or (value or 0) >= 0)
        else:  # what an older version did not know of may be missing
            right = name not in state or kind is type(None) or isinstance(value, kind)
        if not right:
            yield f"state.{name} is not of type {kind.__name__}"
    rows = [*state.get("history", []), *({"sums": one} for one in state.get("sums", []))]
    if not all(isinstance(row, dict) and all(map(_is_number, row.values())) and row for row in rows):
        yield "state.history is not a list of figures"
    pairs = [*state.get("corpora", {}).values(), *state.get("custom", {}).values()]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs):
        yield "state.corpora are not counts"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
