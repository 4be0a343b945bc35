"""Open a trained model: a checkpoint, a run's folder, an exported folder, or a repository on the Hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import tqdm as hub_progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..errors import UserError
from ..model.weights import RECORD_FILE, hub_reachable, tell_download
from ..training.checkpoint import FINAL_FILE, find_checkpoints, load_checkpoint
from ..training.contents import fault

logger = logging.getLogger(__name__)

# In an exported folder, the weights of a checkpoint that a native model has no place for.
WEIGHTS_FILE = "tiny_audio/weights.safetensors"
RECORD_VERSION = 1
NATIVE_PROJECTOR = "multi_modal_projector."


class Opened(NamedTuple):
    """A trained model that is not loaded yet.

    Attributes:
        path: the file or folder that it was read from.
        saved: as `load_checkpoint` returns it.
        encoder, decoder: where its frozen models are; None: where they were in training.
    """

    path: str
    saved: dict[str, Any]
    encoder: str | None = None
    decoder: str | None = None


def open_model(name: str | Path) -> Opened:
    """Find and read a trained model.

    Args:
        name: a checkpoint (`final.pt`), the folder of a run (its `final.pt`, or else its newest checkpoint, is used),
            an exported folder, or `user/repository` on the Hub.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(name).expanduser()
    if (path / RECORD_FILE).is_file():
        return _open_exported(path)
    if path.is_dir():
        folder = find_checkpoints(path)
        final = folder.path / FINAL_FILE
        path = final if final.is_file() else folder.files()[-1]
        logger.info("Using %s", path)
    elif is_repository(str(name)):
        return _open_exported(_download(str(name)))
    return Opened(str(path), load_checkpoint(path))


def is_repository(name: str) -> bool:
    """Whether a name may be `user/repository` on the Hub: no such file exists, and it does not look like a file."""
    user, slash, repository = name.partition("/")
    return (
        bool(user and slash and repository)
        and "/" not in repository
        and not name.startswith((".", "~"))
        and (Path(name).suffix != ".pt" and not Path(user).exists())
    )


def _download(name: str) -> Path:
    tell_download("the model", name)
    try:
        folder = Path(snapshot_download(name, local_files_only=not hub_reachable(), tqdm_class=hub_progress))
    except RepositoryNotFoundError:
        raise UserError(f"{name} is neither a file or folder here nor a model on the Hub (or it is private).") from None
    except LocalEntryNotFoundError:
        raise UserError(f"{name} is not here, and the Hub cannot be reached.") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{name} could not be fetched: {str(error).splitlines()[0]}") from None
    if not (folder / RECORD_FILE).is_file():
        raise UserError(f"{name} on the Hub was not made by `ta export`: it has no {RECORD_FILE}.")
    return folder


def _open_exported(folder: Path) -> Opened:
    try:
        saved = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        version = saved["version"]
        if version != RECORD_VERSION:
            raise UserError(f"{folder} has format version {version}; this toolkit reads {RECORD_VERSION}.")
        saved["weights"] = _read_weights(folder, saved["native"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged, or not an exported model ({type(error).__name__}: {error}).") from error
    if (wrong := fault(saved)) is not None:
        raise UserError(f"{folder} is damaged, or was not written by this toolkit: {wrong}.")
    parts = (folder, folder) if saved["native"] else (folder / "encoder", folder / "decoder")
    return Opened(str(folder), saved, *map(str, parts))


def _read_weights(folder: Path, native: bool) -> dict[str, dict[str, Any]]:
    """Return weights by part and name, as in a checkpoint."""
    weights: dict[str, dict[str, Any]] = {}
    stored = folder / WEIGHTS_FILE
    if stored.is_file():
        for name, weight in load_file(stored).items():
            part, _, own = name.partition(".")
            weights.setdefault(part, {})[own] = weight
    if native:
        projector = weights.setdefault("projector", {})
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # `tensors` cannot be iterated over
                    before, found, own = name.partition(NATIVE_PROJECTOR)
                    if found and before in ("", "model."):  # its name in files and in modules
                        projector[own] = tensors.get_tensor(name).float()
    return weights
