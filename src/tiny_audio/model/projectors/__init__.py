"""Projectors, the part that trains: encoder frames in, audio tokens of the decoder's width out.

A new projector needs a file with a `Projector` here, and a line in `config.PROJECTORS`.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module

import psutil

from ...config import PROJECTORS, ProjectorConfig
from ...errors import ConfigError
from ..weights import count_weights
from .base import Projected, Projector


def projector_class(kind: str) -> type[Projector]:
    """Return the class of `model.projector_type=kind`."""
    module, name = PROJECTORS[kind].split(".")
    found: type[Projector] = getattr(import_module(f"{__name__}.{module}"), name)
    return found


def build_projector(kind: str, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> Projector:
    """Build the projector `model.projector_type=kind` between two models.

    Raises:
        ConfigError: a width that was set differs from that of the models, or the projector does not fit into memory.
    """
    for key, given, actual, part in (
        ("input_dim", config.input_dim, encoder_dim, "encoder"),
        ("output_dim", config.output_dim, decoder_dim, "decoder"),
    ):
        if given is not None and given != actual:
            raise ConfigError(
                f"model.projector_config.{key} is {given}, but the {part} is {actual} wide; leave it out (null)."
            )
    build = partial(projector_class(kind), config, encoder_dim, decoder_dim)
    needed, room = 4 * count_weights(build), psutil.virtual_memory().total
    if needed > room:  # a mistyped width, or a checkpoint of unknown origin
        raise ConfigError(
            f"model.projector_config: this projector needs {needed / 1e9:,.0f} GB, and this machine has "
            f"{room / 1e9:,.0f} GB of memory."
        )
    return build()


__all__ = ["Projected", "Projector", "build_projector", "projector_class"]
