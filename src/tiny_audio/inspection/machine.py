"""The hardware and software of a machine that matter for training, found in seconds and without the network."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch
from huggingface_hub import CacheNotFound, get_token, scan_cache_dir
from huggingface_hub.constants import HF_HUB_CACHE

from ..model.device import choose_device, choose_precision
from ..model.kernels import available_kernels
from ..training.memory import memory_limit

# The use of each optional package, by its module name.
OPTIONAL = {
    "flash_attn": "hardware.attention=flash_attn",
    "tensorboard": "logging.report_to=[tensorboard]",
    "trackio": "logging.report_to=[trackio]",
    "lhotse": "lhotse's manifests",
    "hydra_plugins.hydra_submitit_launcher": "Slurm",
    "starlette": "ta serve, ta demo",
}


@dataclass(frozen=True)
class Machine:
    """Facts about a machine.

    Attributes:
        versions: of Python and of the libraries that matter.
        device: the choice of `auto`; `device_name` is its name in words.
        devices: the names of all accelerators.
        memory_bytes: memory of the device that a run can use.
        precision: the choice of `auto`: bf16, fp16 or no.
        attention: the choice of `auto`; the kernel is tried when a run starts.
        cores, ram_bytes: of the machine; `ram_free_bytes` of the memory are free.
        disks: free bytes, by what the disk is used for.
        cache: the folder of the Hub's cache.
        models: bytes of the models in the cache, by name.
        has_token: whether the Hub's token is set.
        packages: the versions of the optional packages; None if one is not installed.
    """

    versions: dict[str, str]
    device: str
    device_name: str
    devices: list[str]
    memory_bytes: int
    precision: str
    attention: str
    cores: int
    ram_bytes: int
    ram_free_bytes: int
    disks: dict[str, int]
    cache: str
    models: dict[str, int]
    has_token: bool
    packages: dict[str, str | None]


def look_at_machine(output_dir: Path, cache_dir: Path) -> Machine:
    """Return the facts about this machine; the folders, of `paths`, need not exist yet."""
    device = choose_device("auto")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    precision = choose_precision("auto", device)
    kernels = list(available_kernels()) if device.type == "cuda" and precision != "no" else []
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "tiny-audio") if installed(name)},
        device=device.type,
        device_name=gpus[0] if gpus else platform.processor() or platform.machine(),
        devices=gpus,
        memory_bytes=memory_limit(device),
        precision=precision,
        attention=kernels[0] if kernels else "sdpa",
        cores=cores,
        ram_bytes=memory.total,
        ram_free_bytes=memory.available,
        disks={str(path): free_bytes(path) for path in (output_dir, cache_dir, Path(HF_HUB_CACHE))},
        cache=HF_HUB_CACHE,
        models=cached_models(),
        has_token=get_token() is not None,
        packages={name: package_version(name) for name in OPTIONAL},
    )


def installed(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def package_version(module: str) -> str | None:
    """Return the version of an optional package, by its module name; None: it is not installed."""
    top, _, plugin = module.partition(".")
    try:
        if find_spec(module) is None:
            return None
        return version((plugin or top).replace("_", "-"))
    except ModuleNotFoundError:
        return None


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def cached_models() -> dict[str, int]:
    """Return the models in the Hub's cache, and their bytes."""
    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    return {repo.repo_id: repo.size_on_disk for repo in sorted(found, key=lambda repo: repo.repo_id) if is_model(repo)}


def is_model(repo: object) -> bool:
    """Whether a repository of the cache is a model."""
    return getattr(repo, "repo_type", None) == "model"
