"""The one sparse code: feature values of some rows, only those that are not zero, by row and on demand by feature.

1. `Pattern`: which (row, feature) pairs are active, row by row (CSR); sorted by feature once, when that is asked for.
2. `Codes`: a pattern with a value at each pair, and the statistics that need nothing else.
3. Two codes of the same rows meet through `key`, a pair as one integer, row * n_features + feature: in the order of
   `ordered` it ascends, and a pair is found by binary search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Which (row, feature) pairs are active, row by row (CSR)."""

    crow: Int[Tensor, "row_plus_one"]
    """Where each row's pairs begin; one more entry ends the last."""
    feature: Int[Tensor, "active"]
    n_features: int

    @property
    def n_rows(self) -> int:
        return self.crow.numel() - 1

    @property
    def n_active(self) -> int:
        return self.feature.numel()

    @cached_property
    def row(self) -> Int[Tensor, "active"]:
        """The row of each pair."""
        rows = torch.arange(self.n_rows, dtype=self.feature.dtype, device=self.feature.device)
        return rows.repeat_interleave(self.crow.diff(), output_size=self.n_active)

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Int[Tensor, "feature_plus_one"]]:
        """The pairs sorted by feature: (order, row of each, where each feature's pairs begin)."""
        if self.feature.device.type == "cpu" and self.feature.dtype == self.crow.dtype == torch.int32:
            return self._counted
        ordered, order = torch.sort(self.feature, stable=True)
        edges = torch.arange(self.n_features + 1, dtype=ordered.dtype, device=ordered.device)
        begins = torch.searchsorted(ordered, edges, out_int32=ordered.dtype == torch.int32)
        return order, self.row[order], begins

    @property
    def _counted(self) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Int[Tensor, "feature_plus_one"]]:
        """`by_feature` by counting, not comparing: the transpose of a matrix that holds each pair's number."""
        number = np.arange(self.n_active, dtype=np.int32)
        shape = (self.n_rows, self.n_features)
        found = csr_array((number, self.feature.numpy(), self.crow.numpy()), shape=shape).tocsc()
        order, row, begins = (torch.from_numpy(part) for part in (found.data, found.indices, found.indptr))
        return order.long(), row, begins

    @staticmethod
    def fixed(feature: Int[Tensor, "row k"], n_features: int) -> Pattern:
        """Every row has the same number of pairs."""
        n_rows, k = feature.shape
        crow = torch.arange(0, (n_rows + 1) * k, k, dtype=feature.dtype, device=feature.device)
        return Pattern(crow[: n_rows + 1], feature.reshape(-1), n_features)

    @staticmethod
    def from_pairs(row: Int[Tensor, "active"], feature: Int[Tensor, "active"], n_rows: int, n_features: int) -> Pattern:
        """Pairs given in row order."""
        counts = torch.bincount(row, minlength=n_rows)
        crow = torch.zeros(n_rows + 1, dtype=torch.int32, device=row.device)
        crow[1:] = counts.cumsum(0)
        return Pattern(crow, feature.to(torch.int32), n_features)


