"""Record what a run was made with, so that its checkpoint can be understood years later."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from .. import __version__

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "numpy", "soundfile")


def describe_run(device: torch.device, precision: str, num_processes: int) -> dict[str, Any]:
    """Return versions, commit, command line and machine, in plain values."""
    return {
        "tiny_audio": __version__,
        "commit": source_commit(),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "cuda": torch.version.cuda,
            "precision": "fp32" if precision == "no" else precision,
            "processes": num_processes,
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
    }


def source_commit() -> str | None:
    """Return the commit of the package's source, with `+` if files were changed; None for an installed wheel."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + "+" * bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):  # git is not installed, or the folder is not a repository
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
