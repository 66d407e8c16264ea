"""Rows and coordinates that hold most of a space: attention sinks, massive activations, a constant part.

1. The centre of a space is the mean of its typical rows: first all rows; rows farther from it than MULTIPLE times the
   median are left out, and the centre is taken again. (Sinks of 1,500 times the median norm in 0.3 % of the rows would
   pull the mean four times as far as typical rows lie.) A large store lies on a disk, so its rows are read once, about
   the mean that it knows, and a second time only where outliers move the centre.
2. What is recorded per space: the part of the raw second moment that the mean holds; of the variance that the largest
   1, 3 and 10 coordinates hold; how many rows are outliers, which tokens they are, and what part of the variance is
   theirs.
3. A view without outliers leaves such rows out of every space (`drop`) or draws them in to MULTIPLE medians from the
   centre (`clip`); mean and scale are then those of the typical rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from suture.activations.settings import MULTIPLE

if TYPE_CHECKING:
    from suture.activations.store import Store

BLOCK_ROWS = 8192
N_TOKENS = 5
"""Outlier tokens named, the most frequent ones."""
LARGEST = (1, 3, 10)
NEAR = 1e-4
"""As good as the mean: no farther from it than this part of the rows' median distance."""


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """What a few rows, a few coordinates and the mean hold of one space (2)."""

    mean_share: float
    """Of the raw second moment, the part of the mean."""
    coordinate_shares: tuple[float, ...]
    """Of the variance, the part of the largest 1, 3 and 10 coordinates."""
    n_outliers: int
    outlier_share: float
    """Of the variance, the part of outlier rows."""
    tokens: tuple[tuple[str, int], ...]
    """Outlier rows' tokens, each with how many rows it has."""
    median: float
    """Of the rows' distances from the centre."""
    spread: float
    """Root mean square distance of typical rows from the centre."""
    centre: Float32[Tensor, "width"] = field(compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the centre, which is a tensor."""
        return {name: value for name, value in asdict(self).items() if name != "centre"}

    @staticmethod
    def from_json(record: Mapping[str, Any], centre: Tensor) -> Extremes:
        """What `to_json` wrote."""
        shares, tokens = tuple(record["coordinate_shares"]), tuple((str(t), int(n)) for t, n in record["tokens"])
        return Extremes(**{**record, "coordinate_shares": shares, "tokens": tokens, "centre": centre})

    def sentence(self, label: str) -> str:
        """What a user should know, in one line; empty where nothing stands out."""
        parts = []
        if self.mean_share >= 0.5:
            parts.append(f"the mean holds {self.mean_share:.0%} of the rows' squared norm")
        for n, share in zip(LARGEST, self.coordinate_shares, strict=False):
            if share >= 0.1 * n**0.5:
                parts.append(f"{n} coordinate{'s hold' if n > 1 else ' holds'} {share:.0%} of the variance")
                break
        if self.n_outliers:
            named = ", ".join(f"{token!r} {n}" for token, n in self.tokens)
            far = f"{self.n_outliers:,} rows above {MULTIPLE:g} times the median norm"
            parts.append(f"{far} hold {self.outlier_share:.0%} of the variance ({named})")
        return f"{label}: {'; '.join(parts)}" if parts else ""


def measure(store: Store) -> tuple[Extremes, ...]:
    """What stands out in every space of a store (1, 2)."""
    return tuple(_measure(store, m) for m in range(len(store.spaces)))


def _measure(store: Store, space: int) -> Extremes:
    known = store.spaces[space].mean
    mean, from_mean, distance = _about(store, space, torch.zeros(store.spaces[space].width) if known is None else known)
    typical = distance <= MULTIPLE * distance.median()
    outliers = (~typical).nonzero().flatten()
    centre = mean
    if len(outliers):
        rest = mean * len(store) - sum(own.sum(0, dtype=torch.float64) for own in _read(store, space, outliers))
        centre = rest / (len(store) - len(outliers))
        distance = distances(store, space, centre.float())
        typical = distance <= MULTIPLE * distance.median()
        outliers = (~typical).nonzero().flatten()
    variance = float(from_mean.sum())
    largest = from_mean.sort(descending=True).values.cumsum(0) / max(variance, 1e-300)
    far = sum(float((own.double() - mean).square().sum()) for own in _read(store, space, outliers))
    held = float(mean.square().sum())
    return Extremes(
        mean_share=held / max(held + variance, 1e-300),
        coordinate_shares=tuple(float(largest[min(n, len(largest)) - 1]) for n in LARGEST),
        n_outliers=len(outliers),
        outlier_share=far / max(variance * len(store), 1e-300),
        tokens=_tokens(store, space, outliers),
        median=float(distance.median()),
        spread=float(distance[typical].double().square().mean().sqrt()),
        centre=centre.float(),
    )


def _about(store: Store, space: int, pivot: Float[Tensor, "width"]) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variance of every coordinate, both float64, every row's distance from the mean).

    All from one reading where the mean is the pivot but for a rounding of its digits, else from two.
    """
    pivot = pivot.float()
    total, square = (torch.zeros(len(pivot), dtype=torch.float64) for _ in range(2))
    parts = []
    for _, x in _blocks(store, space):
        apart = x - pivot
        total += apart.sum(0, dtype=torch.float64)
        parts.append(apart.norm(dim=1))
        square += apart.square_().sum(0, dtype=torch.float64)  # of float32 numbers, each to seven digits
    distance, away = torch.cat(parts), total / max(len(store), 1)
    mean = pivot.double() + away
    variance = (square / max(len(store), 1) - away.square()).clamp_min(0)
    if float(away.norm()) > NEAR * float(distance.median()):
        distance = distances(store, space, mean.float())
    return mean, variance, distance


def distances(store: Store, space: int, centre: Float[Tensor, "width"]) -> Float32[Tensor, "row"]:
    """How far every row lies from a centre."""
    parts = [(x - centre).norm(dim=1) for _, x in _blocks(store, space)]
    return torch.cat(parts)


def clipped(
    x: Float32[Tensor, "*row width"], centre: Float32[Tensor, "width"], radius: float | Float32[Tensor, ""]
) -> Float32[Tensor, "*row width"]:
    """The rows, those farther than a radius from the centre drawn in to it (3)."""
    apart = x - centre
    length = apart.norm(dim=-1, keepdim=True)
    return torch.where(length > radius, centre + apart * (radius / length.clamp_min(1e-30)), x)


def typical_rows(store: Store, extremes: Sequence[Extremes], multiple: float) -> Bool[Tensor, "row"]:
    """The rows that are an outlier in no space."""
    typical = torch.ones(len(store), dtype=torch.bool)
    for m, own in enumerate(extremes):
        typical &= distances(store, m, own.centre) <= multiple * own.median
    return typical


def _read(store: Store, space: int, rows: Tensor) -> Iterator[Tensor]:
    """Some rows, block after block."""
    return (store.read_space(some, space) for some in rows.split(BLOCK_ROWS) if len(some))


def _blocks(store: Store, space: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) block after block."""
    for first in range(0, len(store), BLOCK_ROWS):
        yield first, store.read_space(torch.arange(first, min(first + BLOCK_ROWS, len(store))), space)


def _tokens(store: Store, space: int, rows: Tensor) -> tuple[tuple[str, int], ...]:
    """The most frequent tokens of some rows: their text, or where no text is kept, their number."""
    ids = store.token_ids[rows, space].tolist()
    first = dict(zip(reversed(ids), reversed(rows.tolist()), strict=True))

    def name(token: int) -> str:
        if store.held is not None:
            return f"token {token}"
        return store.row_context(first[token], before=0, after=0)[0][0][-20:]

    return tuple((name(token), n) for token, n in Counter(ids).most_common(N_TOKENS))
