"""How well a dictionary explains rows it has not seen: FVU per model, L0, dead share, and R2[i, j] with models missing.

1. Encode every row from all models, and from each model alone.
2. Accumulate ||x_j - xhat_j||^2 for every (source, target j), and the mean and energy of every x_j, in float64.
3. R2[i, j] = 1 - sum ||x_j - xhat_j from the code of model i alone||^2 / sum ||x_j - mean||^2; last row: all models.
   Where a crosscoder's missing models are imputed, the linear map that imputes them has an R2 of its own beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.batches import sequential
from suture.activations.settings import MULTIPLE
from suture.activations.store import Store
from suture.dictionary.codes import Codes
from suture.dictionary.design import Missing
from suture.dictionary.dictionary import Dictionary
from suture.parallel import Grid

BATCH_ROWS = 2048
N_LARGEST = 10
"""Coordinates left out of `fvu_typical`."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The numbers reported for every joint dictionary, always."""

    fvu: list[float]
    """Fraction of variance unexplained, per model, from the code of all models (`pooled`: from the model's own)."""
    l0: float
    """Active features of the average row."""
    dead: float
    """Share of features silent on all evaluated rows."""
    r2: list[list[float]]
    """[source, target]; sources are each model alone, then all models (`pooled`: each target's own code again)."""
    missing: Missing = "zero"
    """What stood in for the other models in the codes from one model alone."""
    r2_linear: list[list[float | None]] | None = None
    """[source, target]: R2 of the linear map alone that imputes a missing model; None on the diagonal."""
    fvu_typical: list[float] | None = None
    """FVU without outlier rows and without the ten coordinates of most variance, where those are known: a few of them
    may hold most of a model's variance, and make FVU look excellent or hopeless."""
    n_rows: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for evaluation.json."""
        return asdict(self)


def evaluate(
    dictionary: Dictionary,
    store: Store,
    rows: Int[Tensor, "row"],
    *,
    missing: Missing | None = None,
    alone: bool = True,
    batch_size: int = BATCH_ROWS,
) -> Evaluation:
    """Evaluate a dictionary on rows of a store that holds its spaces, in the dictionary's own order.

    `missing` as in `Dictionary.encode`; without `alone` a joint dictionary's codes from one model alone are left out,
    and `r2` has its last row only. Ranks that split the rows each encode their part; every one returns the numbers of
    all.
    """
    missing = missing or dictionary.missing
    imputes = missing == "impute" and dictionary.n_spaces > 1
    device, M, grid = dictionary.W_dec.device, dictionary.n_spaces, dictionary.grid
    errors, linear = torch.zeros(M + 1, M, dtype=torch.float64), torch.zeros(M, M, dtype=torch.float64)
    energy, total = torch.zeros(M, dtype=torch.float64), torch.zeros(sum(dictionary.widths), dtype=torch.float64)
    fired = torch.zeros(dictionary.W_dec.shape[0], dtype=torch.bool, device=device)
    n_rows, n_active, n_codes = 0, 0, 0
    typical = [_Typical.of(store, m, space.scale) for m, space in enumerate(dictionary.spaces)]
    scales = [space.scale for space in dictionary.spaces]
    for _, batch in sequential(store, rows[grid.data.share(len(rows))], batch_size=batch_size, scales=scales):
        x = batch.activations.to(device)
        targets = x.split(dictionary.widths, dim=-1)
        energy += torch.stack([t.double().square().sum() for t in targets]).cpu()
        total += x.double().sum(0).cpu()
        n_rows += x.shape[0]
        solo = []
        if imputes and alone:
            filled = [dictionary.imputed(x, torch.arange(M, device=x.device) == m) for m in range(M)]
            linear += torch.stack([_apart(f.split(dictionary.widths, dim=-1), targets) for f in filled])
            solo = [dictionary.encode(f) for f in filled]
        elif alone or not dictionary.design.joint:
            solo = [dictionary.encode_alone(x, m, missing="zero") for m in range(M)]
        for i, codes in enumerate(solo):
            errors[i] += _squared_errors(dictionary, codes, targets)
        main = [dictionary.encode(x)] if dictionary.design.joint else solo
        whole = [dictionary.per_space(dictionary.decode(codes)) for codes in main]
        rebuilt = whole[0] if dictionary.design.joint else [own[m] for m, own in enumerate(whole)]
        errors[M] += _apart(rebuilt, targets)
        for own, target, found in zip(typical, targets, rebuilt, strict=True):
            own.add(target, found)
        for codes in main:
            fired[codes.feature.long()] = True
            n_active, n_codes = n_active + codes.value.numel(), n_codes + codes.n_rows
    for sums in (errors, energy, total, linear):  # of every rank's rows
        grid.data.add_up(sums)
    counts = torch.tensor([n_rows, n_codes, n_active], dtype=torch.float64)
    n_rows, n_codes = (int(n) for n in grid.data.add_up(counts[:2]))
    n_active = int(grid.world.add_up(counts[2]))
    n_fired = int(grid.features.add_up(grid.data.any(fired).sum()))
    means = (total / max(n_rows, 1)).split(dictionary.widths)
    variance = energy - n_rows * torch.stack([m.square().sum() for m in means])
    unexplained = errors / variance.clamp_min(1e-12)
    return Evaluation(
        fvu=unexplained[M].tolist(),
        l0=n_active / max(n_codes, 1),
        dead=1.0 - n_fired / dictionary.n_features,
        r2=(1.0 - unexplained).tolist()[0 if alone else M :],
        missing=missing,
        r2_linear=_off_diagonal(1.0 - linear / variance.clamp_min(1e-12)) if imputes and alone else None,
        fvu_typical=[own.fvu(grid) for own in typical] if store.extremes is not None else None,
        n_rows=n_rows,
    )


class _Typical:
    """Errors and energies, coordinate by coordinate, of one space's rows that are no outliers."""

    def __init__(self, centre: Tensor, radius: float) -> None:
        self.centre, self.radius = centre, radius
        self.sums = torch.zeros(3, len(centre), dtype=torch.float64)
        """Squared error, squared distance from the centre, distance from the centre."""
        self.n = torch.zeros((), dtype=torch.float64)

    @staticmethod
    def of(store: Store, space: int, scale: float) -> _Typical:
        """Of a space of a store, in units of this scale; all rows where outliers are not known."""
        found = store.typical(space)
        if found is None:
            return _Typical(torch.zeros(store.spaces[space].width), torch.inf)
        return _Typical(found[0] * scale, MULTIPLE * found[1] * scale)

    def add(self, target: Float[Tensor, "row width"], found: Float[Tensor, "row width"]) -> None:
        """Add rows and their reconstruction."""
        apart = target - self.centre.to(target.device)
        near = apart.norm(dim=1) <= self.radius
        apart, error = apart[near].double(), (target - found)[near].double()
        self.sums += torch.stack([error.square().sum(0), apart.square().sum(0), apart.sum(0)]).cpu()
        self.n += int(near.sum())

    def fvu(self, grid: Grid) -> float:
        """Without the coordinates of most variance, ten of them, or a quarter of a narrow space's."""
        error, square, total = grid.data.add_up(self.sums)
        variance = square - total.square() / grid.data.add_up(self.n).clamp_min(1)
        kept = variance.argsort(descending=True)[min(N_LARGEST, len(variance) // 4) :]
        return float(error[kept].sum() / variance[kept].sum().clamp_min(1e-12))


def _squared_errors(
    dictionary: Dictionary, codes: Codes, targets: tuple[Float[Tensor, "row _"], ...]
) -> Float[Tensor, "space"]:
    return _apart(dictionary.per_space(dictionary.decode(codes)), targets)


def _apart(
    found: Sequence[Float[Tensor, "row _"]], targets: Sequence[Float[Tensor, "row _"]]
) -> Float[Tensor, "space"]:
    return torch.stack([(t - d).double().square().sum() for t, d in zip(targets, found, strict=True)]).cpu()


def _off_diagonal(matrix: Float[Tensor, "source target"]) -> list[list[float | None]]:
    return [[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(matrix.tolist())]
