"""The settings of a run: typed schemas of `configs/`, validated once, when they are built. It does not import torch.

Every field is a user's choice. Values that are known only at run time (the device, the encoder's width) are passed
beside these objects and never stored in them. `__post_init__` checks ranges and choices; its errors name the setting
as it is typed on the command line.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..config_errors import explain
from ..errors import ConfigError
from .checks import DEVICES, check_device
from .data import AUGMENTATIONS, TEXT_CASES, DataConfig, DatasetConfig
from .model import (
    CHECKPOINTS_OWN,
    ENCODER_WINDOWS,
    MAX_BEAMS,
    PROJECTORS,
    LoraConfig,
    ModelConfig,
    ProjectorConfig,
    SearchChanges,
    SearchConfig,
)
from .surroundings import ATTENTIONS, PRECISIONS, HardwareConfig, LoggingConfig, PathsConfig
from .training import METRICS, SCHEDULES, TrainingConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = [
    "ATTENTIONS",
    "AUGMENTATIONS",
    "CHECKPOINTS_OWN",
    "DEVICES",
    "ENCODER_WINDOWS",
    "MAX_BEAMS",
    "METRICS",
    "PRECISIONS",
    "PROJECTORS",
    "SCHEDULES",
    "TEXT_CASES",
    "Config",
    "DataConfig",
    "DatasetConfig",
    "HardwareConfig",
    "LoggingConfig",
    "LoraConfig",
    "ModelConfig",
    "PathsConfig",
    "ProjectorConfig",
    "SearchChanges",
    "SearchConfig",
    "TrainingConfig",
    "build_config",
    "check_device",
]


@dataclass
class Config:
    """All settings of a run."""

    experiment: str = "transcription"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        model = self.model
        hidden = model.frame_masking, model.channel_masking, model.projector_config.dropout
        if self.training.ctc_consistency_weight and not any(hidden):
            raise ConfigError(
                "training.ctc_consistency_weight compares two versions of a clip, and nothing makes them differ: set "
                "model.frame_masking=0.1 (or model.channel_masking, or model.projector_config.dropout)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts and lists, as they are written to `config.yaml` and into checkpoints."""
        return asdict(self)


def _refuse_interpolations(key: str, value: Any) -> None:
    """Refuse interpolations, which OmegaConf would resolve: a file must not read the environment of its user."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_interpolations(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_interpolations(key, inner)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"{key} is {value[:60]}: stored settings must be plain values; references are not resolved.")


@functools.cache
def _schema() -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.structured(Config)  # slow; never changed, see below


def build_config(values: DictConfig | Mapping[str, Any]) -> Config:
    """Turn composed YAML, or the dict that `Config.to_dict` returned, into validated settings.

    Args:
        values: in a dict, which may come from an unknown checkpoint, no interpolation (`${oc.env:...}`) is resolved.

    Raises:
        ConfigError: a setting that does not exist; a value of the wrong type, out of range, or not a choice; an
            interpolation in a dict.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(values, DictConfig):
        _refuse_interpolations("", values)
    try:
        # By plain values: a setting that `+key=value` added to a composed config is then refused like any typo.
        composed = values if isinstance(values, DictConfig) else OmegaConf.create(dict(values))
        plain = OmegaConf.to_container(composed, resolve=True)
        config = OmegaConf.to_object(OmegaConf.unsafe_merge(copy.deepcopy(_schema()), plain))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, Config)) from None
    assert isinstance(config, Config)
    return config
