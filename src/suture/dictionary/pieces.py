"""Rows as a dictionary is to rebuild them, piece by piece, and sums of products of codes and decoder rows over them.

1. An item is what one code stands for: a text position in all spaces side by side, or (pooled) in one space. Pieces are
   batches of items that have the same columns: a pooled row of a narrower space ends where its space does.
2. `gram`: sum over items of f_i f_j <d_i, d_j>, from the non-zeros alone. <d_i, d_j> runs over the columns that an item
   has, so that items of different spaces are summed apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.activations.batches import sequential
from suture.activations.store import Store
from suture.dictionary.codes import Codes, Pattern
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels.sparse import sampled_product

BATCH_ROWS = 4096
PAIRS_AT_A_TIME = 2**22
"""Products of decoder rows made at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A batch of items."""

    rows: Int[Tensor, "item"]
    """Their rows in the store."""
    x: Float[Tensor, "item D"]
    """Scaled units; zeros beyond the columns."""
    model: Int[Tensor, "item"] | None
    """Pooled: the space of each."""
    kind: int
    """Which of `cuts` their columns are."""

    def codes(self, dictionary: Dictionary) -> Codes:
        """Of a dictionary over these spaces, the features of every item ascending."""
        return dictionary.encode(self.x, model=self.model).ordered


def cuts(dictionary: Dictionary) -> tuple[slice, ...]:
    """The columns that items have, each kind once: all of them, or where pooled widths differ each width's."""
    if not dictionary.masks_padding:
        return (slice(0, dictionary.width),)
    return tuple(slice(0, width) for width in sorted(set(dictionary.widths)))


def pieces(
    dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"], *, batch_rows: int = BATCH_ROWS
) -> Iterator[Piece]:
    """Rows of a store that holds the dictionary's spaces, in its order (1)."""
    stops = [cut.stop for cut in cuts(dictionary)]
    scales = [space.scale for space in dictionary.spaces]
    pooled = not dictionary.design.joint
    for at, batch in sequential(view, rows, batch_size=batch_rows, scales=scales, pooled=pooled):
        space = int(batch.model[0]) if batch.model is not None else 0
        kind = stops.index(dictionary.widths[space]) if dictionary.masks_padding else 0
        device = dictionary.W_dec.device
        model = None if batch.model is None else batch.model.to(device)
        yield Piece(rows=at, x=batch.activations.to(device), model=model, kind=kind)


def gram(
    codes: csr_matrix, kind: Int[ndarray, "item"], decoder: Float[Tensor, "feature D"], columns: Sequence[slice]
) -> csr_matrix:
    """Sum over items of f_i f_j <d_i, d_j> for every two features that ever fire together, float64 (2)."""
    total: csr_matrix | None = None
    for number, cut in enumerate(columns):
        own = codes if len(columns) == 1 else codes[kind == number]
        products = csr_matrix(own.T @ own)
        products.data *= inner_products(products, decoder[:, cut])
        total = products if total is None else csr_matrix(total + products)
    assert total is not None
    return total


def inner_products(pattern: csr_matrix, vectors: Float[Tensor, "feature width"]) -> ndarray:
    """<v_i, v_j> at every entry (i, j) of a square pattern, in its order, float64."""
    vectors, n = vectors.detach().double().contiguous(), vectors.shape[0]
    begins, found = pattern.indptr.astype(np.int64), np.empty(len(pattern.indices))
    first = 0
    while first < n:  # so many rows of the pattern at a time as hold a bounded number of entries
        last = int(np.searchsorted(begins, begins[first] + PAIRS_AT_A_TIME, side="right")) - 1
        last = min(max(last, first + 1), n)
        here = slice(int(begins[first]), int(begins[last]))
        crow = torch.from_numpy((begins[first : last + 1] - begins[first]).astype(np.int32))
        part = Pattern(crow, torch.from_numpy(pattern.indices[here].astype(np.int32)), n)
        found[here] = sampled_product(part, vectors[first:last], vectors).numpy()
        first = last
    return found


def as_sparse(codes: Codes) -> csr_matrix:
    """Codes as scipy's matrix, float64; values of zero are dropped."""
    shape = (codes.n_rows, codes.n_features)
    parts = (codes.value.double().cpu().numpy(), codes.feature.cpu().numpy(), codes.crow.cpu().numpy())
    matrix = csr_matrix(parts, shape=shape)
    matrix.eliminate_zeros()
    return matrix
