"""The codes of the held-out rows as one sorted list of their non-zeros, and every statistic that needs nothing else.

1. A (row, feature) pair is one integer, position * n_features + feature; the sorted integers are the list.
2. Firing: counts, means, maxima and exact quantiles per feature, from the values sorted inside each feature.
3. Co-firing of two lists: the pairs in both are found by binary search; the sums follow from them alone.
4. Top examples: the largest values of a feature, at most a few of them from one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""Of a feature's values where it is active: columns q50, q90, q99, q999."""


@dataclass(frozen=True)
class Nonzeros:
    """The active (row, feature) pairs of a dictionary over some rows, in order of row, then feature."""

    key: Int[Tensor, "active"]
    """position * n_features + feature, ascending; `position` counts the rows that were encoded, in row order."""
    value: Float[Tensor, "active"]
    n_rows: int
    n_features: int

    @staticmethod
    def from_pairs(
        position: Int[Tensor, "active"],
        feature: Int[Tensor, "active"],
        value: Float[Tensor, "active"],
        *,
        n_rows: int,
        n_features: int,
    ) -> Nonzeros:
        """Pairs in any order, each at most once; zeros among the values are dropped."""
        active = value > 0
        key, order = torch.sort(position[active].long() * n_features + feature[active].long())
        return Nonzeros(key, value[active][order].float(), n_rows, n_features)

    @cached_property
    def position(self) -> Int[Tensor, "active"]:
        """Which of the encoded rows each pair lies in."""
        return self.key // self.n_features

    @cached_property
    def feature(self) -> Int[Tensor, "active"]:
        """The feature of each pair."""
        return self.key % self.n_features

    @cached_property
    def counts(self) -> Int[Tensor, "feature"]:
        """On how many rows each feature is active."""
        return torch.bincount(self.feature, minlength=self.n_features)

    def sums(self, power: int = 1) -> Float[Tensor, "feature"]:
        """Sum of each feature's values to a power, in float64."""
        return _total(self.feature, self.value.double() ** power, self.n_features)

    def lookup(self, position: Int[Tensor, "*query"], feature: Int[Tensor, "*query"]) -> Float[Tensor, "*query"]:
        """The code at any (row, feature) pairs: its value where active, 0 elsewhere."""
        found, at = _find(self.key, position * self.n_features + feature)
        if self.key.numel() == 0:
            return torch.zeros(position.shape)
        return torch.where(found, self.value[at], torch.zeros(()))


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


def firing(codes: Nonzeros) -> Firing:
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


def cofiring(a: Nonzeros, b: Nonzeros) -> Cofiring:
    """How far two codes of the same rows fire together, from their non-zeros alone."""
    assert a.n_rows == b.n_rows
    assert a.n_features == b.n_features
    n, found_at = a.n_rows, _find(b.key, a.key)
    common = found_at[0]
    left = a.value[common].double()
    right = b.value[found_at[1][common]].double() if b.key.numel() else left
    feature = a.feature[common]

    def total(weights: Tensor) -> Tensor:
        return _total(feature, weights, a.n_features)

    both = torch.bincount(feature, minlength=a.n_features).double()
    sum_a, sum_b = a.sums(), b.sums()
    covariance = n * total(left * right) - sum_a * sum_b
    variance_a, variance_b = n * a.sums(2) - sum_a**2, n * b.sums(2) - sum_b**2
    smaller = total(torch.minimum(left, right))
    return Cofiring(
        correlation=covariance / (variance_a.clamp_min(0) * variance_b.clamp_min(0)).sqrt(),
        jaccard=both / (a.counts + b.counts - both),
        weighted_jaccard=smaller / (sum_a + sum_b - smaller),
    )


def mean_cofiring(codes: Sequence[Nonzeros]) -> Cofiring:
    """`cofiring` of two models; of more, the mean over all pairs of them."""
    pairs = [cofiring(codes[i], codes[j]) for j in range(len(codes)) for i in range(j)]
    return Cofiring(
        correlation=torch.stack([p.correlation for p in pairs]).mean(0),
        jaccard=torch.stack([p.jaccard for p in pairs]).mean(0),
        weighted_jaccard=torch.stack([p.weighted_jaccard for p in pairs]).mean(0),
    )


def union(codes: Sequence[Nonzeros]) -> Nonzeros:
    """One list from several over the same rows; where a pair is in more than one, its largest value."""
    first = codes[0]
    key = torch.cat([c.key for c in codes])
    value = torch.cat([c.value for c in codes])
    by_value = torch.argsort(value, descending=True)
    order = by_value[torch.argsort(key[by_value], stable=True)]
    key, value = key[order], value[order]
    new = torch.ones_like(key, dtype=torch.bool)
    new[1:] = key[1:] != key[:-1]
    return Nonzeros(key[new], value[new], first.n_rows, first.n_features)


def top_rows(codes: Nonzeros, document: Int[Tensor, "row"], *, n_top: int, n_per_document: int = 2) -> TopRows:
    """The `n_top` strongest rows of every feature, at most `n_per_document` of them from one document.

    `document` holds the document number of every encoded row. Among equal values the earlier row comes first.
    """
    order = torch.argsort(codes.value, descending=True, stable=True)
    order = order[torch.argsort(codes.feature[order], stable=True)]
    feature, position = codes.feature[order], codes.position[order]
    _, dense_document = torch.unique(document, return_inverse=True)
    n_documents = int(dense_document.max()) + 1 if document.numel() else 1
    kept = _rank_within(feature * n_documents + dense_document[position]) < n_per_document
    order, feature, position = order[kept], feature[kept], position[kept]
    rank = _rank_within(feature)
    kept = rank < n_top
    where = (feature[kept], rank[kept])
    best = torch.full((codes.n_features, n_top), -1, dtype=torch.int64)
    value = torch.full((codes.n_features, n_top), torch.nan)
    best[where] = position[kept]
    value[where] = codes.value[order[kept]]
    return TopRows(position=best, value=value)


def _total(feature: Tensor, weights: Tensor, n_features: int) -> Tensor:
    """Sum of the weights of each feature, float64 (bincount alone would give integers where nothing is active)."""
    return torch.bincount(feature, weights=weights, minlength=n_features).double()


def _find(sorted_keys: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each key is in the sorted list, and where (clamped into the list where it is not)."""
    if sorted_keys.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool), torch.zeros_like(keys)
    at = torch.searchsorted(sorted_keys, keys).clamp_max(sorted_keys.numel() - 1)
    return sorted_keys[at] == keys, at


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
