"""Second moments of all spaces side by side, summed in float64, and the ridge maps that follow from them.

1. Sums of rows and of products of their coordinates, about a pivot (the first batch's mean): a mean that holds nearly
   all of the rows' norm then costs no digits.
2. Covariances of all spaces with each other, from the sums alone.
3. The ridge map from any spaces to any others, P = (C_ss + lambda I)^-1 C_st, in closed form: what the targets' rows
   are on average, given the sources'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.batches import sequential
from suture.activations.store import Store
from suture.parallel import Ranks

RIDGE = 1e-3
"""lambda, as a part of the mean variance of a coordinate of the spaces mapped from."""

BATCH_ROWS = 4096


@dataclass(frozen=True)
class AffineMap:
    """Rows of some spaces from rows of others: mean_t + (x_s - mean_s) P."""

    matrix: Float[Tensor, "source target"]
    source_mean: Float[Tensor, "source"]
    target_mean: Float[Tensor, "target"]

    def __call__(self, x: Float[Tensor, "row source"]) -> Float[Tensor, "row target"]:
        """The rows carried over, in the precision and on the device of `x`."""
        matrix, source, target = (t.to(x) for t in (self.matrix, self.source_mean, self.target_mean))
        return torch.addmm(target, x - source, matrix)


class Moments:
    """Sums over rows from which means and covariances of all spaces with each other follow."""

    def __init__(self, widths: Sequence[int], device: torch.device | str = "cpu") -> None:
        D = sum(widths)
        self.widths: tuple[int, ...] = tuple(widths)
        self.n_rows: int = 0
        self.pivot: Float[Tensor, "D"] | None = None
        self.total: Float[Tensor, "D"] = torch.zeros(D, dtype=torch.float64, device=device)
        self.products: Float[Tensor, "D D"] = torch.zeros(D, D, dtype=torch.float64, device=device)

    @staticmethod
    def of_store(store: Store, rows: Int[Tensor, "row"], device: torch.device | str = "cpu") -> Moments:
        """Of rows of a store, all its spaces side by side, in scaled units."""
        moments = Moments([s.width for s in store.spaces], device)
        for _, batch in sequential(store, rows, batch_size=BATCH_ROWS):
            moments.add(batch.activations.to(device))
        return moments

    @staticmethod
    def known(
        widths: Sequence[int], *, n_rows: int, mean: Float[Tensor, "D"], covariance: Float[Tensor, "D D"]
    ) -> Moments:
        """Those of rows that were summed before."""
        moments = Moments(widths, mean.device)
        moments.n_rows, moments.pivot = n_rows, mean.double()
        moments.products = covariance.double() * n_rows
        return moments

    def rescaled(self, per_column: Float[Tensor, "D"]) -> Moments:
        """Those of the same rows with every column multiplied by its factor."""
        factors = per_column.to(self.total)
        covariance = self.covariance() * torch.outer(factors, factors)
        return Moments.known(self.widths, n_rows=self.n_rows, mean=self.mean() * factors, covariance=covariance)

    def add(self, x: Float[Tensor, "row D"]) -> None:
        """Add a batch of rows (1)."""
        x = x.to(self.total)
        if self.pivot is None:
            self.pivot = x.mean(0)
        x = x - self.pivot
        self.total += x.sum(0)
        self.products.addmm_(x.T, x)
        self.n_rows += x.shape[0]

    def add_up(self, ranks: Ranks) -> None:
        """Put those of every rank's rows in the place of this one's."""
        if ranks.size == 1:
            return
        own = self.total.new_zeros(0, len(self.total)) if self.pivot is None else self.pivot[None]
        pivots = ranks.concatenate(own)
        assert len(pivots), "no rank has rows"
        away = torch.zeros_like(self.total) if self.pivot is None else self.pivot - pivots[0]
        moved = torch.outer(self.total, away)
        self.products += moved + moved.T + self.n_rows * torch.outer(away, away)
        self.total += self.n_rows * away
        self.pivot = pivots[0]
        ranks.add_up(self.products)
        ranks.add_up(self.total)
        self.n_rows = int(ranks.add_up(torch.tensor(self.n_rows)))

    def mean(self, spaces: int | Sequence[int] | None = None) -> Float[Tensor, "columns"]:
        """Of these spaces side by side; of all when not given."""
        assert self.pivot is not None, "no rows"
        return (self.pivot + self.total / self.n_rows)[self.columns(spaces)]

    def covariance(
        self, left: int | Sequence[int] | None = None, right: int | Sequence[int] | None = None
    ) -> Float[Tensor, "left right"]:
        """Of some spaces' coordinates with others' (2); of all with all when not given."""
        mean = self.total / self.n_rows
        rows, columns = self.columns(left), self.columns(right)
        return self.products[rows][:, columns] / self.n_rows - torch.outer(mean[rows], mean[columns])

    def columns(self, spaces: int | Sequence[int] | None = None) -> Int[Tensor, "columns"]:
        """Where these spaces' coordinates lie in a row that holds every space."""
        wanted = range(len(self.widths)) if spaces is None else [spaces] if isinstance(spaces, int) else spaces
        parts = torch.arange(sum(self.widths), device=self.total.device).split(self.widths)
        return torch.cat([parts[m] for m in wanted])

    def map(
        self, source: int | Sequence[int], target: int | Sequence[int], *, penalty: float = RIDGE
    ) -> Float[Tensor, "source target"]:
        """The ridge map of centred rows from some spaces to others (3).

        Args:
            source: the space, or the spaces, mapped from.
            target: those mapped to.
            penalty: lambda, as a part of the mean variance of a source coordinate.
        """
        return self.between(source, target).map(penalty)

    def affine(self, source: int | Sequence[int], target: int | Sequence[int], *, penalty: float = RIDGE) -> AffineMap:
        """The same with the means around it: from rows to rows."""
        return self.between(source, target).affine(penalty)

    def explained(self, fitted: AffineMap, source: int | Sequence[int], target: int | Sequence[int]) -> float:
        """R2 of a map (fitted on other rows) on the rows of these moments: the share of the targets' variance."""
        return self.between(source, target).explained(fitted)

    def between(self, source: int | Sequence[int], target: int | Sequence[int]) -> Between:
        """What maps from some spaces to others are fitted to, and judged by."""
        return Between(
            own=self.covariance(source, source),
            cross=self.covariance(source, target),
            spread=self.variance(target).sum(),
            source_mean=self.mean(source),
            target_mean=self.mean(target),
        )

    def variance(self, spaces: int | Sequence[int] | None = None) -> Float[Tensor, "columns"]:
        """Of these spaces' coordinates side by side; of all when not given."""
        columns = self.columns(spaces)
        return self.products.diagonal()[columns] / self.n_rows - (self.total[columns] / self.n_rows).square()


