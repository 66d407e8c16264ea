"""Adam by blocks of rows is torch's Adam, whatever the blocks."""

import pytest
import torch
from torch import Tensor

from suture.training.adam import BETA1, BETA2, EPSILON, Adam

SHAPE = (37, 24)
RATES = (1e-2, 3e-3, 3e-3, 1e-4, 5e-2)


def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=generator) * 10.0 ** (step - 2) for step in range(len(RATES))]


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def by_blocks(n_rows: int) -> tuple[Tensor, Adam]:
    weights = start()
    adam = Adam({"W": weights})
    for rate, gradient in zip(RATES, gradients(), strict=True):
        for first in range(0, SHAPE[0], n_rows):
            rows = slice(first, min(first + n_rows, SHAPE[0]))
            adam.update("W", weights, gradient[rows].clone(), learning_rate=rate, rows=rows)
        adam.steps += 1
    return weights, adam


@pytest.mark.parametrize("n_rows", [1, 2, 5, 36, 37, 100])
def test_blocks_of_any_size_are_torchs_adam(n_rows: int) -> None:
    weights, adam = by_blocks(n_rows)
    reference = torch.nn.Parameter(start())
    optimizer = torch.optim.Adam([reference], betas=(BETA1, BETA2), eps=EPSILON, fused=True)
    for rate, gradient in zip(RATES, gradients(), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        reference.grad = gradient.clone()
        optimizer.step()
    state = optimizer.state[reference]
    assert torch.equal(weights, reference.detach())
    assert torch.equal(adam.moments["W"].first, state["exp_avg"])
    assert torch.equal(adam.moments["W"].second, state["exp_avg_sq"])
    assert adam.steps == int(state["step"]) == len(RATES)


def test_it_is_the_formula_of_the_paper() -> None:
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)."""
    weights, _ = by_blocks(8)
    w, m, v = start().double(), torch.zeros(SHAPE).double(), torch.zeros(SHAPE).double()
    for t, (rate, gradient) in enumerate(zip(RATES, gradients(), strict=True), start=1):
        g = gradient.double()
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g.square()
        w = w - rate * m / (1 - BETA1**t) / ((v / (1 - BETA2**t)).sqrt() + EPSILON)
    torch.testing.assert_close(weights.double(), w, rtol=1e-4, atol=1e-6)


def test_other_rows_and_other_parameters_are_left_alone() -> None:
    one, two = start(), start()
    adam = Adam({"one": one, "two": two})
    adam.update("one", one, torch.ones(3, SHAPE[1]), learning_rate=0.1, rows=slice(4, 7))
    changed = (one != start()).any(1).nonzero().squeeze(1).tolist()
    assert changed == [4, 5, 6]
    assert torch.equal(two, start())
    assert not adam.moments["two"].first.any()
    assert adam.moments["one"].first.any(1).nonzero().squeeze(1).tolist() == [4, 5, 6]
