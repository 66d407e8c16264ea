"""How alike are two spaces? Seven measures of two matrices of the same rows, pure functions of tensors.

| measure            | between | what it asks                                                                          |
|--------------------|---------|---------------------------------------------------------------------------------------|
| `cka`              | -1, 1   | are the rows' inner products alike? Debiased (HSIC without its bias, 2305.05779)      |
| `mutual_knn`       | 0, 1    | share of a row's k nearest rows that are so in both; rows of the same token left out  |
| `rsa`              | -1, 1   | do the rows' cosine distances rank alike (Spearman)?                                  |
| `svcca`            | 0, 1    | mean canonical correlation of the directions that hold 99 % of each variance          |
| `legacy_svcca`     | 0, 1    | the same as published for sparse dictionaries (2410.06981): of one component          |
| `pwcca`            | 0, 1    | canonical correlations weighted by what they carry of the first matrix (1806.05759)   |
| `procrustes`       | 0, 1    | how well one is a turned and scaled copy of the other: nuclear norm over both norms   |

Values of different widths and row counts do not compare: SVCCA is 0.46 for noise of 3,000 rows and 512 against 768
columns, so it never ranks; CKA here is 0 for noise. What a value is worth stands beside it in `calibrate`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

KEPT_VARIANCE = 0.99
N_NEIGHBOURS = 10


def cka(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"]) -> float:
    """Debiased linear CKA, from the rows' inner products."""
    return gram_cka(debiased_gram(a), debiased_gram(b))


def gram_cka(a: Float[Tensor, "row row"], b: Float[Tensor, "row row"]) -> float:
    """CKA of two Gram matrices that `debiased_gram` made."""
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def debiased_gram(x: Float[Tensor, "row p"]) -> Float[Tensor, "row row"]:
    """Inner products of the centred rows, U-centred: the diagonal 0, every row's sum 0."""
    n = len(x)
    assert n > 3, "four rows or more"
    x = x.double() - x.double().mean(0)
    gram = (x @ x.T).fill_diagonal_(0)
    sums = gram.sum(0)
    gram += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums[None]) / (n - 2)
    return gram.fill_diagonal_(0)


def mutual_knn(
    a: Float[Tensor, "row p"],
    b: Float[Tensor, "row q"],
    *,
    k: int = N_NEIGHBOURS,
    tokens: Int[Tensor, "row"] | None = None,
) -> float:
    """Share of each row's k nearest rows (by cosine, of centred rows) that both spaces agree on.

    With `tokens`, rows of the same token are nobody's neighbours: a token finds itself in any model.
    """
    return shared_neighbours(neighbours(a, k=k, tokens=tokens), neighbours(b, k=k, tokens=tokens))


