"""Sharding over the processes of a run (FSDP, arXiv 2304.11277), for decoders that are too large for one GPU to train.

Torch's own `fully_shard` on the composition as it is: frozen weights keep their precision, those that train stay fp32,
and the figures of a step are those of replicated processes, to rounding.
"""

from __future__ import annotations

import inspect

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import UserError
from .speech_llm import SpeechLLM


def shard(model: SpeechLLM) -> None:
    """Leave each process its share of projector and decoder, in place. The encoder stays whole on each.

    A layer of the decoder is gathered while it is read, what is around the layers for a whole pass. From now on the
    model is entered by `forward` or `assess`, by all processes together.

    Raises:
        UserError: this version of PyTorch cannot.
    """
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise UserError(f"hardware.fsdp=true needs a newer PyTorch than {torch.__version__}: pip install -U torch")
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    for layer in model.decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(model.encoder.parameters()))
    register_fsdp_forward_method(model, "assess")


def is_sharded(weight: Tensor) -> bool:
    """Whether this process holds only a share of a weight."""
    return isinstance(weight, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU. A sharded one is gathered, by all processes together, and the first gets it.

    The others get an empty one: several processes of a machine could not hold all there is of a large model.
    """
    if not isinstance(tensor, DTensor):
        return tensor.cpu()
    gathered = tensor.full_tensor()
    return gathered.cpu() if dist.get_rank() == 0 else torch.empty(0)


def shared_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, cut as the weight `like` is: what an optimizer keeps of it."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
