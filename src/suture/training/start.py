"""Where a dictionary's weights start: W_enc = W_dec^T, decoder rows of one norm, b_dec the mean of the data."""

import math
import os
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds, units
from suture.activations.batches import sequential
from suture.activations.store import Store
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.parallel import ALONE, Grid

STATISTICS_ROWS = 32_768
"""Rows from which mean and variance are taken: their error is below 1 % of a standard deviation."""


@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """Mean and total variance of the training rows, in scaled units."""

    mean: Float[Tensor, "D_all"]
    """Of all spaces side by side."""
    variance: Float[Tensor, "space"]


def data_statistics(store: Store, rows: Int[Tensor, "row"], *, seed: int) -> DataStatistics:
    """From a seeded sample of the rows."""
    order = torch.randperm(len(rows), generator=seeds.generator("statistics rows", seed))
    chosen = order[:STATISTICS_ROWS].sort().values
    widths = [s.width for s in store.spaces]
    total = torch.zeros(sum(widths), dtype=torch.float64)
    squares = torch.zeros(sum(widths), dtype=torch.float64)
    for _, batch in sequential(store, rows[chosen], batch_size=4096):
        x = batch.activations.double()
        total += x.sum(0)
        squares += x.square().sum(0)
    mean = total / len(chosen)
    variance = (squares / len(chosen) - mean.square()).split(widths)
    return DataStatistics(mean=mean.float(), variance=torch.stack([v.sum() for v in variance]).float().clamp_min(1e-12))


def new_dictionary(
    store: Store, design: Design, statistics: DataStatistics, *, seed: int, lock: float = 0.0, grid: Grid = ALONE
) -> Dictionary:
    """A dictionary over the store's spaces, ready to train; where its features are split, this rank's part of it.

    A share `lock` of its features begins in one model alone.

    Raises:
        UserError: spaces that the design cannot have.
    """
    spaces = [replace(space, mean=None) for space in store.spaces]
    _check_memory(design.n_features, sum(space.width for space in spaces))
    flag_scale = math.sqrt(max(s.width for s in spaces)) if design.flag else 0.0
    dictionary = Dictionary(spaces, design, flag_scale=flag_scale, grid=grid)
    padded = design.pad == "zeros"
    mean = statistics.mean if design.joint else pooled_mean(statistics.mean, dictionary.widths, padded=padded)
    owned, activation = dictionary.owned_columns, design.sparsity.activation
    locked = locked_columns(dictionary, lock)
    with torch.no_grad():
        # every rank draws all features, so that the same seed starts the same dictionary however it is split
        W = torch.randn(design.n_features, dictionary.width, generator=seeds.generator("start weights", seed))
        W = tie(dictionary, W[dictionary.own].clone())
        for columns in (owned, locked):
            W *= 1 if columns is None else columns
        W /= W.norm(dim=1, keepdim=True)
        W *= activation.start_norm
        dictionary.W_dec.copy_(W)
        # the code is the MEAN over models: times their number, it starts as <x, d> of the concatenation
        dictionary.W_enc[:, : dictionary.width] = W * (dictionary.n_spaces if design.joint else 1)
        dictionary.b_dec.copy_(mean)
        dictionary.center.copy_(mean)
        dictionary.threshold.fill_(activation.start_threshold(design.sparsity))
    return dictionary


def locked_columns(dictionary: Dictionary, lock: float) -> Bool[Tensor, "feature D"] | None:
    """The entries that own features may use while a share of all, the first ones, is locked: as many in each model."""
    return dictionary.columns_by_share((lock / dictionary.n_spaces,) * dictionary.n_spaces)


def _check_memory(n_features: int, width: int) -> None:
    """Encoder, decoder and the draw that they start from must fit the machine at all.

    Raises:
        UserError: they do not.
    """
    n_bytes = 3 * 4 * n_features * width
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n_bytes > there:
        problem = f"need {units.size(n_bytes)} of memory, the machine has {units.size(there)}"
        raise UserError("features", n_features, problem, "train fewer features")


def pooled_mean(mean: Float[Tensor, "D_all"], widths: tuple[int, ...], *, padded: bool = False) -> Float[Tensor, "D"]:
    """The mean over all models' rows of each column of the padded row, over the models that have that column.

    Where padding is data (`padded`), over all of them.
    """
    total, count = torch.zeros(max(widths)), torch.zeros(max(widths))
    for part in mean.split(widths):
        total[: len(part)] += part
        count[: len(part)] += 1
    return total / len(widths) if padded else total / count


def tie(
    dictionary: Dictionary, values: Float[Tensor, "feature D"], rows: slice | None = None
) -> Float[Tensor, "feature D"]:
    """The designated shared features' entries (the dictionary's last ones) averaged over spaces of equal width.

    `values` are changed in place; they belong to this rank's own features, or to those numbered `rows` among them.
    """
    rows = rows or slice(0, values.shape[0])
    first_tied = dictionary.n_features - round(dictionary.design.tied * dictionary.n_features)
    n_tied = min(max(0, dictionary.own.start + rows.stop - first_tied), values.shape[0])
    if n_tied == 0:
        return values
    tied = values[-n_tied:].view(n_tied, dictionary.n_spaces, -1)
    values[-n_tied:] = tied.mean(1, keepdim=True).expand_as(tied).reshape(n_tied, -1)
    return values
