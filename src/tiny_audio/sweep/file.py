"""Reads W&B's `sweep.yaml` for a search on this machine; unsupported keys are refused by name.

The format: https://docs.wandb.ai/guides/sweeps/sweep-config-keys
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .parameters import Parameter, at_least, flat, group, one_of, only, read_parameter

METHODS = ("bayes", "random", "grid")
METRIC = re.compile(r"(eval|train|custom)/\w+")  # the names in metrics.jsonl
KEYS = ("program", "command", "method", "metric", "parameters", "early_terminate", "name", "run_cap")
KEYS_OF_WANDB = ("project", "entity", "description")  # where and how W&B shows it: no effect here
MACROS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_no_hyphens}")


@dataclass(frozen=True)
class EarlyStop:
    """Successive halving: after `first`, `first * eta`, ... evaluations the best 1/eta of the trials continue."""

    first: int
    eta: int


@dataclass(frozen=True)
class Sweep:
    """The content of a `sweep.yaml`.

    Attributes:
        settings: the settings of every trial: those of `command`, and parameters with one value.
    """

    name: str
    method: str
    metric: str
    minimize: bool
    parameters: tuple[Parameter, ...]
    settings: tuple[str, ...]
    early_stop: EarlyStop | None
    run_cap: int | None

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last parameter changing fastest."""
        names = [parameter.name for parameter in self.parameters]
        return [
            dict(zip(names, values, strict=True)) for values in itertools.product(*(p.grid() for p in self.parameters))
        ]


def read_sweep(path: Path) -> Sweep:
    """Read and check a `sweep.yaml`.

    Raises:
        UserError: it cannot be read, or holds something that is not supported here; the message names the key.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return _sweep(group("the file", content), path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def merge(*settings: Iterable[str]) -> tuple[str, ...]:
    """Join settings; the later of two with the same key counts."""
    return tuple({token.partition("=")[0]: token for token in itertools.chain(*settings)}.values())


def _sweep(content: dict[str, Any], stem: str) -> Sweep:
    only(content, (*KEYS, *KEYS_OF_WANDB))
    program, run_cap = str(content.get("program", "train.py")), content.get("run_cap")
    if Path(program).name != "train.py":
        raise UserError(f"program must be train.py, got {program}.")
    method = one_of("method", content.get("method"), METHODS)
    metric = group("metric", content.get("metric"))
    only(metric, ("name", "goal"), "metric.")
    if not METRIC.fullmatch(str(metric.get("name"))):
        raise UserError(f"metric.name must be a metric such as eval/wer, got {metric.get('name')}.")
    parameters = [read_parameter(name, given) for name, given in flat(group("parameters", content.get("parameters")))]
    searched = tuple(parameter for parameter in parameters if len(parameter.choices) != 1)
    for parameter in searched:
        if method == "grid" and not parameter.grid():
            raise UserError(f"parameters.{parameter.name}: a grid needs values, or a range of whole numbers.")
    constant = [f"{parameter.name}={parameter.choices[0]}" for parameter in parameters if len(parameter.choices) == 1]
    return Sweep(
        name=re.sub(r"[^\w.-]+", "-", str(content.get("name") or stem)),
        method=method,
        metric=str(metric["name"]),
        minimize=one_of("metric.goal", metric.get("goal", "minimize"), ("minimize", "maximize")) == "minimize",
        parameters=searched,
        settings=merge(_settings(content.get("command") or []), constant),
        early_stop=_early_stop(content.get("early_terminate")),
        run_cap=None if run_cap is None else at_least("run_cap", run_cap, 1),
    )


def _settings(command: list[Any]) -> Iterator[str]:
    for token in map(str, command):
        setting = token.removeprefix("--")
        if "=" in token and not token.startswith("${"):
            yield setting
        elif token not in MACROS:
            raise UserError(f"command: {token} is neither a setting (KEY=VALUE) nor one of {', '.join(MACROS)}.")


def _early_stop(given: Any) -> EarlyStop | None:
    if given is None:
        return None
    given = group("early_terminate", given)
    only(given, ("type", "min_iter", "max_iter", "s", "eta"), "early_terminate.")
    one_of("early_terminate.type", given.get("type"), ("hyperband",))
    eta = at_least("early_terminate.eta", given.get("eta", 3), 2)
    if "min_iter" in given:
        return EarlyStop(at_least("early_terminate.min_iter", given["min_iter"], 1), eta)
    if "max_iter" not in given or "s" not in given:
        raise UserError("early_terminate needs min_iter, or max_iter and s.")
    rounds = at_least("early_terminate.s", given["s"], 1)
    return EarlyStop(max(1, at_least("early_terminate.max_iter", given["max_iter"], 1) // eta**rounds), eta)
