"""Low-rank adapters on the decoder (LoRA, arXiv 2106.09685), with peft's layers.

The adapted model stays the stock `transformers` module; only its projections get a low-rank branch. The branches are
fp32 and train under autocast; the layers that they are added to stay frozen, in their own precision.
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
    """Put adapters on the projections that `config.target_modules` names; at first they have no effect.

    Raises:
        ConfigError: the model has no layer of such a name, or the rank exceeds the layers' widths.
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
    for weight in lora_weights(module).values():  # peft gives them the precision of the layers below
        weight.data = weight.data.float()


def lora_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of the adapters by name; none if there are no adapters."""
    return {name: weight for name, weight in module.named_parameters() if ".lora_" in name}


def set_lora_dropout(module: nn.Module, active: bool) -> None:
    """Switch the adapters' dropout on or off, independently of the mode of the frozen model."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.lora_dropout.train(active)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Switch off all dropout within this context."""
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
    """Add the adapters to the weights of their layers, and remove them: the same model without extra work.

    This is exact to rounding in fp32. In bf16 much of a small update would be rounded away, so merge before converting.
    """
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, LoraLayer):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())


def load_lora(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of a checkpoint into the adapters; names and shapes must agree."""
    for name, weight in lora_weights(module).items():
        weight.data.copy_(weights[name])
