"""Sets of features put into a dictionary: their exact effect together, and the greedy choice.

Single effects do not add: adding i and j changes the squared error by the sum of both and 2 C_ij <d_i, d_j>, with
C_ij = sum over rows of f_i f_j. So (2502.04878 left it at single ones):

1. `couplings`: C_ij <d_i, d_j> of some features, from the non-zeros alone; all pairs of a large dictionary are never
   needed, only those of candidates, features whose own effect is good.
2. `set_change`: the effect of a whole set, equal to what decoding with it would give.
3. `greedy`: the feature that lowers the error most, then the next given that one, until none lowers it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix

from suture.dictionary.dictionary import Dictionary
from suture.dictionary.pieces import cuts, gram
from suture.stitching.latents import Reading


def changes(reading: Reading) -> Float64[ndarray, "feature"]:
    """What each feature by itself changes in the sum of squared errors."""
    return reading.summed(reading.energy) - 2 * reading.summed(reading.overlap)


def couplings(reading: Reading, large: Dictionary, chosen: Int[ndarray, "chosen"]) -> csr_matrix:
    """1, among the chosen features, in their order; the diagonal holds their energies."""
    decoder = large.W_dec.detach()[torch.from_numpy(chosen)]
    return gram(csr_matrix(reading.large[:, chosen]), reading.kind, decoder, cuts(large))


def set_change(
    change: Float64[ndarray, "chosen"], coupled: csr_matrix, members: Sequence[int] | Int[ndarray, "member"]
) -> float:
    """2: what a set changes in the sum of squared errors; `members` are places among the chosen."""
    inside = np.zeros(len(change))
    inside[np.asarray(members, dtype=np.int64)] = 1
    both = float(inside @ (coupled @ inside)) - float(coupled.diagonal() @ inside)
    return float(change @ inside) + both


def greedy(
    change: Float64[ndarray, "chosen"], coupled: csr_matrix, *, most: int | None = None, to_the_end: bool = False
) -> tuple[Int[ndarray, "member"], Float64[ndarray, "member"]]:
    """3: places among the chosen in the order of their insertion, and what each insertion changed.

    Args:
        change: what each changes by itself.
        coupled: `couplings`.
        most: how many at most.
        to_the_end: all of them, also where none lowers the error any more.
    """
    left, found, changed = change.copy(), [], []
    for _ in range(len(change) if most is None else min(most, len(change))):
        best = int(left.argmin())
        if left[best] >= 0 and not to_the_end:
            break
        found.append(best)
        changed.append(float(left[best]))
        row = slice(coupled.indptr[best], coupled.indptr[best + 1])
        left[coupled.indices[row]] += 2 * coupled.data[row]
        left[best] = np.inf  # and stays so: a coupling added to infinity is lost
    return np.array(found, dtype=np.int64), np.array(changed)
