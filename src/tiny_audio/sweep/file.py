"""Reads W&B's `sweep.yaml` for a search on this machine; unsupported keys are refused by name.

The format: https://docs.wandb.ai/guides/sweeps/sweep-config-keys
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config_errors import did_you_mean
from ..errors import UserError

if TYPE_CHECKING:
    from optuna.trial import Trial

METHODS = ("bayes", "random", "grid")
METRIC = re.compile(r"(eval|train|custom)/\w+")  # the names in metrics.jsonl
KEYS = ("program", "command", "method", "metric", "parameters", "early_terminate", "name", "run_cap")
KEYS_OF_WANDB = ("project", "entity", "description")  # where and how W&B shows it: no effect here
MACROS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_no_hyphens}")
KINDS = {  # of parameters: their distribution, and its keys
    "constant": ("value",),
    "categorical": ("values",),
    "uniform": ("min", "max"),
    "int_uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
}


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched: one of `choices`, or a number from `low` to `high`.

    Attributes:
        name: as it is typed: `training.learning_rate`.
        choices: values as they are typed.
        step: numbers are `low`, `low + step`, ...; None: any number in the range.
        log: drawn evenly over orders of magnitude.
    """

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return isinstance(self.low, int)

    def edges(self) -> tuple[str, ...]:
        """Every choice, or the two ends of the range: if these are valid, all values between are valid."""
        return self.choices or (typed(self.low), typed(self.high))

    def grid(self) -> tuple[str | int, ...]:
        """All values, for `method: grid`; empty if they cannot be counted."""
        if self.choices or not self.is_whole:
            return self.choices
        return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))

    def suggest(self, trial: Trial) -> str:
        """Return Optuna's choice as it is typed on the command line; a resumed trial gets its earlier value."""
        if self.choices:
            return self.typed(trial.suggest_categorical(self.name, self.choices))
        if self.is_whole:
            return self.typed(trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1)))
        return self.typed(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log))

    def typed(self, value: Any) -> str:
        """Return one of Optuna's values as it is typed; numbers get four digits, to be readable."""
        return typed(float(f"{value:.4g}")) if isinstance(value, float) else str(value)


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


def typed(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and not re.fullmatch(r"[\w./:+-]+", value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def flat(parameters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield parameters with their dotted names; W&B also allows a `parameters` block within a parameter."""
    for name, value in parameters.items():
        given = group(f"parameters.{prefix}{name}", value)
        if "parameters" in given:
            only(given, ("parameters",), f"parameters.{prefix}{name}.")
            yield from flat(group(f"parameters.{prefix}{name}.parameters", given["parameters"]), f"{prefix}{name}.")
        else:
            yield prefix + str(name), given


def read_parameter(name: str, given: dict[str, Any]) -> Parameter:
    """Read one parameter.

    Raises:
        UserError: its distribution is not supported here, or a value is wrong; the message names the key.
    """
    where = f"parameters.{name}"
    kind = given.get("distribution", _inferred(given))
    if kind not in KINDS:
        raise UserError(f"{where}.distribution must be one of {', '.join(KINDS)}, got {kind}.")
    only(given, ("distribution", *KINDS[kind]), f"{where}.")
    for key in KINDS[kind]:
        if key not in given and key != "q":
            raise UserError(f"{where}.{key} is missing.")
    if kind == "constant":
        return Parameter(name, (typed(given["value"]),))
    if kind == "categorical":
        if not isinstance(given["values"], list) or not given["values"]:
            raise UserError(f"{where}.values must be a list with a value or more, got {given['values']}.")
        return Parameter(name, tuple(dict.fromkeys(map(typed, given["values"]))))
    return _read_range(name, where, kind, given)


def _read_range(name: str, where: str, kind: str, given: dict[str, Any]) -> Parameter:
    low, high, step = (_number(f"{where}.{key}", given.get(key, 1)) for key in ("min", "max", "q"))
    if low >= high:
        raise UserError(f"{where}.min must be smaller than max, got {low} and {high}.")
    if kind == "log_uniform_values" and low <= 0:
        raise UserError(f"{where}.min must be greater than 0, got {low}.")
    if step <= 0:
        raise UserError(f"{where}.q must be greater than 0, got {step}.")
    whole = all(isinstance(value, int) for value in (low, high, step))
    if kind == "int_uniform" and not whole:
        raise UserError(f"{where}: int_uniform takes whole numbers, got {low} and {high}.")
    if kind == "int_uniform" or (kind == "q_uniform" and whole):
        return Parameter(name, low=low, high=high - (high - low) % step, step=step)
    if kind == "q_uniform":
        last = low + step * math.floor((high - low) / step + 1e-9)
        return Parameter(name, low=float(low), high=float(last), step=float(step))
    return Parameter(name, low=float(low), high=float(high), log=kind == "log_uniform_values")


def _inferred(given: dict[str, Any]) -> str:
    """The distribution that W&B uses if none is named."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical"
    return "int_uniform" if all(isinstance(given.get(key), int) for key in ("min", "max")) else "uniform"


def only(given: dict[str, Any], known: Iterable[str], prefix: str = "") -> None:
    """Refuse unknown keys."""
    for key in given:
        if key not in known:
            raise UserError(f"`ta sweep` does not know {prefix}{key}.{did_you_mean(str(key), known)}")


def group(where: str, value: Any) -> dict[str, Any]:
    """Return a value that must be a group of keys."""
    if not isinstance(value, dict) or not value:
        raise UserError(f"{where} must be a group of keys, got {'nothing' if value is None else value}.")
    return value


def one_of(where: str, value: Any, known: Sequence[str]) -> str:
    """Return a value that must be one of those known."""
    if value not in known:
        raise UserError(f"{where} must be {' or '.join(known)}, got {'nothing' if value is None else value}.")
    return str(value)


def _number(where: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = " (to YAML, 1e-5 is text; write 1.0e-5)" if isinstance(value, str) else ""
        raise UserError(f"{where} must be a number, got {value}{hint}.")
    return value


def at_least(where: str, value: Any, least: int) -> int:
    """Return a value that must be a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{where} must be a whole number of at least {least}, got {value}.")
    return value
