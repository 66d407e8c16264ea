"""How much of a number that a model gives is each feature's: integrated gradients to the ablated point, and ablation.

1. The path: from the activations as they are to those without what the features wrote, x - t sum_i f_i d_i for t from 0
   to 1; the error term stays.
2. The mean gradient along it, at the middles of equal parts (integrated gradients, 1703.01365). A gradient at the
   unedited model alone misleads: it is near zero where the model saturates, though the features are all that matters.
3. Feature i's part is sum_rows f_i <d_i, mean gradient>. The parts of all add up to what removing all of them does, as
   closely as the points follow the path; exactly where the model is linear or quadratic in its activations.
4. Measured: the number as it is less the number without the feature, the others left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Answer = Callable[[Tensor], Tensor]
"""From activations [row, width] to one number that a gradient can be taken of."""


def midpoints(n: int) -> list[float]:
    """The middles of n equal parts of the path.

    >>> midpoints(2)
    [0.25, 0.75]
    """
    return [(i + 0.5) / n for i in range(n)]


def mean_gradient(
    answer: Answer, rows: Float[Tensor, "row width"], removed: Float[Tensor, "row width"], points: Sequence[float]
) -> Float[Tensor, "row width"]:
    """The gradient of `answer` at `rows - t removed`, averaged over the points t.  (2)

    With the one point 0 it is the first-order gradient at the unedited activations.
    """
    total = torch.zeros_like(rows, dtype=torch.float64)
    for point in points:
        here = (rows - point * removed).detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(answer(here), here)
        total += gradient.double()
    return (total / len(points)).to(rows)


def parts(
    values: Float[Tensor, "row feature"], write: Float[Tensor, "feature width"], gradient: Float[Tensor, "row width"]
) -> Float[Tensor, "feature"]:
    """What each feature contributes: how far the answer falls if it goes, by this gradient; float64.  (3)"""
    return (values * (gradient @ write.T)).double().sum(0)


def integrated(
    answer: Answer,
    rows: Float[Tensor, "row width"],
    values: Float[Tensor, "row feature"],
    write: Float[Tensor, "feature width"],
    *,
    n_points: int,
) -> Float[Tensor, "feature"]:
    """Every feature's part of what removing all of them does to `answer`.  (1 to 3)

    Args:
        answer: the number looked at, of the activations.
        rows: activations, raw units.
        values: of the features at each row.
        write: what a value of 1 adds to a row, raw units.
        n_points: of the path.
    """
    return parts(values, write, mean_gradient(answer, rows, values @ write, midpoints(n_points)))


def first_order(
    answer: Answer,
    rows: Float[Tensor, "row width"],
    values: Float[Tensor, "row feature"],
    write: Float[Tensor, "feature width"],
) -> Float[Tensor, "feature"]:
    """The same by the gradient at the unedited activations: to be read beside, not believed."""
    return parts(values, write, mean_gradient(answer, rows, torch.zeros_like(rows), [0.0]))


@torch.no_grad()
def ablated(
    answers: Callable[[Float[Tensor, "edit row width"]], Float[Tensor, "edit"]],
    rows: Float[Tensor, "row width"],
    values: Float[Tensor, "row feature"],
    write: Float[Tensor, "feature width"],
    sets: Sequence[Sequence[int]],
    *,
    at_once: int = 16,
) -> Float[Tensor, "edit"]:
    """By how much the answer falls when the features of each set are removed together; float64.  (4)

    `answers` gives a number for each of several versions of the rows.
    """
    clean = answers(rows[None])[0].double()
    found = []
    for first in range(0, len(sets), at_once):
        some = sets[first : first + at_once]
        without = torch.stack([rows - values[:, list(own)] @ write[list(own)] for own in some])
        found.append(clean - answers(without).double())
    return torch.cat(found) if found else clean.new_zeros(0)
