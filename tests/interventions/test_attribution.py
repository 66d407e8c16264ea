"""Attribution on answers whose truth is known: linear, quadratic, saturated, redundant."""

import pytest
import torch
from torch import Tensor

from suture.interventions.attribution import ablated, first_order, integrated, mean_gradient, midpoints, parts

ROWS, WIDTH, FEATURES = 3, 5, 4


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """rows, values (some zero), write, and a linear answer's weights."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64)
    values = torch.rand(ROWS, FEATURES, generator=draw, dtype=torch.float64)
    values[0, 1] = values[2, 3] = 0.0
    write = torch.randn(FEATURES, WIDTH, generator=draw, dtype=torch.float64)
    weights = torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64)
    return rows, values, write, weights


def test_parts_of_a_linear_answer_are_the_measured_ablations(drawn: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rows, values, write, weights = drawn
    found = integrated(lambda x: (x * weights).sum(), rows, values, write, n_points=3)
    sets = [[i] for i in range(FEATURES)] + [list(range(FEATURES))]
    measured = ablated(lambda x: (x * weights).sum((1, 2)), rows, values, write, sets, at_once=2)
    by_hand = torch.stack([(values[:, i, None] * write[i] * weights).sum() for i in range(FEATURES)])
    assert torch.allclose(found, by_hand)
    assert torch.allclose(found, measured[:-1])
    assert float(found.sum()) == pytest.approx(float(measured[-1]))
    assert torch.allclose(first_order(lambda x: (x * weights).sum(), rows, values, write), by_hand)


def test_parts_add_up_where_the_answer_is_quadratic(drawn: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """The gradient is linear along the path, so that its middle is its mean: one point is enough."""
    rows, values, write, weights = drawn
    every = [list(range(FEATURES))]
    (whole,) = ablated(lambda x: (weights * x.square()).sum((1, 2)), rows, values, write, every).tolist()
    for n_points in (1, 8):
        found = integrated(lambda x: (weights * x.square()).sum(), rows, values, write, n_points=n_points)
        assert float(found.sum()) == pytest.approx(whole)
    naive = first_order(lambda x: (weights * x.square()).sum(), rows, values, write)
    assert abs(float(naive.sum()) - whole) > 0.1


def test_where_the_answer_saturates_the_integrated_gradient_is_right_and_the_first_order_one_is_not() -> None:
    """min(x, 1) at x = 4: taking out 3 of it leaves 1, and the rest nothing; taking out all 4 costs 1."""
    rows, write = torch.tensor([[4.0]]), torch.tensor([[1.0]])
    values = torch.tensor([[4.0]])

    def answer(x: Tensor) -> Tensor:
        return x.clamp_max(1.0).sum()

    (measured,) = ablated(lambda x: x.clamp_max(1.0).sum((1, 2)), rows, values, write, [[0]]).tolist()
    assert measured == 1.0
    assert first_order(answer, rows, values, write).tolist() == [0.0]
    assert integrated(answer, rows, values, write, n_points=8).tolist() == [1.0]


def test_redundant_features_share_what_neither_is_worth_alone() -> None:
    rows, write = torch.tensor([[2.0]]), torch.ones(2, 1)
    values = torch.ones(1, 2)
    alone = ablated(lambda x: x.clamp_max(1.0).sum((1, 2)), rows, values, write, [[0], [1], [0, 1]])
    assert alone.tolist() == [0.0, 0.0, 1.0]
    assert integrated(lambda x: x.clamp_max(1.0).sum(), rows, values, write, n_points=10).tolist() == [0.5, 0.5]


def test_the_mean_gradient_is_taken_along_the_path() -> None:
    rows, removed = torch.tensor([[3.0]]), torch.tensor([[2.0]])
    gradient = mean_gradient(lambda x: x.pow(2).sum(), rows, removed, [0.0, 1.0])
    assert float(gradient) == pytest.approx((2 * 3.0 + 2 * 1.0) / 2)
    assert float(parts(torch.tensor([[2.0]]), torch.tensor([[1.0]]), gradient)) == pytest.approx(8.0)
    assert midpoints(4) == [0.125, 0.375, 0.625, 0.875]


def test_nothing_that_fires_has_no_part() -> None:
    rows = torch.ones(2, 3)
    nothing = torch.zeros(2, 0), torch.zeros(0, 3)
    assert integrated(lambda x: x.sum(), rows, *nothing, n_points=2).shape == (0,)
    assert ablated(lambda x: x.sum((1, 2)), rows, *nothing, [[]]).tolist() == [0.0]
