"""How features fire, alone and together: statistics of the codes of held-out rows, from their non-zeros alone.

1. Firing: counts, means, maxima and exact quantiles per feature, from the values sorted inside each feature.
2. Co-firing of two codes: the pairs in both are found by binary search; the sums follow from them alone.
3. Top examples: the largest values of a feature, at most a few of them from one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.dictionary.codes import Codes, per_feature
from suture.uncertainty import correlation

QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""Of a feature's values where it is active: columns q50, q90, q99, q999."""


@dataclass(frozen=True, kw_only=True)
class Firing:
    """How each feature fires; NaN where it never does."""

    counts: Int[Tensor, "feature"]
    mean: Float[Tensor, "feature"]
    """Over the rows where it is active."""
    maximum: Float[Tensor, "feature"]
    quantiles: Float[Tensor, "feature quantile"]
    """At QUANTILES, of the values where it is active, linearly interpolated."""


@dataclass(frozen=True, kw_only=True)
class Cofiring:
    """Two codes of the same rows, feature by feature; NaN where undefined."""

    correlation: Float[Tensor, "feature"]
    """Pearson over all rows, zeros included."""
    jaccard: Float[Tensor, "feature"]
    """Rows where both are active over rows where either is (co-fire proportion)."""
    weighted_jaccard: Float[Tensor, "feature"]
    """Sum of the smaller value over sum of the larger value: the same, with how strongly they fire."""


@dataclass(frozen=True, kw_only=True)
class TopRows:
    """Each feature's strongest rows, best first; -1 and NaN fill up features with fewer."""

    position: Int[Tensor, "feature top"]
    value: Float[Tensor, "feature top"]


def firing(codes: Codes) -> Firing:
    """Counts, means, maxima and exact quantiles of every feature's active values."""
    counts = codes.counts
    order = torch.argsort(codes.value)
    order = order[torch.argsort(codes.feature[order], stable=True)]
    values = codes.value[order].double()
    ends = counts.cumsum(0)
    alive = counts > 0
    quantiles = torch.full((codes.n_features, len(QUANTILES)), torch.nan, dtype=torch.float64)
    maximum = torch.full((codes.n_features,), torch.nan, dtype=torch.float64)
    begin, last = (ends - counts)[alive], (ends - 1)[alive]
    maximum[alive] = values[last]
    for column, q in enumerate(QUANTILES):
        at = begin + q * (counts[alive] - 1).double()
        low = at.floor().long()
        share = at - low
        quantiles[alive, column] = values[low] * (1 - share) + values[torch.minimum(low + 1, last)] * share
    return Firing(counts=counts, mean=codes.sums() / counts, maximum=maximum, quantiles=quantiles)


def cofiring(a: Codes, b: Codes) -> Cofiring:
    """How far two codes of the same rows fire together, from their non-zeros alone."""
    assert a.n_rows == b.n_rows
    assert a.n_features == b.n_features
    n, (common, at) = a.n_rows, b.find(a.key)
    left = a.value[common].double()
    right = b.ordered.value[at[common]].double()
    feature = a.feature[common]

    def total(weights: Tensor) -> Tensor:
        return per_feature(feature, weights, a.n_features)

    both = torch.bincount(feature, minlength=a.n_features).double()
    sum_a, sum_b = a.sums(), b.sums()
    smaller = total(torch.minimum(left, right))
    return Cofiring(
        correlation=correlation(n, sum_a, sum_b, a.sums(2), b.sums(2), total(left * right)),
        jaccard=both / (a.counts + b.counts - both),
        weighted_jaccard=smaller / (sum_a + sum_b - smaller),
    )


def mean_cofiring(codes: Sequence[Codes]) -> Cofiring:
    """`cofiring` of two models; of more, the mean over all pairs of them."""
    pairs = [cofiring(codes[i], codes[j]) for j in range(len(codes)) for i in range(j)]
    return Cofiring(
        correlation=torch.stack([p.correlation for p in pairs]).mean(0),
        jaccard=torch.stack([p.jaccard for p in pairs]).mean(0),
        weighted_jaccard=torch.stack([p.weighted_jaccard for p in pairs]).mean(0),
    )


def top_rows(codes: Codes, document: Int[Tensor, "row"], *, n_top: int, n_per_document: int = 2) -> TopRows:
    """The `n_top` strongest rows of every feature, at most `n_per_document` of them from one document.

    `document` holds the document number of every encoded row. Among equal values the earlier row comes first.
    """
    order = torch.argsort(codes.value, descending=True, stable=True)
    order = order[torch.argsort(codes.feature[order], stable=True)]
    feature, position = codes.feature[order], codes.row[order]
    _, dense_document = torch.unique(document, return_inverse=True)
    n_documents = int(dense_document.max()) + 1 if document.numel() else 1
    kept = _rank_within(feature.long() * n_documents + dense_document[position]) < n_per_document
    order, feature, position = order[kept], feature[kept], position[kept]
    rank = _rank_within(feature)
    kept = rank < n_top
    where = (feature[kept].long(), rank[kept])
    best = torch.full((codes.n_features, n_top), -1, dtype=torch.int64)
    value = torch.full((codes.n_features, n_top), torch.nan)
    best[where] = position[kept].long()
    value[where] = codes.value[order[kept]]
    return TopRows(position=best, value=value)


def _rank_within(key: Tensor) -> Tensor:
    """How many earlier entries have the same key."""
    ordered, order = torch.sort(key, stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    place = torch.arange(key.numel())
    begin = torch.where(starts, place, torch.zeros((), dtype=torch.int64)).cummax(0).values if key.numel() else place
    rank = torch.empty_like(order)
    rank[order] = place - begin
    return rank
