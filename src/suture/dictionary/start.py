"""Where a dictionary's weights start: W_enc = W_dec^T, decoder rows of one norm, b_dec the mean of the data."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.activations.batches import sequential
from suture.activations.store import Store
from suture.dictionary.design import Design, SpaceInfo
from suture.dictionary.dictionary import Dictionary

STATISTICS_ROWS = 32_768
"""Rows from which mean and variance are taken: their error is below 1 % of a standard deviation."""

SMALL_NORM = 0.1
"""Decoder norm at the start where the norms are free (`relu+l1`)."""


@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """Mean and total variance of the training rows, in scaled units."""

    mean: Float[Tensor, "D_all"]
    """Of all spaces side by side."""
    variance: Float[Tensor, "space"]


def data_statistics(store: Store, rows: Int[Tensor, "row"], *, seed: int) -> DataStatistics:
    """From a seeded sample of the rows."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:STATISTICS_ROWS].sort().values
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


def new_dictionary(store: Store, design: Design, statistics: DataStatistics, *, seed: int) -> Dictionary:
    """A dictionary over the store's spaces, ready to train.

    Raises:
        UserError: spaces that the design cannot have.
    """
    spaces = [
        SpaceInfo(model=s.model, hookpoint=s.hookpoint, width=s.width, scale=s.scale, fingerprint=s.fingerprint)
        for s in store.spaces
    ]
    dictionary = Dictionary(spaces, design, flag_scale=math.sqrt(max(s.width for s in spaces)) if design.flag else 0.0)
    mean = statistics.mean if design.joint else pooled_mean(statistics.mean, dictionary.widths)
    owned = owned_columns(dictionary)
    with torch.no_grad():
        W = torch.randn(dictionary.W_dec.shape, generator=torch.Generator().manual_seed(seed))
        W = tie(dictionary, W)
        if owned is not None:
            W *= owned
        W /= W.norm(dim=1, keepdim=True)
        if design.sparsity.kind == "relu+l1":
            W *= SMALL_NORM
        dictionary.W_dec.copy_(W)
        # the code is the MEAN over models: times their number, it starts as <x, d> of the concatenation
        dictionary.W_enc[:, : dictionary.width] = W * (dictionary.n_spaces if design.joint else 1)
        dictionary.b_dec.copy_(mean)
        dictionary.center.copy_(mean)
        if design.sparsity.kind == "jumprelu":
            dictionary.threshold.fill_(design.sparsity.initial_threshold)
    return dictionary


def pooled_mean(mean: Float[Tensor, "D_all"], widths: tuple[int, ...]) -> Float[Tensor, "D"]:
    """The mean over all models' rows of each column of the padded row, over the models that have that column."""
    total, count = torch.zeros(max(widths)), torch.zeros(max(widths))
    for part in mean.split(widths):
        total[: len(part)] += part
        count[: len(part)] += 1
    return total / count


def owned_columns(dictionary: Dictionary) -> Bool[Tensor, "feature D"] | None:
    """Which decoder (and encoder) entries a feature may use; None where every feature may use all.

    The first features belong to the first space, and so on by `dedicated`; the rest belong to all.
    """
    design = dictionary.design
    if not any(design.dedicated):
        return None
    owned = torch.ones(design.n_features, dictionary.width, dtype=torch.bool)
    first = 0
    for space, share in enumerate(design.dedicated):
        count = round(share * design.n_features)
        owned[first : first + count] = False
        owned[first : first + count, dictionary.columns(space)] = True
        first += count
    return owned


def tie(dictionary: Dictionary, values: Float[Tensor, "feature D"]) -> Float[Tensor, "feature D"]:
    """The designated shared features' entries (the last ones) averaged over spaces of equal width."""
    count = round(dictionary.design.tied * dictionary.n_features)
    if count == 0:
        return values
    tied = values[-count:].view(count, dictionary.n_spaces, -1)
    values[-count:] = tied.mean(1, keepdim=True).expand_as(tied).reshape(count, -1)
    return values
