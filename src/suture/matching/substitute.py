"""Substitution: the partner's code in the feature's place. How much of what the feature explains does it explain?

Of a dictionary's rows x = sum_i f_i d_i + e (plus offset), feature i's part f_i d_i becomes c g_j d_i, g_j the
partner's code and c = <f, g> / <g, g> from the pairing half. Per feature, from sums over the scoring half alone,

    cost(h) = 2 <h - f, -u> + ||d||^2 ||h - f||^2,  u = e d the error along the direction, h what stands in f's place;
    recovered = 1 - cost(c g) / cost(0).

A partner that is equal recovers 1, one that knows nothing 0. Between r squared and r for real pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.dictionary.pieces import as_sparse
from suture.matching.kinds import products
from suture.matching.read import Side


def recovered(
    side: Side,
    scoring_rows: Int[Tensor, "row"],
    pairing: tuple[csr_matrix, csr_matrix],
    scoring: tuple[csr_matrix, csr_matrix],
    pairs: tuple[ndarray, ndarray],
) -> Float64[ndarray, "pair"]:
    """The share recovered of each pair (feature of `side`, feature of the other); NaN where the feature costs nothing.

    `scoring` are the codes of `scoring_rows`.
    """
    a, b = pairs
    along_f, along_g = _error_along(side, scoring_rows, scoring[1], pairs)
    weight = side.dictionary.W_dec.detach()[:, side.columns].double().norm(dim=1).numpy()[a] ** 2
    gg = products(pairing[1], pairing[1], b, b)
    fg = products(*pairing, a, b)
    c = np.divide(np.maximum(fg, 0), gg, out=np.zeros_like(gg), where=gg > 0)
    ff, gg = products(scoring[0], scoring[0], a, a), products(scoring[1], scoring[1], b, b)
    fg = products(*scoring, a, b)
    without = 2 * along_f + weight * ff
    instead = 2 * (along_f - c * along_g) + weight * (ff - 2 * c * fg + c**2 * gg)
    return np.where(without > 0, 1 - instead / np.where(without > 0, without, 1), np.nan)


def _error_along(
    side: Side, rows: Int[Tensor, "row"], other: csr_matrix, pairs: tuple[ndarray, ndarray]
) -> tuple[ndarray, ndarray]:
    """<f, u> and <g, u> of each pair, u the error along the direction of the pair's feature of `side`."""
    direction = side.dictionary.W_dec.detach()[:, side.columns].double().numpy()
    of_f = np.zeros(direction.shape)
    of_g = np.zeros((other.shape[1], direction.shape[1]))  # pyright: ignore[reportOptionalSubscript]
    part = side.share(len(rows))
    start = part.start
    for codes, error in side.batches(rows[part]):
        e = error.double().numpy()
        of_f += as_sparse(codes).T @ e
        of_g += other[start : start + len(e)].T @ e
        start += len(e)
    for sums in (of_f, of_g):
        side.ranks.add_up(torch.from_numpy(sums))
    a, b = pairs
    return (of_f[a] * direction[a]).sum(1), (of_g[b] * direction[a]).sum(1)