@dataclass(frozen=True, kw_only=True)
class Between:
    """Second moments of some spaces' rows with others'."""

    own: Float[Tensor, "source source"]
    cross: Float[Tensor, "source target"]
    spread: Float[Tensor, ""]
    """Variance of the targets, all coordinates together."""
    source_mean: Float[Tensor, "source"]
    target_mean: Float[Tensor, "target"]

    def map(self, penalty: float) -> Float[Tensor, "source target"]:
        """As `Moments.map`."""
        floor = penalty * self.own.diagonal().mean().clamp_min(1e-12)
        own = self.own.clone()
        own.diagonal().add_(floor)
        return torch.linalg.solve(own, self.cross)

    def affine(self, penalty: float) -> AffineMap:
        """As `Moments.affine`."""
        return AffineMap(self.map(penalty), source_mean=self.source_mean, target_mean=self.target_mean)

    def explained(self, fitted: AffineMap) -> float:
        """As `Moments.explained`."""
        P = fitted.matrix.to(self.spread)
        offset = self.target_mean - fitted.target_mean.to(P)
        offset = offset - (self.source_mean - fitted.source_mean.to(P)) @ P
        error = self.spread - 2 * (P * self.cross).sum() + ((self.own @ P) * P).sum() + offset @ offset
        return float(1 - error / self.spread)


def chosen_affine(
    fit: Moments, check: Moments, source: int | Sequence[int], target: int | Sequence[int], penalties: Sequence[float]
) -> tuple[AffineMap, float]:
    """The ridge map fitted on some documents whose penalty explains most of others, and that penalty.

    Args:
        fit: moments that maps are fitted to.
        check: those of other documents.
        source: the space, or the spaces, mapped from.
        target: those mapped to.
        penalties: tried, as parts of the mean variance of a source coordinate.
    """
    fits, checks = fit.between(source, target), check.between(source, target)
    tried = [(fits.affine(penalty), penalty) for penalty in penalties]
    return max(tried, key=lambda one: checks.explained(one[0]))
