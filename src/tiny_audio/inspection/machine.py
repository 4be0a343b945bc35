"""What a machine has, found in seconds and without the network, and which experiments fit it.

What fits is computed, since no model can be tried before it is downloaded. A run measures what it needs at its start:
`training.preflight`.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from huggingface_hub import CacheNotFound, get_token, scan_cache_dir
from huggingface_hub.constants import HF_HUB_CACHE

from ..config import Config
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


class Published(NamedTuple):
    """A model on the Hub.

    Attributes:
        weights: of the part that is used.
        width, layers: of a decoder.
        download_bytes: of all its files, about.
    """

    weights: int
    width: int
    layers: int
    download_bytes: int


# The models of the shipped experiments, by their published configurations.
PUBLISHED = {
    "zai-org/GLM-ASR-Nano-2512": Published(635_048_960, 1280, 32, 4_500_000_000),
    "Qwen/Qwen3-0.6B": Published(596_049_920, 1024, 28, 1_500_000_000),
    "openai/whisper-base": Published(20_590_592, 512, 6, 290_000_000),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Published(134_515_008, 576, 30, 270_000_000),
}
POCKET_MODEL = Published(5_000_000, 192, 4, 0)  # larger than either pocket model
TOKENS_PER_SECOND = 12.5  # of audio
TEXT_TOKENS = 128  # of the prompt and a long transcript
# Bytes kept for the backward pass, for each position, layer and unit of the decoder's width, in bf16: measured 12.1 GiB
# for 8,048 positions of Qwen3-0.6B's 28 layers of 1,024 (docs/performance.md).
ACTIVATION_BYTES = 12.1 * 2**30 / (8_048 * 28 * 1_024)
TRAINED_BYTES = 16  # for each trained weight: the weight, its gradient and two moments, in fp32
PROJECTOR_WEIGHTS = 13_000_000  # of mlp; others have up to three times as many, which is little beside the rest
OTHER_BYTES = 1_000_000_000  # libraries, logits, the device's own memory
GPU_WEIGHTS = 200_000_000  # above it, training on a CPU takes weeks


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
        | {name: number for name in ("torch", "transformers", "tiny-audio") if (number := installed_version(name))},
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
        packages={name: installed_version(name) for name in OPTIONAL},
    )


def installed_version(module: str) -> str | None:
    """Return the version of a package, by its module name; None: it is not installed."""
    try:
        return version(module.rpartition(".")[2])
    except PackageNotFoundError:
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
    models = sorted((repo for repo in found if repo.repo_type == "model"), key=lambda repo: repo.repo_id)
    return {repo.repo_id: repo.size_on_disk for repo in models}


@dataclass(frozen=True)
class Fit:
    """Whether an experiment fits.

    Attributes:
        experiment: its name.
        models: the models that it uses.
        needed_bytes: of memory, about; None: a model is not known here.
        download_bytes: of models that are not in the cache yet.
        verdict: one line.
        fits: whether its command runs without changes.
    """

    experiment: str
    models: list[str]
    needed_bytes: int | None
    download_bytes: int
    verdict: str
    fits: bool


def judge(name: str, config: Config, machine: Machine) -> Fit:
    """Compare an experiment with a machine."""
    names = [config.model.encoder, config.model.decoder]
    models = [POCKET_MODEL if one == "pocket" else PUBLISHED.get(one) for one in names]
    known = [model for model in models if model is not None]
    download = sum(
        model.download_bytes for one, model in zip(names, models, strict=True) if model and one not in machine.models
    )
    if len(known) < len(names):
        return Fit(name, names, None, download, "the sizes of its models are not known before a download", False)
    fixed, each = memory_needed(config, known[0], known[1], machine.precision)
    batch = config.training.batch_size
    needed = round(fixed + each * batch)
    most = int((machine.memory_bytes - fixed) / each)
    verdict, fits = "fits", True
    if most < 1:
        verdict, fits = "does not fit into memory", False
    elif machine.device == "cpu" and sum(model.weights for model in known) > GPU_WEIGHTS:
        verdict, fits = "needs a GPU: on this machine it would take weeks", False
    elif most < batch:
        steps = -(-batch // most)
        settings = f"training.batch_size={most} training.gradient_accumulation_steps={steps}"
        verdict, fits = f"fits with {settings}", False
    if download > machine.disks[machine.cache]:
        verdict, fits = "does not fit on the disk of the Hub's cache (HF_HOME sets another folder)", False
    return Fit(name, names, needed, download, verdict, fits)


def memory_needed(config: Config, encoder: Published, decoder: Published, precision: str) -> tuple[float, float]:
    """Return the bytes that a run takes at any batch size, and those for each clip of the greatest allowed length."""
    size = 2 if precision in ("bf16", "fp16") else 4
    trained = PROJECTOR_WEIGHTS + (0 if config.model.freeze_decoder else decoder.weights)
    fixed = size * (encoder.weights + decoder.weights) + TRAINED_BYTES * trained + OTHER_BYTES
    positions = TOKENS_PER_SECOND * config.data.max_audio_length + TEXT_TOKENS
    return fixed, positions * decoder.layers * decoder.width * ACTIVATION_BYTES * size / 2