def neighbours(
    x: Float[Tensor, "row p"], *, k: int = N_NEIGHBOURS, tokens: Int[Tensor, "row"] | None = None
) -> Int[Tensor, "row k"]:
    """The k nearest rows of each; -1 where fewer are of another token."""
    unit = torch.nn.functional.normalize(x.double() - x.double().mean(0), dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(-2)
    if tokens is not None:
        likeness[tokens[:, None] == tokens[None]] = -2
    found = likeness.topk(min(k, len(x) - 1), dim=1)
    return found.indices.where(found.values > -2, -1)


def shared_neighbours(a: Int[Tensor, "row k"], b: Int[Tensor, "row k"]) -> float:
    """The share of neighbours that two lists have in common; 0 where nobody has one."""
    there = a >= 0
    both = (a[:, :, None] == b[:, None, :]).any(2) & there
    return float(both.sum() / there.sum().clamp(min=1))


def rsa(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"]) -> float:
    """Spearman of the cosine distances between all pairs of rows."""
    one, two = ranked_distances(a), ranked_distances(b)
    return float((one * two).mean())


def ranked_distances(x: Float[Tensor, "row p"]) -> Float[Tensor, "pair"]:
    """Ranks of the distances of all pairs of rows, standardised."""
    unit = torch.nn.functional.normalize(x.double() - x.double().mean(0), dim=1)
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    ranks = torch.from_numpy(rankdata((1 - unit @ unit.T)[i, j].numpy()))
    spread = ranks.std(correction=0)
    return (ranks - ranks.mean()) / spread if spread > 0 else torch.zeros_like(ranks)


def svcca(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"], *, variance: float = KEPT_VARIANCE) -> float:
    """Mean canonical correlation of the leading directions of each (1706.05806)."""
    return float(canonical_correlations(leading(a, variance=variance), leading(b, variance=variance)).mean())


def legacy_svcca(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"]) -> float:
    """SVCCA as the code of 2410.06981 computes it, to reproduce and tell apart what it reports.

    It compares the share of variance reached, which ends at 1, with 0.99 times the total variance, and so keeps one
    component wherever that total is above 1 / 0.99: the correlation of two leading directions, whatever else there is.
    """
    return float(canonical_correlations(leading(a, n=1), leading(b, n=1)).mean())


def pwcca(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"], *, variance: float = KEPT_VARIANCE) -> float:
    """Canonical correlations weighted by how much of `a` their directions carry; not symmetric."""
    one, two = leading(a, variance=variance), leading(b, variance=variance)
    u, correlation, _ = torch.linalg.svd(one.T @ two, full_matrices=False)
    x = a.double() - a.double().mean(0)
    weight = ((one @ u).T @ x).abs().sum(1)
    return float((weight * correlation.clamp(0, 1)).sum() / weight.sum())


def procrustes(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"]) -> float:
    """Nuclear norm of the cross-products over both Frobenius norms; 1 for a rotated, scaled, padded copy."""
    x, y = (t.double() - t.double().mean(0) for t in (a, b))
    scale = x.norm() * y.norm()
    return float(torch.linalg.matrix_norm(x.T @ y, ord="nuc") / scale) if scale > 0 else 0.0


def leading(
    x: Float[Tensor, "row p"], *, variance: float = KEPT_VARIANCE, n: int | None = None
) -> Float[Tensor, "row kept"]:
    """Orthonormal coordinates of the centred rows along the directions that hold `variance` of it, or the first n."""
    u, s, _ = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
    if n is None:
        reached = (s**2).cumsum(0) / (s**2).sum()
        n = int((reached < variance - 1e-12).sum()) + 1
    return u[:, :n]


def canonical_correlations(a: Float[Tensor, "row p"], b: Float[Tensor, "row q"]) -> Float[Tensor, "direction"]:
    """Of two sets of orthonormal columns."""
    return torch.linalg.svdvals(a.T @ b).clamp(0, 1)


def documents_dealt(documents: Int[Tensor, "row"], generator: np.random.Generator) -> Int[Tensor, "row"]:
    """Documents in another order, each whole and in step: all have as many rows (`even_rows`).

    Moving all rows round instead leaves documents straddling those of the other side, and a third of grids without
    anything in common then pass at 5 % (measured on runs of 8 rows).
    """
    n = int(torch.unique(documents).numel())
    assert len(documents) % n == 0, "as many rows of every document"
    places = torch.arange(len(documents)).view(n, -1)
    return places[torch.from_numpy(generator.permutation(n))].flatten()


def even_rows(documents: Int[Tensor, "row"], per_document: int) -> Int[Tensor, "chosen"]:
    """The first rows of every document that has so many; documents ascend."""
    _, inverse, counts = torch.unique(documents, return_inverse=True, return_counts=True)
    within = torch.arange(len(documents)) - (counts.cumsum(0) - counts)[inverse]
    return torch.nonzero((within < per_document) & (counts[inverse] >= per_document))[:, 0]


def within_tokens(tokens: Int[Tensor, "row"], generator: np.random.Generator) -> Int[Tensor, "row"]:
    """Rows dealt out anew among those of the same token."""
    ids = tokens.numpy()
    order = np.empty(len(ids), dtype=np.int64)
    order[np.argsort(ids, kind="stable")] = np.lexsort((generator.random(len(ids)), ids))
    return torch.from_numpy(order)
