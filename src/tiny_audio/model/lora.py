"""Low-rank adapters on the decoder (LoRA, arXiv 2106.09685), with peft's layers.

The adapted model stays the stock `transformers` module; only its projections get a low-rank branch. The branches are
fp32 and train under autocast; what they stand on stays frozen, in its own precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..config import LoraConfig
from ..errors import ConfigError


def add_lora(module: nn.Module, config: LoraConfig) -> None:
    """Put adapters on the projections that `config.target_modules` names; they start at no effect.

    Raises:
        ConfigError: the model has no layer of such a name, or the rank is beyond the layers' widths.
    """
    layers = {name.rsplit(".", 1)[-1]: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    names = set(layers)
    unknown = sorted(set(config.target_modules) - names)
    if unknown or not config.target_modules:
        raise ConfigError(
            f"model.lora_config.target_modules: this decoder has no {', '.join(unknown) or 'layer of an empty name'}; "
            f"there are {', '.join(sorted(names))}."
        )
    widest = max(max(layers[name].weight.shape) for name in config.target_modules)
    if config.r > widest:
        raise ConfigError(f"model.lora_config.r is {config.r}, and these layers are at most {widest} wide.")
    settings = PeftConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=list(config.target_modules),
    )
    inject_adapter_in_model(settings, module)
    for weight in lora_weights(module).values():  # peft makes them as precise as what they stand on
        weight.data = weight.data.float()


def lora_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of the adapters by name; none where there are no adapters."""
    return {name: weight for name, weight in module.named_parameters() if ".lora_" in name}


def set_lora_dropout(module: nn.Module, active: bool) -> None:
    """Switch the adapters' dropout, whatever mode the frozen model around them is in."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_dropout.train(active)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Switch off for a while what dropout there is."""
    active = [layer for layer in module.modules() if layer.training]
    for layer in active:
        layer.training = False
    try:
        yield
    finally:
        for layer in active:
            layer.training = True


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Add the adapters to the weights they stand on, and take them out: the same model without extra work.

    Exact to rounding in fp32. In bf16 much of a small update would be rounded away: merge before converting.
    """
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, LoraLayer):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())


def load_lora(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put the weights of a checkpoint into the adapters; names and shapes agree."""
    for name, weight in lora_weights(module).items():
        weight.data.copy_(weights[name])
