"""The files of a run that are drawn: `metrics.jsonl` and its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError

Curve = tuple[list[int], list[float]]  # steps, values


@dataclass
class Run:
    """A run's name, as short as possible but unique; its curves by metric; its settings by dotted name."""

    name: str
    curves: dict[str, Curve]
    settings: dict[str, str]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the runs in these output folders.

    Raises:
        UserError: one of them holds no metrics.
    """
    paths = [_output_folder(folder) for folder in folders]
    return [Run(name, read_curves(path), read_settings(path)) for name, path in zip(names(paths), paths, strict=True)]


def _output_folder(folder: str) -> Path:
    path = Path(folder)
    if path.name in ("metrics.jsonl", "checkpoints"):
        path = path.parent
    if (path / "metrics.jsonl").is_file():
        return path
    if not path.exists():
        raise UserError(f"there is no folder {folder}.")
    near = sorted(str(file.parent) for file in path.glob("*/metrics.jsonl"))
    hint = f" There are runs in {', '.join(near)}." if near else ""
    raise UserError(f"there is no metrics.jsonl in {folder}.{hint}")


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return every metric's steps and values; values that were not finite are NaN."""
    curves: dict[str, Curve] = {}
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
            found = {name: _number(value) for name, value in row.items() if "/" in name}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # a line that is being written, or was when the process was killed; or damaged
        for name, value in found.items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    if not curves:
        raise UserError(f"{path} holds no metrics yet; the first are written after logging.log_steps steps.")
    return curves


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def read_settings(folder: Path) -> dict[str, str]:
    """Return the settings of the run by their dotted names; none if there is no config.yaml."""
    path = folder / "checkpoints" / "config.yaml"
    if not path.is_file():
        return {}
    try:
        return dict(_flatten(yaml.safe_load(path.read_text(encoding="utf-8")), ""))
    except (ValueError, yaml.YAMLError, RecursionError):
        raise UserError(f"{path} is damaged; move it away to draw the curves without the settings.") from None


def _flatten(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [item for key, part in value.items() for item in _flatten(part, f"{name}.{key}" if name else key)]
    if isinstance(value, list):  # of datasets, each mostly unset
        rows = [{k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else row for row in value]
        return [(name, json.dumps(rows, ensure_ascii=False))]
    return [(name, "null" if value is None else str(value))]


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the settings in which the runs differ, a value for each run; paths and logging are left out."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = {key: [run.settings.get(key, "-") for run in runs] for key in keys}
    return {
        key: values
        for key, values in rows.items()
        if len(set(values)) > 1 and key.split(".")[0] not in ("paths", "logging")
    }


def names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of each path, as many as are needed to tell the folders apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-depth:]) for part in parts]
        if len(set(found)) == len(set(parts)):
            break
    return found
