"""Find pretrained models (a Hub id, a local folder, or `pocket`), and say in one line why one cannot be loaded."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import psutil
import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from torch import nn
from transformers.utils import logging as transformers_logging

from ..errors import UserError
from ..pocket import DECODER_DIR, ENCODER_DIR

logger = logging.getLogger(__name__)

# A repository has one of these, or an index that names several files.
WEIGHT_FILES = (
    *("model.safetensors", "model.safetensors.index.json", "encoder/model.safetensors"),
    *("encoder/model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# In an exported folder, the record of its checkpoint.
RECORD_FILE = "tiny_audio/model.json"
PACKED_WEIGHTS = 4  # numbers in a byte, at most
MAX_LAYERS = 1000
POCKET = {"encoder": ENCODER_DIR, "decoder": DECODER_DIR}


def resolve(part: str, name: str) -> str:
    """Return the argument of `from_pretrained` for `model.<part>=name`: a folder that exists, or a Hub id.

    Raises:
        UserError: `name` looks like a path, or is a folder without `config.json`.
    """
    if name == "pocket":
        return str(POCKET[part])
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model.{part}={name}: the folder has no config.json; it does not hold a saved model.")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"model.{part}={name}: there is no such folder.")
    return name


@cache
def hub_reachable() -> bool:
    """Whether the Hub (`HF_ENDPOINT`) answers; tried only once, since the client itself retries for half a minute.

    If it does not answer, models are read only from the cache. Behind a proxy it is assumed to answer.
    """
    if HF_HUB_OFFLINE:
        return False
    if getproxies().get("https") or getproxies().get("http"):
        return True
    address = urlsplit(ENDPOINT)
    try:
        with socket.create_connection(
            (address.hostname, address.port or (80 if address.scheme == "http" else 443)), timeout=5
        ):
            return True
    except OSError:
        return False


def hub_arguments(name: str, revision: str | None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that say where to look, and that forbid running a model's code."""
    where = {} if Path(name).is_dir() else {"revision": revision, "local_files_only": not hub_reachable()}
    return {"trust_remote_code": False, **where}


def tell_download(what: str, name: str, revision: str | None = None) -> None:
    """Log what will be downloaded from the Hub, and its size, unless it is in the cache or the size is not known.

    Args:
        what: the setting that asks for it, such as `model.encoder`.
        name: a Hub id, or a folder.
        revision: commit, tag or branch.
    """
    if Path(name).is_dir() or not hub_reachable():
        return
    if any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in WEIGHT_FILES):
        return
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(name, revision=revision, files_metadata=True, timeout=15)
    except Exception as error:  # any error occurs again when the model is loaded, and is explained there
        logger.debug("%s=%s was not looked up: %s", what, name, error)
        return
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    tensors = {file: size for file, size in sizes.items() if file.endswith(".safetensors")}
    total = sum((tensors or {file: size for file, size in sizes.items() if file.endswith(".bin")}).values())
    if total:
        size = f"{total / 1e9:.1f} GB" if total >= 1e8 else f"{total / 1e6:.1f} MB"
        logger.info("%s: %s is not in the cache; downloading %s into %s", what, name, size, constants.HF_HUB_CACHE)


@contextmanager
def loading(part: str, name: str) -> Iterator[None]:
    """Turn an error while a model is downloaded or read into one line that says what to do."""
    what = f"model.{part}={name}"
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers raise `Exception` itself, configurations their own errors
        chain = causes(error)
        if "trust_remote_code" in str(error):
            reason = "needs code that comes with it, which is never run; use a model whose class is in transformers."
        elif Path(name).is_dir() or name == "pocket":
            reason = f"cannot be read: {first_line(error)}"
        elif any(isinstance(cause, GatedRepoError) for cause in chain):
            reason = f"is gated: accept its terms at {ENDPOINT}/{name} and log in with `hf auth login`."
        elif any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
            reason = "is neither a model on the Hub (or it is private) nor a folder here."
        elif not hub_reachable():
            why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"{ENDPOINT} cannot be reached"
            reason = (
                f"could not be fetched: {why} and the model is not in the cache. "
                "Give a local folder, or try experiment=quickstart, which needs no download."
            )
        else:
            reason = f"could not be loaded: {first_line(error)}"
        raise UserError(f"{what} {reason}") from error


