"""Checks of the values of settings; each error names the setting as it is typed, and the value that was given."""

from __future__ import annotations

import math
import re

from ..config_errors import did_you_mean
from ..errors import ConfigError

DEVICES = ("auto", "cuda", "mps", "cpu")


def finite(key: str, value: float | None) -> None:
    """Refuse infinities and NaN."""
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value:g}.")


def at_least(key: str, value: float | None, low: float) -> None:
    """Refuse a value below `low`; None is allowed."""
    finite(key, value)
    if value is not None and value < low:
        raise ConfigError(f"{key} must be at least {low:g}, got {value:g}.")


def at_most(key: str, value: float | None, high: float) -> None:
    """Refuse a value above `high`; None is allowed."""
    if value is not None and value > high:
        raise ConfigError(f"{key} must be at most {high:g}, got {value:g}.")


def above(key: str, value: float | None, low: float) -> None:
    """Refuse a value that is not greater than `low`; None is allowed."""
    finite(key, value)
    if value is not None and value <= low:
        raise ConfigError(f"{key} must be greater than {low:g}, got {value:g}.")


def fraction(key: str, value: float | None) -> None:
    """Refuse a value outside [0, 1)."""
    if value is not None and not 0 <= value < 1:
        raise ConfigError(f"{key} must be at least 0 and below 1, got {value:g}.")


def choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the allowed words."""
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise ConfigError(f"{key} must be one of {', '.join(allowed)}, got {value}.{hint}")


def check_device(key: str, device: str) -> None:
    """Refuse a value that is not the name of a device: auto, cuda, cuda:N, mps, cpu.

    Raises:
        ConfigError: it is not; names `key`, the setting or option that was typed.
    """
    if device.lower() in ("gpu", "nvidia", "rocm"):
        raise ConfigError(f"{key} must be one of {', '.join(DEVICES)}, got {device}. Did you mean cuda?")
    if not re.fullmatch(r"cuda:\d+", device):
        choice(key, device, DEVICES)
