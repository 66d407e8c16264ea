"""Uncertainty by drawing documents: the bootstrap over document groups, and the correction for many features.

1. `deal_groups`: documents are dealt into equal groups in an order fixed by a hash of their number; the rows of one
   document stay together, because they are not independent of each other.
2. `Draws`: each draw takes as many groups as there are, with replacement; a draw is a row of counts, so a statistic of
   sums is one matrix product over all draws.
3. `p_below`: a mean ratio's distance from zero in units of its bootstrap spread, read from Student's t with as many
   degrees of freedom as groups carry weight, less one. Counting draws would stop at 1 / n_draws, too coarse to survive
   the correction; the normal would be too sure of features that fire in few groups.
4. `discoveries`: Benjamini-Hochberg.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor

CHUNK_FEATURES = 4096
"""Features per product, so that [draw, feature] stays small."""


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

    def ratio(self, ratio: Ratio) -> Float[Tensor, "draw feature"]:
        """The ratio in each draw; NaN where the draw holds no weight."""
        weight = self.sums(ratio.weight)
        return self.sums(ratio.numerator) / torch.where(weight > 0, weight, torch.nan)

    def spread(self, ratio: Ratio) -> Float[Tensor, "feature"]:
        """Standard deviation of the ratio over the draws that hold any weight."""
        parts = []
        for numerator, weight in zip(
            ratio.numerator.split(CHUNK_FEATURES, 1), ratio.weight.split(CHUNK_FEATURES, 1), strict=True
        ):
            drawn = self.ratio(Ratio(numerator, weight))
            deviation = (drawn - drawn.nanmean(0)) ** 2
            parts.append(deviation.nanmean(0).sqrt())
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def p_below(ratio: Ratio, draws: Draws) -> Float[Tensor, "feature"]:
    """One-sided p-value of "the ratio is zero or more" against "it is below zero"; 1 where there is no evidence."""
    spread = draws.spread(ratio)
    freedom = (ratio.effective_groups - 1).clamp_min(0)
    # a spread from n groups is too small by (n - 1) / n, the bootstrap's own small-sample bias
    spread = spread * ((freedom + 1) / freedom.clamp_min(1e-9)).sqrt()
    z = ratio.value / spread
    p = torch.from_numpy(np.asarray(special.stdtr(freedom.numpy(), z.numpy())))
    known = torch.isfinite(z) & (freedom > 0)
    return torch.where(known, p, torch.ones_like(p))


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
