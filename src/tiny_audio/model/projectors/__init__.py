"""Projectors: what trains. Encoder frames in, audio tokens of the decoder's width out.

A new projector is a file with a `Projector` and a line in `PROJECTORS`.
"""

from __future__ import annotations

from ...config import ProjectorConfig
from ...errors import ConfigError
from .base import Projector
from .mlp import MLPProjector

PROJECTORS: dict[str, type[Projector]] = {"mlp": MLPProjector}


def check_projector(kind: str) -> None:
    """Refuse a projector that is not built yet.

    Raises:
        ConfigError: naming those that are.
    """
    if kind not in PROJECTORS:
        raise ConfigError(
            f"model.projector_type={kind} comes in a later version; available now: {', '.join(PROJECTORS)}."
        )


def build_projector(kind: str, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> Projector:
    """Build the projector `model.projector_type=kind` between two models.

    Raises:
        ConfigError: a width that was set by hand is not that of the models, or `kind` is not built yet.
    """
    check_projector(kind)
    for key, given, actual, part in (
        ("input_dim", config.input_dim, encoder_dim, "encoder"),
        ("output_dim", config.output_dim, decoder_dim, "decoder"),
    ):
        if given is not None and given != actual:
            raise ConfigError(
                f"model.projector_config.{key} is {given}, but the {part} is {actual} wide; leave it out (null)."
            )
    return PROJECTORS[kind](config, encoder_dim, decoder_dim)


__all__ = ["PROJECTORS", "Projector", "build_projector", "check_projector"]
