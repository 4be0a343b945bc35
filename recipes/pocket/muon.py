"""Muon: momentum whose steps are made orthogonal (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

`torch.optim.Muon` does the same in bfloat16, which is twenty times slower on a CPU without bfloat16 units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalised(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return about the nearest semi-orthogonal matrix to (rows, columns), by a Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """The optimizer, for matrices only."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with Nesterov momentum and decoupled weight decay."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(state["momentum"], group["momentum"]))
                update *= max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def muon_and_adam(model: nn.Module, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a transformer's `layers`, AdamW for the rest (embeddings, norms, ...)."""
    matrices = [p for name, p in model.named_parameters() if "layers." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(matrices, lr=muon_rate), torch.optim.AdamW(others, lr=adam_rate, weight_decay=0.01)]


def learning_rate_factor(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Return the share of the top rate: a linear warmup, a plateau, a cosine over the last `decay_share`."""
    left = min(1.0, (steps - step) / max(1, int(steps * decay_share)))
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 - math.cos(math.pi * left)))
