"""What is done at one hookpoint: a few features read and written back, or directions projected out; only tensors.

1. `Removal`: a feature's value from this model's raw activation alone is affine, thresholded, ReLU: pre = x E + b;
   f = ReLU(gain pre + offset) where pre > threshold, else 0. Missing models are imputed by a linear map, which is
   folded into E and b, so that no dictionary is needed any more. x becomes x - strength f W, W being the decoder's row
   in this model, less what is put in its place. Features are read in x as training read it: drawn in to a radius
   around a centre where it lies beyond, an outlier row.
2. `Projection`: x becomes x - strength (x - mean) U^T U. With strength 1 it folds into the weights that write x.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from suture.activations.outliers import clipped
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions.edits import Edit, check_feature, check_space, orthonormal, project_out, scaled

PER_FEATURE = ("encode", "bias", "threshold", "gain", "offset", "write")
"""Tensors of a removal that have a row for every feature."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """Features read at a hookpoint, and what is subtracted in proportion to them."""

    hookpoint: str
    features: tuple[int, ...]
    """Their numbers in the dictionary they come from."""
    encode: Float[Tensor, "feature width"]
    bias: Float[Tensor, "feature"]
    threshold: Float[Tensor, "feature"]
    gain: Float[Tensor, "feature"]
    offset: Float[Tensor, "feature"]
    write: Float[Tensor, "feature width"]
    centre: Float[Tensor, "width"]
    radius: Float[Tensor, ""]
    """Rows farther from the centre than this are drawn in to it before they are read; infinite: none are."""

    @property
    def width(self) -> int:
        """Of the activation."""
        return self.encode.shape[1]

    def values(self, rows: Float[Tensor, "*row width"]) -> Float[Tensor, "*row feature"]:
        """The features' values in raw activations."""
        rows = rows.to(self.encode)
        if math.isfinite(self.radius):
            rows = clipped(rows, self.centre, self.radius)
        pre = rows @ self.encode.T + self.bias
        return torch.where(pre > self.threshold, (self.gain * pre + self.offset).relu(), 0.0)

    def edit(self, strength: float = 1.0) -> Edit:
        """From activations to those without what the features write; the very same at strength 0."""
        if strength == 0:
            return lambda activation: activation

        def taken(activation: Tensor) -> Tensor:
            return activation - (strength * (self.values(activation) @ self.write)).to(activation)

        return taken

    def only(self, places: Sequence[int]) -> Removal:
        """Some of the features, by their place here."""
        at = torch.tensor(list(places), dtype=torch.int64)
        kept = {name: getattr(self, name)[at] for name in PER_FEATURE}
        return replace(self, features=tuple(self.features[i] for i in places), **kept)

    def to(self, device: torch.device) -> Removal:
        """The same there."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All that is saved."""
        return {name: getattr(self, name) for name in (*PER_FEATURE, "centre", "radius")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """Directions at a hookpoint along which nothing is left but the mean."""

    hookpoint: str
    features: tuple[int, ...]
    """Whose directions they are; none where they are not a dictionary's."""
    directions: Float[Tensor, "direction width"]
    """Orthonormal."""
    mean: Float[Tensor, "width"]

    @property
    def width(self) -> int:
        """Of the activation."""
        return self.directions.shape[1]

    def edit(self, strength: float = 1.0) -> Edit:
        """From activations to those without these directions; the very same at strength 0."""
        return scaled(project_out(self.directions, self.mean), strength)

    def to(self, device: torch.device) -> Projection:
        """The same there."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All that is saved."""
        return {"directions": self.directions, "mean": self.mean}


Part = Removal | Projection
KINDS: Mapping[str, type[Removal] | type[Projection]] = {"removal": Removal, "projection": Projection}


def described(part: Part) -> dict[str, Any]:
    """What is saved beside the tensors."""
    kind = next(name for name, kind in KINDS.items() if isinstance(part, kind))
    return {"kind": kind, "hookpoint": part.hookpoint, "features": list(part.features)}


def removal(
    dictionary: Dictionary,
    space: int,
    features: Sequence[int],
    *,
    instead: Float[Tensor, "feature width"] | None = None,
) -> Removal:
    """Features of a dictionary, read and written in one of its spaces.  (1)

    Args:
        dictionary: thresholded: which features are active must not depend on the others.
        space: the model's.
        features: their numbers.
        instead: per feature of the dictionary, what is written in place of its row here (raw units): nothing when not
            given.

    Raises:
        UserError: no such space or feature, or a dictionary that ranks.
    """
    check_space(dictionary, space)
    for feature in features:
        check_feature(dictionary, feature)
    if dictionary.sparsity.ranks:
        problem = "keeps the k largest of a row, so that a feature cannot be read without all others"
        name = dictionary.path or "not saved"
        raise UserError("dictionary", name, problem, "bring it to thresholds with suture refit")
    chosen = torch.tensor(list(features), dtype=torch.int64)
    pre = _pre_activations(dictionary, space, chosen)
    gain, offset = dictionary.sparsity.activation.valued(dictionary)
    width = dictionary.widths[space]
    centre, radius = dictionary.clipping.bounds[space] or (torch.zeros(width), math.inf)
    write = dictionary.raw_decoder(space) if instead is None else dictionary.raw_decoder(space) - instead
    return Removal(
        hookpoint=dictionary.spaces[space].hookpoint,
        features=tuple(features),
        encode=(pre[1:] - pre[0]).T.float().contiguous(),
        bias=pre[0].float(),
        threshold=dictionary.threshold[chosen].detach().clone(),
        gain=gain[chosen].clone(),
        offset=offset[chosen].clone(),
        write=write[chosen].detach().clone(),
        centre=centre.float(),
        radius=torch.tensor(radius, dtype=torch.float32),
    )


def projection(removed: Removal, mean: Float[Tensor, "width"]) -> Projection:
    """What features write, projected out instead."""
    return Projection(
        hookpoint=removed.hookpoint, features=removed.features, directions=orthonormal(removed.write), mean=mean
    )


def _pre_activations(dictionary: Dictionary, space: int, chosen: Tensor) -> Float[Tensor, "point feature"]:
    """Of the zero activation and of each coordinate's unit, from which an affine map follows; float64."""
    exact = copy.deepcopy(dictionary).double()
    own = exact.spaces[space]
    points = torch.cat([torch.zeros(1, own.width), torch.eye(own.width)]).double() * own.scale
    if not exact.design.joint:
        x = torch.nn.functional.pad(points, (0, exact.width - own.width))
        read = exact.encoder_input(x, model=torch.full((len(x),), space))
    else:
        x = points.new_zeros(len(points), exact.width)
        x[:, exact.columns(space)] = points
        only = torch.arange(exact.n_spaces) == space
        if exact.n_spaces == 1:
            read = exact.encoder_input(x)
        elif exact.missing == "impute":
            read = exact.encoder_input(exact.imputed(x, only))
        else:
            read = exact.encoder_input(x, available=only)
    return read @ exact.W_enc.detach()[chosen].T + exact.b_enc.detach()[chosen]
