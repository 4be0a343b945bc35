"""Sharding over the processes of a run (FSDP, arXiv 2304.11277), for decoders that are too large to train on one GPU.

Torch's own `fully_shard` is applied to the unchanged model: frozen weights keep their precision, weights that train
stay fp32, and a step gives the same figures as replicated processes, to rounding.
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
    """Keep on each process only its share of projector and decoder, in place. The encoder stays whole on each.

    A layer of the decoder is gathered while it runs; the weights around the layers are gathered for a whole pass. From
    then on all processes must call `forward` or `assess` together.

    Raises:
        UserError: this version of PyTorch cannot shard.
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
    """Return a tensor on the CPU. If it is sharded, all processes must call this, and the first gets the whole tensor.

    The others get an empty one: the processes of a machine could not each hold all of a large model.
    """
    if not isinstance(tensor, DTensor):
        return tensor.cpu()
    gathered = tensor.full_tensor()
    return gathered.cpu() if dist.get_rank() == 0 else torch.empty(0)


def shared_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, sharded like the weight `like`, for the optimizer."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
