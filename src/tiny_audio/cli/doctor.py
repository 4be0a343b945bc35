"""`ta doctor`: what this machine has, which experiments fit it, and which command to try first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..training.console import format_bytes
from .compose import GROUPS, choices, compose, register, shipped_folder, to_overrides
from .options import Parser

if TYPE_CHECKING:
    from ..inspection.machine import Fit, Machine

EPILOG = """\
examples:
  ta doctor
  ta doctor --json

Nothing is downloaded, and the network is not used. Whether an experiment fits is computed for the longest clips that it
allows; a run measures it before its first step."""
FIRST_GPU = "ta train experiment=transcription data.max_samples=100 training.max_steps=10 training.eval_steps=5"
FIRST = "ta train experiment=quickstart"


def run(argv: list[str]) -> int:
    """Run `ta doctor` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them.
    """
    parser = Parser(
        "ta doctor", "ta doctor [--json]", "Report what fits this machine, and the first command to try.", EPILOG
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.read(argv)
    from ..inspection.machine import judge, look_at_machine

    register()
    configs = {name: compose(to_overrides([f"experiment={name}"]))[0] for name in experiments()}
    paths = configs["quickstart"].paths
    machine = look_at_machine(Path(paths.output_dir), Path(paths.cache_dir))
    fits = [judge(name, config, machine) for name, config in configs.items()]
    first = FIRST_GPU if any(fit.fits and fit.experiment == "transcription" for fit in fits) else FIRST
    if args.json:
        print(json.dumps({"machine": asdict(machine), "experiments": [asdict(fit) for fit in fits], "first": first}))
    else:
        print("\n".join([*describe(machine), "", *experiment_lines(fits), "", f"Type first:  {first}"]))
    return 0


def experiments() -> Sequence[str]:
    """Return the names of the shipped experiments."""
    return sorted(choices(GROUPS["experiment"], [shipped_folder()]))


def describe(machine: Machine) -> list[str]:
    """Return lines that describe a machine."""
    from ..inspection.machine import OPTIONAL

    libraries = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    count = f"{len(machine.devices)} x " if len(machine.devices) > 1 else ""
    precision = "fp32" if machine.precision == "no" else machine.precision
    models = ", ".join(f"{name} ({format_bytes(size)})" for name, size in machine.models.items()) or "none"
    ram = f"{format_bytes(machine.ram_bytes)}, {format_bytes(machine.ram_free_bytes)} of it free"
    rows = {
        "versions": libraries,
        "device": f"{machine.device} ({count}{machine.device_name}), {format_bytes(machine.memory_bytes)} for a run",
        "precision": f"{precision} (hardware.mixed_precision=auto)",
        "attention": f"{machine.attention} (hardware.attention=auto)",
        "CPU": f"{machine.cores} core{'s' * (machine.cores != 1)}; memory {ram}",
        "disk": "; ".join(f"{format_bytes(free)} free at {path}" for path, free in machine.disks.items()),
        "Hub token": "yes" if machine.has_token else "no (gated corpora and private models need one: hf auth login)",
        "models here": models,
        "packages": "; ".join(
            f"{name} {number}" if number else f"{name} not installed ({OPTIONAL[name]})"
            for name, number in machine.packages.items()
        ),
    }
    width = max(map(len, rows)) + 2
    return [f"{name:<{width}}{text}" for name, text in rows.items()]


def experiment_lines(fits: Sequence[Fit]) -> list[str]:
    """Return lines about each experiment."""
    width = max(len(fit.experiment) for fit in fits) + 2
    lines = ["experiments, their approximate memory, and the size of the models to download:"]
    for fit in fits:
        needs = "" if fit.needed_bytes is None else f"{format_bytes(fit.needed_bytes):>8}"
        download = f", {format_bytes(fit.download_bytes)} to download" if fit.download_bytes else ""
        lines.append(f"  {fit.experiment:<{width}}{needs}  {fit.verdict}{download}")
    return lines
