"""Where a dictionary's weights start: W_enc = W_dec^T, decoder rows of one norm, b_dec the mean of the data.

Or from another dictionary's weights (`Start`): its features come first, in their order; features beyond its number
start as any other would. Where the rows are of the places it was trained in, it is brought to their units; rows of
others (another layer, another model of the same width) are read about their own mean, in units of their own spread.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds, units
from suture.activations.batches import sequential
from suture.activations.store import Store
from suture.dictionary.design import Design
from suture.dictionary.dictionary import STAGE, Dictionary
from suture.dictionary.parts import portable
from suture.errors import UserError
from suture.parallel import ALONE, Grid
from suture.pipeline import artifact
from suture.training.settings import TrainSettings

LEAST_THRESHOLD = 1e-3
"""Of a jumprelu that starts from another dictionary: its logarithm is what is trained."""
STATISTICS_ROWS = 32_768
"""Rows from which mean and variance are taken: their error is below 1 % of a standard deviation."""


@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """Mean and total variance of the training rows, in scaled units."""

    mean: Float[Tensor, "D_all"]
    """Of all spaces side by side."""
    variance: Float[Tensor, "space"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Weights that a training begins with, and where they are from."""

    make: Callable[[Store, Int[Tensor, "row"]], Dictionary]
    """The dictionary to begin with, from the rows that are trained on; called where there is no checkpoint yet."""
    parents: tuple[Path, ...]
    """The dictionaries it is made of."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else decides it, for the records."""

    @property
    def recorded(self) -> dict[str, Any]:
        """What a manifest says of it, beside its parents."""
        return {"start": dict(self.settings) | {"n_dictionaries": len(self.parents)}}


def start_from(path: str | Path) -> Start:
    """Begin with another dictionary's weights: fine-tuning, on the rows it was trained on or on others.

    Raises:
        ArtifactError: it cannot be read.
        UserError: its weights were changed since it was loaded.
    """
    folder = Dictionary.folder_of(path, setting="start")
    given = Dictionary.load(folder)
    return Start(make=lambda store, _: brought_to(given, store), parents=(folder,))


FINE = 0.1
"""Of the usual learning rate, where one dictionary is gone on with."""
# Planted, 256 features, 25,000 rows from a dictionary with FVU .182: .194 at the whole rate, .175 at a third, .170 at a
# tenth; with topk first .218, .186, .176: what was found is not to be found again.
PUT_TOGETHER: Mapping[str, float] = {"stitch": 1.0, "carry": 1 / 3}
"""The same of dictionaries that no training has fitted yet, by what made them."""
# Stitched, the shipped model's ladder, FVU at L0 16: .210 before, with 50,000 rows .189 at a tenth, .172 at a third,
# .166 at all of it. Carried, SmolLM2 to Gemma 3: .197 before, with 16,000 rows .173, .167, .231; the other way .312
# before, with 33,000 rows .286, .264, .277 (L0 32).


def fine_tuning(given: Design) -> TrainSettings:
    """The settings by which one dictionary is gone on with, where the user says nothing else.

    Its design and kind of sparsity as they are, k from the first step on; the rate is lowered once the other settings
    are known (`at_part`, `usual_part`).
    """
    return TrainSettings(design=given, k_start=1.0)


def usual_part(path: str | Path) -> float:
    """Of the usual learning rate, where this dictionary is gone on with: little of it, unless it was put together.

    Raises:
        ArtifactError: it cannot be read.
    """
    made = artifact.open_artifact(path, stage=STAGE, setting="start").settings
    return next((part for name, part in PUT_TOGETHER.items() if name in made), FINE)


def at_part(settings: TrainSettings, part: float) -> TrainSettings:
    """The settings with a part of the usual learning rate, where none was given."""
    given = settings.learning_rate
    return replace(settings, learning_rate=settings.top_learning_rate * part if given is None else given)


@torch.no_grad()
def brought_to(given: Dictionary, store: Store) -> Dictionary:
    """A dictionary over a store's spaces: in their units where they are its own, else about their mean.

    Raises:
        UserError: spaces of other widths, or not as many.
    """
    widths = tuple(space.width for space in store.spaces)
    if given.widths != widths:
        problem = f"reads spaces {_listed(given.widths)} wide, the rows are of spaces {_listed(widths)} wide"
        raise UserError("start", given.path, problem, "choose spaces of its widths with --space, or another dictionary")
    at_home = all(own.stands_for(space) for own, space in zip(given.spaces, store.spaces, strict=True))
    if at_home:
        return given.with_scales([space.scale for space in store.spaces], setting="start")
    made = Dictionary([replace(space, mean=None) for space in store.spaces], given.design, flag_scale=given.flag_scale)
    made.load_state_dict(given.state_dict())
    mean = torch.cat([space.known_mean * space.scale for space in store.spaces])
    if not given.design.joint:
        mean = pooled_mean(mean, widths, padded=given.design.pad == "zeros")
    made.b_dec.add_(mean.to(made.b_dec) - made.center)
    made.center.copy_(mean)
    return made.requires_grad_(requires_grad=False)


def _listed(widths: tuple[int, ...]) -> str:
    return " and ".join(str(width) for width in widths)


@torch.no_grad()
def begin_with(dictionary: Dictionary, given: Dictionary) -> None:
    """Put another dictionary's weights into one that is to be trained, or this rank's part of them.

    Decoder rows get the norm 1 that training keeps, their norms going into the values, unless its kind of sparsity
    leaves them free.

    Raises:
        UserError: another design, a larger one, or values that this kind of sparsity cannot have.
    """
    design, own = given.design, dictionary.design
    shapes = [(d.kind, d.flag, d.pad, d.dedicated, d.tied) for d in (own, design)]
    if shapes[0] != shapes[1] or given.flag_scale != dictionary.flag_scale:
        problem = f"is a {design.kind}, what is trained is a {own.kind}"
        if design.kind == own.kind:
            problem = "has another flag, padding, or other dedicated or tied features than what is trained"
        raise UserError("start", given.path, problem, "train the same design")
    if given.n_features > own.n_features:
        problem = f"has {given.n_features} features, more than the {own.n_features} to be trained"
        raise UserError("start", given.path, problem, f"raise --features to {given.n_features} or more")
    extra = given.own_weights.keys() - dictionary.own_weights.keys()
    if extra:
        problem = f"is {given.sparsity.kind}, whose values {own.sparsity.kind} cannot have"
        raise UserError("start", given.path, problem, f"train with --sparsity {given.sparsity.kind}")
    if not own.sparsity.activation.free_norms:
        given = portable(given)
    first, last = dictionary.own.start, min(dictionary.own.stop, given.n_features)
    here, there = slice(0, max(0, last - first)), slice(first, max(first, last))
    for name, tensor in dictionary.state_dict().items():
        if name in ("center", "b_dec"):
            tensor.copy_(given.state_dict()[name])
        elif name == "threshold":
            if given.sparsity.activation.thresholds is not None and own.sparsity.activation.price == "l0":
                tensor[here] = given.threshold[there].clamp_min(LEAST_THRESHOLD)
        elif name == "b_enc" and "magnitude_bias" in dictionary.own_weights:
            tensor[here] = (given.b_enc - given.threshold)[there]  # a gate opens above zero while it is trained
        elif name in given.state_dict():
            tensor[here] = given.state_dict()[name][there]
        elif name == "magnitude_bias":  # of a gated one that starts from another kind: magnitudes as its values were
            tensor[here] = given.b_enc[there]


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