@dataclass(frozen=True, repr=False)
class Codes:
    """The feature values of some rows: only those that are not zero, row by row."""

    pattern: Pattern
    value: Float[Tensor, "active"]

    @property
    def crow(self) -> Int[Tensor, "row_plus_one"]:
        """Where each row's pairs begin; one more entry ends the last."""
        return self.pattern.crow

    @property
    def row(self) -> Int[Tensor, "active"]:
        """The row of each pair."""
        return self.pattern.row

    @property
    def feature(self) -> Int[Tensor, "active"]:
        """The feature of each pair."""
        return self.pattern.feature

    @property
    def n_rows(self) -> int:
        return self.pattern.n_rows

    @property
    def n_features(self) -> int:
        return self.pattern.n_features

    def __repr__(self) -> str:
        per_row = self.pattern.n_active / max(1, self.n_rows)
        return f"Codes of {self.n_rows:,} rows: {per_row:.1f} of {self.n_features:,} features active in the average row"

    # --- made from other forms ------------------------------------------------------------------------------------

    @staticmethod
    def from_dense(dense: Float[Tensor, "row feature"]) -> Codes:
        """The non-zero entries of a matrix."""
        row, feature = torch.nonzero(dense, as_tuple=True)
        return Codes(Pattern.from_pairs(row, feature, *dense.shape), dense[row, feature])

    @staticmethod
    def from_pairs(
        row: Int[Tensor, "active"],
        feature: Int[Tensor, "active"],
        value: Float[Tensor, "active"],
        *,
        n_rows: int,
        n_features: int,
    ) -> Codes:
        """Pairs in any order, each at most once, put in order; zeros among the values are dropped."""
        active = value != 0
        key, order = torch.sort(row[active].long() * n_features + feature[active].long())
        return Codes(
            Pattern.from_pairs(key // n_features, key % n_features, n_rows, n_features), value[active][order].float()
        )

    @staticmethod
    def concatenate(parts: Sequence[Codes]) -> Codes:
        """The rows of all parts, one part after the other."""
        lengths = torch.cat([part.crow.diff() for part in parts])
        crow = torch.cat([lengths.new_zeros(1), lengths.cumsum(0).to(lengths.dtype)])
        pattern = Pattern(crow, torch.cat([part.feature for part in parts]), parts[0].n_features)
        return Codes(pattern, torch.cat([part.value for part in parts]))

    def dense(self) -> Float[Tensor, "row feature"]:
        """All values, zeros included: n_rows · n_features numbers."""
        out = self.value.new_zeros(self.n_rows, self.n_features)
        out[self.row.long(), self.feature.long()] = self.value
        return out

    def to(self, device: torch.device | str) -> Codes:
        """The same on another device."""
        pattern = Pattern(self.crow.to(device), self.feature.to(device), self.n_features)
        return Codes(pattern, self.value.to(device))

    def kept(self, chosen: Bool[Tensor, "active"]) -> Codes:
        """Some of the pairs."""
        pattern = Pattern.from_pairs(self.row[chosen], self.feature[chosen], self.n_rows, self.n_features)
        return Codes(pattern, self.value[chosen])

    def rows(self, chosen: Int[Tensor, "some"]) -> Codes:
        """Some of the rows, in the order asked for."""
        lengths = self.crow.diff()[chosen]
        crow = torch.cat([lengths.new_zeros(1), lengths.cumsum(0).to(lengths.dtype)])
        away = (self.crow[chosen] - crow[:-1]).long().repeat_interleave(lengths.long())
        at = torch.arange(len(away), device=away.device) + away
        return Codes(Pattern(crow, self.feature[at], self.n_features), self.value[at])

    # --- by feature ------------------------------------------------------------------------------------------------

    def column(self, feature: int) -> Float[Tensor, "row"]:
        """One feature's value on every row."""
        order, row, begins = self.pattern.by_feature
        here = slice(int(begins[feature]), int(begins[feature + 1]))
        found = self.value.new_zeros(self.n_rows)
        found[row[here].long()] = self.value[order[here]]
        return found

    @cached_property
    def counts(self) -> Int[Tensor, "feature"]:
        """On how many rows each feature is active."""
        return torch.bincount(self.feature, minlength=self.n_features)

    def sums(self, power: int = 1) -> Float[Tensor, "feature"]:
        """Sum of each feature's values to a power, in float64."""
        return per_feature(self.feature, self.value.double() ** power, self.n_features)

    def by_group(
        self, group: Int[Tensor, "row"], n_groups: int, weight: Float[Tensor, "active"] | None = None
    ) -> Float[Tensor, "group feature"] | Int[Tensor, "group feature"]:
        """Per group of rows, on how many of them each feature is active, or the sum of a weight of its active pairs."""
        at = group[self.row.long()] * self.n_features + self.feature.long()
        n = n_groups * self.n_features
        sums = torch.bincount(at, minlength=n) if weight is None else per_feature(at, weight, n)
        return sums.view(n_groups, self.n_features)

    # --- against other codes of the same rows ----------------------------------------------------------------------

    @cached_property
    def key(self) -> Int[Tensor, "active"]:
        """row * n_features + feature of each pair."""
        return self.row.long() * self.n_features + self.feature

    @cached_property
    def ordered(self) -> Codes:
        """The same with the features of every row ascending; itself where they are."""
        if bool((self.key[1:] > self.key[:-1]).all()):
            return self
        order = torch.argsort(self.key)
        return Codes(Pattern(self.crow, self.feature[order], self.n_features), self.value[order])

    def find(self, key: Int[Tensor, "*query"]) -> tuple[Bool[Tensor, "*query"], Int[Tensor, "*query"]]:
        """Whether each key is active here, and at which pair of `ordered` (any where it is not)."""
        own = self.ordered.key
        if own.numel() == 0:
            return torch.zeros_like(key, dtype=torch.bool), torch.zeros_like(key)
        at = torch.searchsorted(own, key).clamp_max(own.numel() - 1)
        return own[at] == key, at

    def lookup(self, row: Int[Tensor, "*query"], feature: Int[Tensor, "*query"]) -> Float[Tensor, "*query"]:
        """The value at any (row, feature) pairs: 0 where not active."""
        if self.value.numel() == 0:
            return self.value.new_zeros(row.shape)
        active, at = self.find(row.long() * self.n_features + feature)
        return torch.where(active, self.ordered.value[at], self.value.new_zeros(()))


def union(codes: Sequence[Codes]) -> Codes:
    """One code from several of the same rows; where a pair is in more than one, its largest value."""
    key = torch.cat([c.key for c in codes])
    value = torch.cat([c.value for c in codes])
    by_value = torch.argsort(value, descending=True)
    order = by_value[torch.argsort(key[by_value], stable=True)]
    key, value = key[order], value[order]
    new = torch.ones_like(key, dtype=torch.bool)
    new[1:] = key[1:] != key[:-1]
    key, n_features = key[new], codes[0].n_features
    pattern = Pattern.from_pairs(key // n_features, key % n_features, codes[0].n_rows, n_features)
    return Codes(pattern, value[new])


def per_feature(
    feature: Int[Tensor, "active"], weight: Float[Tensor, "active"], n_features: int
) -> Float[Tensor, "feature"]:
    """Sum of the weights of each feature, float64 (bincount alone would give integers where nothing is active)."""
    return torch.bincount(feature, weights=weight, minlength=n_features).double()
