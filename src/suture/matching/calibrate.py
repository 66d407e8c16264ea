"""What a likeness of layers is worth: a grid of spaces against chance, against the token, and cell against cell.

1. Every space is prepared once per measure (a Gram matrix, a list of neighbours ..); shuffles permute what is prepared.
2. Chance: documents of the second side dealt out anew, each whole. The bar is the 95 % point of the LARGEST value of
   the whole grid (2602.14486), p counts the draws that reach a cell. A bar from shuffled rows is far too low: rows of a
   document resemble each other.
3. The token: the mean over shuffles among rows of the same token, which any model that tells tokens apart reaches.
4. Every cell passes 2. Which layers are most alike is another question: differences to the best cell, and their error
   from halves of the documents (delete-half jackknife). Cells within 1.96 errors are not told apart from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from numpy import ndarray
from torch import Tensor

from suture import seeds
from suture.matching import similarity

CONFIDENCE, TOLD_APART = 0.95, 1.96


@dataclass(frozen=True)
class Measure:
    """A likeness in three parts, so that shuffling does not compute everything again."""

    name: str
    prepare: Callable[[Tensor, Tensor], Tensor]
    """From activations [row, width] and the rows' tokens."""
    compare: Callable[[Tensor, Tensor], float]
    permute: Callable[[Tensor, Tensor], Tensor]
    """What would have been prepared from the rows in another order, leaving out rows of the old order's own token."""


def _square(ranks: Tensor) -> Tensor:
    """Ranked distances as a matrix, zero on the diagonal, scaled so that a product's sum is the correlation."""
    n = round((1 + np.sqrt(1 + 8 * len(ranks))) / 2)
    full = torch.zeros(n, n, dtype=ranks.dtype)
    i, j = torch.triu_indices(n, n, offset=1)
    full[i, j] = ranks / np.sqrt(len(ranks))
    return (full + full.T) / np.sqrt(2)


def _both(matrix: Tensor, order: Tensor) -> Tensor:
    return matrix[order][:, order]


def _renamed(neighbours: Tensor, order: Tensor) -> Tensor:
    moved = neighbours[order]
    return torch.argsort(order)[moved].where(moved >= 0, -1)


CKA = Measure("cka", lambda x, _: similarity.debiased_gram(x), similarity.gram_cka, _both)
KNN = Measure(
    "mutual_knn",
    lambda x, tokens: similarity.neighbours(x, tokens=tokens),
    similarity.shared_neighbours,
    _renamed,
)
RSA = Measure(
    "rsa",
    lambda x, _: _square(similarity.ranked_distances(x)),
    lambda a, b: float((a * b).sum()),
    _both,
)
SVCCA = Measure(
    "svcca",
    lambda x, _: similarity.leading(x),
    lambda a, b: float(similarity.canonical_correlations(a, b).mean()),
    lambda u, order: u[order],
)
MEASURES = {measure.name: measure for measure in (CKA, KNN, RSA, SVCCA)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Spaces of one side against spaces of the other, by one measure."""

    measure: str
    value: Float64[ndarray, "one other"]
    bar: float
    """What the largest cell of a grid of chance stays below 19 times of 20."""
    p: Float64[ndarray, "one other"]
    """Corrected for the whole grid, since it is held against the largest of each draw."""
    token: Float64[ndarray, "one other"]
    """What shuffling within tokens leaves."""
    z: Float64[ndarray, "one other"]
    """The best cell minus this one, in errors; 0 at the best."""

    @property
    def calibrated(self) -> Float64[ndarray, "one other"]:
        """0 at the bar, 1 at identity."""
        return np.maximum(0.0, (self.value - self.bar) / (1 - self.bar))

    @property
    def best(self) -> tuple[int, int]:
        """The cell of the largest value."""
        i, j = np.unravel_index(int(self.value.argmax()), self.value.shape)
        return int(i), int(j)

    @property
    def not_told_apart(self) -> Bool[ndarray, "one other"]:
        """Cells that may well be the best, the best among them."""
        return self.z < TOLD_APART


def grid(
    one: Sequence[Tensor],
    other: Sequence[Tensor],
    documents: Int[Tensor, "row"],
    tokens: Int[Tensor, "row"],
    measure: Measure,
    *,
    n_draws: int = 30,
    n_halves: int = 24,
    seed: int = 0,
) -> Grid:
    """Every space of one side against every space of the other: matrices [row, width] of the same rows.

    Rows lie in document order, as many of every document (`similarity.even_rows`). `n_draws` shuffles of each kind;
    `n_halves` halves of the documents.
    """
    generator = seeds.numpy_generator("shuffled rows", seed)
    left, right = ([measure.prepare(x, tokens) for x in side] for side in (one, other))

    def values(order: Tensor | None = None) -> ndarray:
        moved = right if order is None else [measure.permute(b, order) for b in right]
        return np.array([[measure.compare(a, b) for b in moved] for a in left])

    value = values()
    dealt = (similarity.documents_dealt(documents, generator) for _ in range(n_draws))
    largest = np.array([values(order).max() for order in dealt])  # 2
    within = [values(similarity.within_tokens(tokens, generator)) for _ in range(n_draws)]  # 3
    return Grid(
        measure=measure.name,
        value=value,
        bar=float(np.quantile(largest, CONFIDENCE)),
        p=(1 + (largest[:, None, None] >= value).sum(0)) / (1 + n_draws),
        token=np.mean(within, axis=0),
        z=_from_the_best(value, _halves(one, other, documents, tokens, measure, n_halves, generator)),
    )


def _halves(
    one: Sequence[Tensor],
    other: Sequence[Tensor],
    documents: Tensor,
    tokens: Tensor,
    measure: Measure,
    n_halves: int,
    generator: np.random.Generator,
) -> Float64[ndarray, "half one other"]:
    """The grid on halves of the documents."""
    numbers = documents.unique().numpy()
    found = []
    for _ in range(n_halves):
        chosen = torch.from_numpy(generator.permutation(numbers)[: len(numbers) // 2])
        rows = torch.isin(documents, chosen)
        left, right = ([measure.prepare(x[rows], tokens[rows]) for x in side] for side in (one, other))
        found.append([[measure.compare(a, b) for b in right] for a in left])
    return np.array(found)


def _from_the_best(
    value: Float64[ndarray, "one other"], halves: Float64[ndarray, "half one other"]
) -> Float64[ndarray, "one other"]:
    """4."""
    i, j = np.unravel_index(int(value.argmax()), value.shape)
    difference = halves[:, i, j][:, None, None] - halves
    error = difference.std(axis=0)
    return np.divide(value[i, j] - value, error, out=np.zeros_like(value), where=error > 0)
