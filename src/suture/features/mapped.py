"""Decoder agreement across models: a feature's direction in one model, carried into the other by a fitted linear map.

1. Second moments of all spaces side by side over the discovery rows, in scaled units, each less its mean.
2. Per pair of models (m, n) the ridge map P = (C_mm + lambda I)^-1 C_mn, in closed form.
3. The cosine of d_i^m P with d_i^n, for every feature. Defined where widths differ and no basis is common, and blind
   to what a linear map cannot carry: a low value is no proof of absence.
"""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-3
"""lambda, as a part of the mean variance of a coordinate of the model mapped from."""


class Moments:
    """Sums over rows from which the covariances of all spaces with each other follow."""

    def __init__(self, widths: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        D = sum(widths)
        self.widths, self.n_rows = widths, 0
        self.total = torch.zeros(D, dtype=torch.float64, device=device)
        self.products = torch.zeros(D, D, dtype=torch.float64, device=device)

    def add(self, x: Float[Tensor, "row D"]) -> None:
        """Add a batch of rows."""
        self.total += x.double().sum(0)
        self.products += (x.T @ x).double()
        self.n_rows += x.shape[0]

    def covariance(self) -> Float[Tensor, "D D"]:
        """Of all spaces side by side."""
        mean = self.total / self.n_rows
        return self.products / self.n_rows - torch.outer(mean, mean)

    def map(self, source: int, target: int) -> Float[Tensor, "source_width target_width"]:
        """The ridge map from one space's activations to another's (2)."""
        ends = torch.tensor(self.widths).cumsum(0).tolist()
        columns = [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]
        covariance = self.covariance()
        own = covariance[columns[source], columns[source]]
        penalty = RIDGE * own.diagonal().mean().clamp_min(1e-12)
        own = own + penalty * torch.eye(len(own), dtype=own.dtype, device=own.device)
        return torch.linalg.solve(own, covariance[columns[source], columns[target]])


def mapped_cosines(
    moments: Moments, decoders: list[Float[Tensor, "feature _"]]
) -> dict[tuple[int, int], Float[Tensor, "feature"]]:
    """Per pair of models m < n the cosine of each feature's mapped direction with its own; NaN where one is zero."""
    found = {}
    for m, n in combinations(range(len(decoders)), 2):
        carried = decoders[m].double() @ moments.map(m, n)
        there = decoders[n].double()
        length = carried.norm(dim=-1) * there.norm(dim=-1)
        dot = torch.einsum("fd,fd->f", carried, there)
        found[m, n] = torch.where(length > 0, dot / length, torch.nan).cpu()
    return found
