"""A sparse mixture of experts: a router sends each token to its best few experts; the other experts do not run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import gelu

from ...config import ProjectorConfig
from ...lengths import num_stacked_tokens
from ..dropout import dropout
from .base import Projected, Projector, stack_frames


class MoEProjector(Projector):
    """Sparsely gated mixture of experts (arXiv 1701.06538) on `frame_stack` stacked frames.

    A linear router gives each token a probability of every expert. The `num_experts_per_token` likeliest experts read
    the token. The result is the sum of their outputs, weighted by their probabilities, which are scaled to add up to
    one. The auxiliary loss prevents the router from using only a few experts: see `balance_loss`.

    At 1280 -> 1024 with 8 experts of width 512, two active, and frame_stack 4: 8 x (5120 -> 512 -> 1024) and a router
    5120 -> 8 without bias, 25,219,072 parameters, of which 6,335,488 are active for a token. Dropout acts on the hidden
    units of an expert.

    Dimensions: see `base`; H units of an expert, A active experts of a token. Frames (N, D) become tokens (T, W) with
    T = sum of n_i // frame_stack.
    """

    title = "MoE"

    def __init__(self, config: ProjectorConfig, encoder_dim: int, decoder_dim: int) -> None:
        super().__init__(config, encoder_dim, decoder_dim)
        self.num_experts = config.num_experts or 8
        width, units = encoder_dim * config.frame_stack, config.expert_dim
        self.router = nn.Linear(width, self.num_experts, bias=False)
        self.up = nn.Parameter(torch.empty(self.num_experts, width, units))
        self.up_bias = nn.Parameter(torch.zeros(self.num_experts, units))
        self.down = nn.Parameter(torch.empty(self.num_experts, units, decoder_dim))
        self.down_bias = nn.Parameter(torch.zeros(self.num_experts, decoder_dim))
        for weight in (self.up, self.down):  # as `nn.Linear` initializes
            nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)

    def matrices(self) -> list[Tensor]:
        """Return the experts' weights."""
        return [self.up, self.down]

    def num_tokens(self, num_frames: int) -> int:
        """See `Projector.num_tokens`."""
        return num_stacked_tokens(num_frames, self.config.frame_stack)

    def forward(self, frames: Tensor, lengths: list[int]) -> Projected:
        """See `Projector.forward`."""
        stacked = stack_frames(frames, lengths, self.config.frame_stack)  # (T, frame_stack * D)
        with torch.autocast(stacked.device.type, enabled=False):  # rounding would change the choice of experts
            probabilities = self.router(stacked.float()).softmax(-1)  # (T, E)
        weights, chosen = probabilities.topk(self.config.num_experts_per_token, dim=-1)  # (T, A)
        weights = weights / weights.sum(-1, keepdim=True)
        usage = weights.new_zeros(self.num_experts).index_add_(0, chosen.flatten(), torch.ones_like(weights).flatten())
        auxiliary = self.config.load_balancing_loss_weight * balance_loss(probabilities)
        return Projected(self._read(stacked, weights, chosen), auxiliary, usage)

    def _read(self, stacked: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Run the chosen experts; tokens are sorted by expert, so that each expert is one block of a grouped product.

        If torch has no grouped product for this device, precision or these widths, all experts read all tokens. This is
        more work, but on a GPU the host does not wait for it.
        """
        widths = (*self.up.shape[1:], self.down.shape[2])
        if not len(stacked) or not has_grouped_mm(stacked.device, _precision(self.up), *widths):
            return self.read_densely(stacked, weights, chosen)
        order = chosen.flatten().argsort(stable=True)  # (T * A,)
        token, expert = order // chosen.shape[1], chosen.flatten()[order]
        ends = torch.searchsorted(expert, torch.arange(self.num_experts, device=expert.device), right=True).int()
        hidden = gelu(_grouped_mm(stacked[token], self.up, ends) + self.up_bias[expert])
        hidden = dropout(hidden, self.config.dropout, self.training)
        read = (_grouped_mm(hidden, self.down, ends) + self.down_bias[expert]) * weights.flatten()[order][:, None]
        # Sorted back rather than added up by index: a GPU adds in no fixed order.
        return read[order.argsort()].unflatten(0, chosen.shape).sum(1)

    def read_densely(self, stacked: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Do the same with all experts, those not chosen at weight 0: the simplest way, and the reference in tests."""
        gates = torch.zeros(len(stacked), self.num_experts, device=stacked.device).scatter(1, chosen, weights)
        hidden = gelu(torch.einsum("td,edh->teh", stacked, self.up) + self.up_bias)
        hidden = dropout(hidden, self.config.dropout, self.training)
        return torch.einsum("te,tew->tw", gates, torch.einsum("teh,ehw->tew", hidden, self.down) + self.down_bias)

    def output_layer(self) -> list[Tensor]:
        """See `Projector.output_layer`."""
        return [self.down, self.down_bias]


def balance_loss(probabilities: Tensor) -> Tensor:
    """Return the squared coefficient of variation of the experts' importance (arXiv 1701.06538, section 4).

    It is 0 if all experts are equally likely on average, and E - 1 if one expert always has probability 1.

    Args:
        probabilities: (T, E), of real tokens only.
    """
    num_experts = probabilities.shape[1]
    importance = probabilities.sum(0) / max(len(probabilities), 1)
    return importance.var(unbiased=False) * num_experts**2


def has_grouped_mm(device: torch.device, dtype: torch.dtype, *widths: int) -> bool:
    """Whether torch can multiply each group of rows by its own matrix on this device (torch 2.10 on).

    Rows must begin at multiples of 16 bytes, which widths that are multiples of 8 satisfy in any precision. On a GPU
    the kernel is for bf16 on Hopper and Blackwell (compute capability 9 and 10). In all other cases torch reads the
    ends of the groups on the host, which then waits for the GPU at each product.
    """
    if device.type == "cuda":
        kernel = dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] in (9, 10)
    else:
        kernel = device.type == "cpu"
    return kernel and hasattr(functional, "grouped_mm") and all(width % 8 == 0 for width in widths)


def _precision(matrices: Tensor) -> torch.dtype:
    """Return the precision of `_grouped_mm`, which autocast does not cast for."""
    kind = matrices.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else matrices.dtype


def _grouped_mm(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows (R, K) by matrices (E, K, M): rows up to ends[0] by the first, and so on; ends is (E,) int32."""
    dtype = _precision(matrices)
    return functional.grouped_mm(rows.to(dtype), matrices.to(dtype), offs=ends)
