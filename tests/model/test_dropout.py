"""Dropout on a CPU: the same as torch's, but for which numbers it hides."""

from __future__ import annotations

import pytest
import torch

from tiny_audio.model.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_hidden_and_the_rest_scaled_up(p, dtype):
    torch.manual_seed(0)
    x = torch.full((400, 501), 2.0, dtype=dtype, requires_grad=True)
    y = dropout(x, p, True)
    assert y.dtype == dtype
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.005)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 2 / (1 - p)), rtol=0.01, atol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient == 0, y == 0), "what is hidden has no gradient"
    torch.testing.assert_close(2 * gradient, y)


def test_numbers_are_hidden_independently_of_their_neighbors():
    """Four of them share 64 random bits."""
    torch.manual_seed(0)
    hidden = (dropout(torch.ones(100_000, 8), 0.3, True) == 0).float()
    correlations = torch.corrcoef(hidden.T) - torch.eye(8)
    assert correlations.abs().max() < 0.02
    assert (hidden.mean(0) - 0.3).abs().max() < 0.01


def test_the_generator_of_torch_decides():
    x = torch.randn(7, 3)
    torch.manual_seed(1)
    first = dropout(x, 0.5, True)
    torch.manual_seed(1)
    second, other = dropout(x, 0.5, True), dropout(x, 0.5, True)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_hidden_without_a_share_or_in_use(p, training):
    x = torch.randn(5, 3)
    assert torch.equal(dropout(x, p, training), x)


def test_all_is_hidden_with_a_share_of_one():
    assert not dropout(torch.randn(5, 3), 1.0, True).any()
