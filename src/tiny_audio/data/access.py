"""Checks what a run asks for, before anything large is loaded or fetched: paths, corpora of the Hub, models.

Everything that is missing or gated is reported at once, with a command that leaves it out.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import compress
from pathlib import Path

from ..config import Config, DatasetConfig
from ..errors import UserError
from .entries import entry_keys, find_on_hub, is_hub_id, on_hub, under_key
from .folders import missing_path
from .hub import TIMEOUT_SECONDS, check_access

logger = logging.getLogger(__name__)

OPEN_CORPUS = DatasetConfig(name="loquacious")  # no terms to accept: suggested instead of others
PARALLEL_LOOKUPS = 8


def check_reach(config: Config) -> None:
    """Make sure that all corpora and models of a run can be fetched. This takes a few requests, none if it is known.

    Raises:
        UserError: some cannot. The console names each with its reason; the error suggests another command.
    """
    data, cache_dir = config.data, Path(config.paths.cache_dir)
    entries = [*data.datasets, *data.eval_datasets]
    keys = entry_keys(data.datasets, data) + entry_keys(data.eval_datasets, data)
    model = config.model
    parts = [("encoder", model.encoder, model.encoder_revision), ("decoder", model.decoder, model.decoder_revision)]
    with ThreadPoolExecutor(PARALLEL_LOOKUPS) as pool:
        faults = list(pool.map(lambda entry: _fault(entry, cache_dir), entries))
        models = [fault for fault in pool.map(lambda part: _model_fault(*part), parts) if fault is not None]
    problems = [
        f"{key}: {str(under_key(fault, key)).removeprefix(f'{key}: ')}"
        for fault, key in zip(faults, keys, strict=True)
        if fault is not None
    ]
    problems = list(dict.fromkeys([*problems, *map(str, models)]))
    if not problems:
        return
    advice = ""
    if any(fault is not None and on_hub(entry) for fault, entry in zip(faults, entries, strict=True)):
        usable = [fault is None for fault in faults]
        kept = list(compress(data.datasets, usable))
        kept_eval = list(compress(data.eval_datasets, usable[len(data.datasets) :]))
        advice = _advice(config, kept, kept_eval, cache_dir)
    if len(problems) == 1:
        raise UserError(problems[0] + advice)
    for problem in problems:
        logger.error(problem)
    raise UserError(
        f"{len(problems)} of the corpora and models cannot be used (see above); nothing was downloaded.{advice}"
    )


def _fault(entry: DatasetConfig, cache_dir: Path) -> UserError | None:
    """Why an entry cannot be read, as far as is known without reading it."""
    try:
        if on_hub(entry):
            check_access(find_on_hub(entry, cache_dir)[0], cache_dir)
        elif entry.path is not None and not (path := Path(entry.path).expanduser()).exists():
            return missing_path(path)
    except UserError as error:
        return error
    return None


def _model_fault(part: str, name: str, revision: str | None) -> UserError | None:
    """Why a model cannot be fetched from the Hub; None if it can, if it is not there, or if there is no network."""
    if name == "pocket" or not is_hub_id(name):
        return None

    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    file = "config.json"
    if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
        return None
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=TIMEOUT_SECONDS)
    except errors.GatedRepoError:
        why = f"is gated: accept its terms at {constants.ENDPOINT}/{name} and set HF_TOKEN to a token of that account."
    except errors.RevisionNotFoundError:
        why = f"has no revision {revision}."
    except errors.RepositoryNotFoundError:
        why = "is neither a model on the Hub (or it is private) nor a folder here."
    except Exception as error:  # loading the model raises the same error, with an explanation
        logger.debug("model.%s=%s was not looked up: %s", part, name, error)
        return None
    else:
        return None
    return UserError(f"model.{part}={name} {why}")


def _advice(config: Config, kept: Sequence[DatasetConfig], kept_eval: Sequence[DatasetConfig], cache_dir: Path) -> str:
    """Suggestions: the same command without the corpora that cannot be fetched, or with an open one instead."""
    data = config.data
    ways = []
    if kept and (kept_eval or not data.eval_datasets):
        lists = [("data.datasets", kept, data.datasets), ("data.eval_datasets", kept_eval, data.eval_datasets)]
        settings = [f"{key}={_written(some)}" for key, some, all_ in lists if len(some) < len(all_)]
        ways.append(f"without: {typed_command(config, settings)}")
    if _fault(OPEN_CORPUS, cache_dir) is None:
        ways.append(f"with an open corpus: {typed_command(config, ['data=loquacious'])}")
    return "".join(f" {way[0].upper()}{way[1:]}" for way in ways)


def _written(entries: Iterable[DatasetConfig]) -> str:
    """Entries as they are typed, without default values: `[{name: librispeech, weight: 0.3}]`."""
    default = asdict(DatasetConfig(path="."))
    rows = []
    for entry in entries:
        given = {key: value for key, value in asdict(entry).items() if value != default[key] and value is not None}
        rows.append("{" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}")
    return f"[{', '.join(rows)}]"


def typed_command(config: Config, settings: Sequence[str]) -> str:
    """Return the command that was typed, with its data settings replaced."""
    typed = sys.argv[2:] if sys.argv[1:2] == ["train"] else [f"experiment={config.experiment}"]
    replaced = {setting.partition("=")[0] for setting in settings}
    if "data" in replaced:
        replaced |= {"data.datasets", "data.eval_datasets", "data.train_path", "data.eval_path"}
    kept = [token for token in typed if token.lstrip("-").partition("=")[0] not in replaced]
    return "ta train " + shlex.join([*kept, *settings])
