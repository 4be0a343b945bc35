"""The optimizer of a run and of its CTC warm-up: AdamW, or Muon for the projector's matrices and AdamW for the rest.

AdamW: Loshchilov and Hutter, arXiv 1711.05101. Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural
networks", 2024; with the step size of Liu et al., arXiv 2502.16982, so that AdamW's learning rate suits it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from ..errors import UserError

READ_THE_FLAG = ("cpu", "cuda")  # devices where a fused AdamW skips the step if `found_inf` is 1

MOMENTUM = 0.95  # of Muon
UPDATE_RMS = 0.2  # root mean square of AdamW's updates, in learning rates, as measured by Liu et al.
QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al.: singular values end between 0.7 and 1.2
ITERATIONS = 5


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], training: TrainingConfig, rate: float, precision: str
) -> torch.optim.Optimizer:
    """Return the optimizer of `training.optimizer` for the weights that train, in groups.

    Biases and norms have no weight decay. The group of the decoder's weights has their learning rate, as a multiple
    of the others', in `lr_scale`. It is fused: one kernel updates all weights, and skips the step if a flag on the
    device is set (`must_skip`).

    Args:
        named: weights and their names in `SpeechLLM`.
        training: settings.
        rate: the peak of the learning rate.
        precision: of the run, bf16, fp16 or no; Muon's products are computed in bf16 or fp32.
    """
    muon = training.optimizer == "muon"
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        if weight.requires_grad:
            part, last = name.split(".")[0], name.split(".")[-1]
            matrix = muon and part == "projector" and weight.ndim == 2 and last == "weight"
            decays = weight.ndim > 1 and not name.endswith("bias")
            groups.setdefault((part, decays, matrix), []).append(weight)
    scale = (training.decoder_learning_rate or training.learning_rate) / training.learning_rate
    described = [
        {
            "params": weights,
            "weight_decay": training.weight_decay if decays else 0.0,
            "lr_scale": scale if part == "decoder" else 1.0,
            **({"muon": matrix} if muon else {}),
        }
        for (part, decays, matrix), weights in groups.items()
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
    """Refuse the state of a checkpoint that another optimizer wrote.

    Raises:
        UserError: one is AdamW and the other is Muon.
    """
    theirs, ours = (
        "muon" if any("muon" in group for group in groups) else "adamw"
        for groups in (saved["param_groups"], optimizer.param_groups)
    )
    if theirs != ours:
        raise UserError(
            f"the checkpoint's run had training.optimizer={theirs}, and this one has {ours}; set it to {theirs}, or "
            "start from the checkpoint's weights: name it as model.checkpoint and set another paths.output_dir."
        )


class MuonAdamW(torch.optim.AdamW):
    """AdamW, fused, except for groups with `muon`: their weights (m, n) are moved by Muon.

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
        moved = 1.0 if found_inf is None else 1 - found_inf
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
            weight.sub_(update * (rate * UPDATE_RMS * math.sqrt(max(weight.shape))))


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a matrix (m, n) with the same singular vectors, and all singular values near 1 (Newton-Schulz)."""
    a, b, c = QUINTIC
    wide = matrix.to(dtype)
    if matrix.shape[0] > matrix.shape[1]:
        wide = wide.mT
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.mT if matrix.shape[0] > matrix.shape[1] else wide).to(matrix.dtype)
