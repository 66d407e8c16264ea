"""Uncertainty by drawing documents: the bootstrap over document groups, and the correction for many features.

1. `deal_groups`: documents are dealt into equal groups in an order fixed by a hash of their number; the rows of one
   document stay together, because they are not independent of each other.
2. `Draws`: each draw takes as many groups as there are, with replacement; a draw is a row of counts, so a statistic of
   sums is one matrix product over all draws.
3. `p_below`: a ratio of sums over its linearised spread between groups (the bootstrap's limit of many draws), read from
   Student's t with as many degrees of freedom as groups carry weight, less one. Counting draws would stop at
   1 / n_draws, too coarse to survive the correction; the normal would be too sure of features that fire in few groups
   (measured: 3 % of true nulls below 0.005 at five groups, where Student's t has 0.4 %).
4. `discoveries`: Benjamini-Hochberg.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor


def deal_groups(documents: Int[Tensor, "row"], n_groups: int) -> Int[Tensor, "row"]:
    """The group of every row: all rows of a document in one, groups numbered from 0 and equal in documents."""
    return hashed_rank(documents) % n_groups


def hashed_rank(documents: Int[Tensor, "row"]) -> Int[Tensor, "row"]:
    """The place of every row's document, from 0, in an order that depends on the documents' numbers alone."""
    unique, inverse = torch.unique(documents.long(), return_inverse=True)
    order = np.argsort(_hash(unique.numpy()), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(rank)[inverse]


@dataclass(frozen=True)
class Ratio:
    """A weighted mean's building blocks: sum of numerators over sum of weights, per group and feature."""

    numerator: Float[Tensor, "group feature"]
    weight: Float[Tensor, "group feature"]

    @property
    def value(self) -> Float[Tensor, "feature"]:
        """The ratio over all groups; NaN without weight."""
        return self.numerator.sum(0) / self.weight.sum(0)

    @property
    def effective_groups(self) -> Float[Tensor, "feature"]:
        """How many equally heavy groups would spread the weight as it is spread (Kish)."""
        return self.weight.sum(0) ** 2 / (self.weight**2).sum(0)

    @property
    def spread(self) -> Float[Tensor, "feature"]:
        """Standard error of the ratio, from how its groups differ from it."""
        deviation = ((self.numerator - self.value * self.weight) ** 2).sum(0).sqrt() / self.weight.sum(0)
        n = self.effective_groups
        return deviation * (n / (n - 1)).sqrt()


@dataclass(frozen=True)
class Draws:
    """How often each group was taken in each draw."""

    counts: Float[Tensor, "draw group"]

    @staticmethod
    def make(n_groups: int, n_draws: int, seed: int) -> Draws:
        """`n_draws` samples of `n_groups` groups with replacement."""
        generator = np.random.default_rng(seed)
        counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
        return Draws(torch.from_numpy(counts).double())

    def sums(self, per_group: Float[Tensor, "group feature"]) -> Float[Tensor, "draw feature"]:
        """The sum over the groups of each draw."""
        return self.counts @ per_group.double()


def p_below(ratio: Ratio) -> Float[Tensor, "feature"]:
    """One-sided p-value of "the ratio is zero or more" against "it is below zero"; 1 where there is no evidence."""
    freedom = ratio.effective_groups - 1
    known = (freedom > 1e-9) & (ratio.spread > 0)
    z = torch.where(known, ratio.value / ratio.spread, torch.zeros_like(freedom))
    p = special.stdtr(torch.where(known, freedom, torch.ones_like(freedom)).numpy(), z.numpy())
    return torch.where(known, torch.from_numpy(p), torch.ones_like(freedom))


def discoveries(p: Float[Tensor, "feature"], among: Bool[Tensor, "feature"], q: float) -> Bool[Tensor, "feature"]:
    """Benjamini-Hochberg at false-discovery rate `q` over the features in `among`; the others are never discovered."""
    found = torch.zeros_like(among)
    tested = p[among]
    if tested.numel() == 0:
        return found
    ordered = torch.sort(tested).values
    n = tested.numel()
    passed = torch.nonzero(ordered <= q * torch.arange(1, n + 1) / n)
    if passed.numel() == 0:
        return found
    return among & (p <= ordered[int(passed[-1])])


def _hash(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: neighbouring document numbers land far apart."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