def require_all_weights(report: dict[str, Any]) -> None:
    """Refuse a model whose missing weights `from_pretrained` set to random numbers, with only a warning.

    Args:
        report: its `output_loading_info`.

    Raises:
        ValueError: a weight is missing, or of another shape.
    """
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise ValueError(f"{len(missing)} weights are missing or of another shape, such as {missing[0]}")


def count_weights(build: Callable[[], nn.Module]) -> float:
    """Return how many numbers a module would hold, without allocating them; infinity if they cannot be counted.

    It draws no random numbers.
    """
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in build().state_dict().values())
    except (RuntimeError, OverflowError):
        return float("inf")


def require_plausible(config: Any, kind: Any, source: str, dtype: torch.dtype) -> None:
    """Refuse a configuration of more weights than its files or this machine's memory hold, before allocating them.

    Args:
        config: as it was read, perhaps from a folder of unknown origin.
        kind: the class whose weights it describes; an auto class has `from_config`.
        source: where the weights are; the size of a folder's files is known.
        dtype: precision that they are loaded in.

    Raises:
        ValueError: it has too many weights; names both sizes.
    """
    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "encoder_layers", None) or 0
    if layers > MAX_LAYERS:
        raise ValueError(f"its configuration has {layers:,} layers")
    count = count_weights(partial(getattr(kind, "from_config", kind), config))
    files = [file for pattern in ("*.safetensors", "*.bin") for file in Path(source).glob(pattern)]
    stored = sum(file.stat().st_size for file in files)
    if files and count > PACKED_WEIGHTS * stored:
        raise ValueError(f"its configuration has {count:,.0f} weights, and its files {stored:,} bytes")
    if count * dtype.itemsize > psutil.virtual_memory().total:
        raise ValueError(f"it needs {count * dtype.itemsize / 1e9:,.0f} GB, more than this machine's memory")


def fingerprint(module: nn.Module) -> str:
    """Return a hash of a small part of each weight. It does not depend on where the model is, nor on its precision.

    A name is not enough: a Hub id gets new commits, and a folder can be moved.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        some = weight.detach().flatten()[:64].to(torch.bfloat16)
        digest.update(some.view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def trained_fingerprint(weights: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """Return a hash of the weights that a checkpoint holds, by part and name: the same for any file that holds them."""
    digest = hashlib.sha256()
    for part, tensors in sorted(weights.items()):
        for name, weight in sorted(tensors.items()):
            digest.update(f"{part}.{name} {weight.dtype} {tuple(weight.shape)}".encode())
            some = weight.detach().cpu().flatten()[:4096].contiguous()
            digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def require_finite(part: str, name: str, module: nn.Module) -> None:
    """Refuse weights that are NaN or infinite: they would load without an error, and transcripts would be empty.

    Raises:
        UserError: there are such weights; names the first of them.
    """
    for weight_name, weight in module.named_parameters():
        if not weight.numel() or weight.element_size() == 1:  # packed, quantized weights
            continue
        ends = torch.stack(weight.detach().aminmax())  # NaN if any number is; much faster than testing each number
        if not bool(ends.isfinite().all()):
            raise UserError(f"model.{part}={name} holds numbers that are not finite ({weight_name}); take another.")


@contextmanager
def quiet_transformers(source: str) -> Iterator[None]:
    """Hide the loading report (weights that were left out on purpose) and progress bars.

    A source on the Hub keeps its bars, since gigabytes may have to be downloaded.
    """
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if Path(source).is_dir():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def causes(error: BaseException | None) -> list[BaseException]:
    """Return an error, its cause, the cause of that, and so on."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or the name of the error's class."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)
