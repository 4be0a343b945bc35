"""The optimizer of a run and of its CTC warm-up: AdamW, or Muon for the projector's matrices and AdamW for the rest.

AdamW: Loshchilov and Hutter, arXiv 1711.05101. Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural
networks", 2024; with the step size of Liu et al., arXiv 2502.16982, so that AdamW's learning rate suits it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from ..errors import UserError
from ..model.speech_llm import SpeechLLM

READ_THE_FLAG = ("cpu", "cuda")  # devices where a fused AdamW skips the step if `found_inf` is 1

PARTS = ("projector", "ctc", "decoder")  # of `SpeechLLM`, which may train

MOMENTUM = 0.95  # of Muon
UPDATE_RMS = 0.2  # root mean square of AdamW's updates, in learning rates, as measured by Liu et al.
QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al.: singular values end between 0.7 and 1.2
ITERATIONS = 5


def build_optimizer(
    model: SpeechLLM,
    training: TrainingConfig,
    rate: float,
    precision: str,
    parts: Sequence[str] = PARTS,
    output_gain: float = 1.0,
) -> torch.optim.Optimizer:
    """Return the optimizer of `training.optimizer` for the weights that train, in groups.

    Biases and norms have no weight decay. `lr_scale` is a group's learning rate as a multiple of `rate`.

    The CTC warm-up makes the projector's output 10 to 60 times too large for the decoder, and ends by dividing its
    output layer by that. A step of the same size would then change this layer as many times as much, and forget the
    warm-up in a few steps; one smaller by the whole gain learns the decoder's loss too slowly. So the learning rate of
    the layer is multiplied by the root of the gain, and its weight decay divided by it: since the size of AdamW's and
    Muon's steps does not depend on that of the gradient, it learns as if one half of the gain (its root) were in the
    weights, and the other half multiplied the output.

    Args:
        model: whose weights train.
        training: settings.
        rate: the peak of the learning rate.
        precision: of the run, bf16, fp16 or no; Muon's products are computed in bf16 or fp32.
        parts: of the model that train.
        output_gain: by what the projector's output layer was multiplied after the warm-up.
    """
    muon, root = training.optimizer == "muon", math.sqrt(output_gain)
    matrices = {id(weight) for weight in model.projector.matrices()} if muon else set()
    scaled = {id(weight) for weight in model.projector.output_layer()} if output_gain != 1 else set()
    groups: dict[tuple[str, bool, bool, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        part = name.split(".")[0]
        if weight.requires_grad and part in parts:
            decays = weight.ndim > 1 and not name.endswith("bias")
            kind = part, decays, id(weight) in matrices, id(weight) in scaled
            groups.setdefault(kind, []).append(weight)
    of_decoder = (training.decoder_learning_rate or training.learning_rate) / training.learning_rate
    described = [
        {
            "params": weights,
            "weight_decay": training.weight_decay / (root if output else 1.0) if decays else 0.0,
            "lr_scale": of_decoder if part == "decoder" else root if output else 1.0,
            **({"muon": matrix} if muon else {}),
        }
        for (part, decays, matrix, output), weights in groups.items()
    ]
    betas = (training.adam_beta1, training.adam_beta2)
    if muon:
        return MuonAdamW(described, rate, betas, torch.bfloat16 if precision == "bf16" else torch.float32)
    return torch.optim.AdamW(described, rate, betas, fused=True)


def must_skip(optimizer: torch.optim.Optimizer, nonfinite: Tensor) -> bool:
    """Make the optimizer skip the next step if the gradient is not finite; return whether the caller must skip it.

    A fused optimizer reads the flag on the device, as it reads the flag of a loss scaler, so the host need not wait
    for it. Apple's kernel does not read the flag, so the host does.

    Args:
        optimizer: as `build_optimizer` makes it.
        nonfinite: 1.0 or 0.0, on the device.
    """
    if nonfinite.device.type in READ_THE_FLAG:
        optimizer.found_inf = nonfinite  # type: ignore[attr-defined]
        return False
    return bool(nonfinite)


def refuse_another(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse the state of a checkpoint that another optimizer wrote, or one of other weights.

    Raises:
        UserError: it is; says what to do.
    """
    fresh = "set another paths.output_dir for a new run, which model.checkpoint starts from the checkpoint's weights."
    theirs, ours = saved["param_groups"], optimizer.param_groups
    names = ["muon" if any("muon" in group for group in groups) else "adamw" for groups in (theirs, ours)]
    if names[0] != names[1]:
        raise UserError(
            f"the checkpoint's run had training.optimizer={names[0]}, and this one has {names[1]}; set "
            f"training.optimizer={names[0]} to go on, or {fresh}"
        )
    if [len(group["params"]) for group in theirs] != [len(group["params"]) for group in ours]:
        raise UserError(f"the checkpoint's run trained other parts (projector, LoRA, decoder) than this one; {fresh}")


class MuonAdamW(torch.optim.AdamW):
    """AdamW, fused, except for groups with `muon`: their weights (..., m, n) are moved by Muon.

    Muon averages the gradients and moves a matrix by the nearest orthogonal one, so all its directions learn equally
    fast, also those whose gradients are small.

    Args:
        groups: dicts of `params`, `weight_decay` and `muon`.
        rate: learning rate.
        betas: of AdamW.
        dtype: of the products in `orthogonalize`.
    """

    def __init__(
        self, groups: list[dict[str, Any]], rate: float, betas: tuple[float, float], dtype: torch.dtype
    ) -> None:
        super().__init__(groups, rate, betas, fused=True)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights; none of them, and no moments, if the flag `found_inf` is 1."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._move_matrices(group, getattr(self, "found_inf", None))

    def _move_matrices(self, group: dict[str, Any], found_inf: Tensor | None) -> None:
        moved = 1.0 if found_inf is None else (found_inf == 0).float()
        rate = group["lr"] * moved
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros((), device=weight.device)  # AdamW wants all weights to have it
                state["mean"] = torch.zeros_like(weight)
            state["step"] += moved
            mean, gradient = state["mean"], weight.grad
            if found_inf is not None:
                gradient = torch.where(found_inf > 0, mean, gradient)  # which leaves the mean as it is
            mean.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalize(gradient.lerp(mean, MOMENTUM), self.dtype)  # Nesterov's momentum
            weight.mul_(1 - rate * group["weight_decay"])
            weight.sub_(update * (rate * UPDATE_RMS * math.sqrt(max(weight.shape[-2:]))))


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Return matrices (..., m, n) with the same singular vectors, and singular values near 1 (Newton-Schulz)."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if tall else matrices).to(dtype)
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.mT if tall else wide).to(matrices.dtype)
