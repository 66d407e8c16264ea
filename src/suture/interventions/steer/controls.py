"""Control directions of steering: what else could have been added, as long as the feature's own vector in raw units.

| kind         | a direction                                                                                          |
|--------------|------------------------------------------------------------------------------------------------------|
| `covariance` | drawn with the covariance of the space's centred rows: where the model's own activations vary       |
| `decoder`    | the decoder row of another live feature, drawn                                                       |
| `shuffled`   | the feature's own row, its coordinates in another order                                              |
| `means`      | mean activation where the feature fires less that where it does not: what needs no dictionary       |
| `isotropic`  | any direction alike                                                                                  |
| `carried`    | the other model's vector, through the linear map of a bridge                                         |

An isotropic direction is no fair control where few coordinates hold most of the variance: in Gemma 3 it cost 2.4 to 4.0
nats of KL where covariance-matched ones cost .06 to .30 and the feature .37. `means` is no chance direction but a rival
that ought to do what the feature does, and so is `carried`: what it does beside the model's own vector is the gap of
transfer. The covariance is that of the training rows kept beside the dictionary, or where
none are kept that of the model's activations on the neutral text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from suture import seeds
from suture.activations.moments import Moments
from suture.dictionary.dictionary import Dictionary
from suture.interventions.edits import solo_codes
from suture.interventions.settings import ControlKind, SteerSettings
from suture.interventions.steer.collateral import Bystanders
from suture.interventions.steer.probe import Probe

COVARIANCE, DECODER, SHUFFLED, MEANS = "covariance", "decoder", "shuffled", "means"
CARRIED: Literal["carried"] = "carried"
ISOTROPIC: Literal["isotropic"] = "isotropic"
WRITTEN = 1e-6
"""Norm of a decoder row, in scaled units, below which it points nowhere."""

CovarianceOf = Literal["training rows", "neutral text", ""]


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A vector that is added at strength 1."""

    kind: ControlKind | Literal["own"]
    vector: Float[Tensor, "width"]
    """Raw units."""
    feature: int | None = None
    """Whose decoder row it is, another's than the steered feature's."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What is known of a model's activations at its hookpoint, raw units."""

    root: Float[Tensor, "width width"] | None
    """R with R R^T their covariance; None where it is not asked for."""
    covariance_of: CovarianceOf
    means: dict[int, Float[Tensor, "width"]]
    """Per feature that fires on some neutral rows and not on others, the difference of their means."""
    bystanders: Bystanders | None = None
    """The features on the neutral rows; None of a single text."""
    carried: Mapping[int, Float[Tensor, "width"]] = field(default_factory=dict)
    """Per feature, the other model's vector through a bridge; empty without one."""


def surroundings(
    dictionary: Dictionary,
    space: int,
    probe: Probe,
    features: Sequence[int],
    settings: SteerSettings,
    carried: Mapping[int, Float[Tensor, "width"]] | None = None,
) -> Surroundings:
    """What the controls asked for need to know; `carried` are the other model's vectors, per feature."""
    kinds = settings.controls if settings.n_controls else ()
    kept = dictionary.imputation
    root, means, covariance_of = None, {}, ""
    text: Moments | None = None
    if MEANS in kinds or (COVARIANCE in kinds and kept is None):
        text, means = _of_text(dictionary, space, probe, features)
    if COVARIANCE in kinds:
        covariance_of = "neutral text" if kept is None else "training rows"
        if kept is not None:
            covariance = kept.fit.covariance(space, space) / dictionary.spaces[space].scale ** 2
        else:
            assert text is not None
            covariance = text.covariance()
        root = square_root(covariance)
    return Surroundings(
        root=root,
        covariance_of=covariance_of,
        means=means,
        bystanders=Bystanders.of(dictionary, space, probe, settings.seed),
        carried=carried or {},
    )


def square_root(covariance: Float[Tensor, "width width"]) -> Float[Tensor, "width width"]:
    """R with R R^T = C (float64); what rounding made negative counts as nothing."""
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    return vectors * values.clamp_min(0).sqrt()


def _of_text(
    dictionary: Dictionary, space: int, probe: Probe, features: Sequence[int]
) -> tuple[Moments, dict[int, Float[Tensor, "width"]]]:
    """Moments of the neutral rows, and for each feature the mean where it fires less the mean where it does not."""
    width, chosen = dictionary.spaces[space].width, torch.tensor(list(features), dtype=torch.int64)
    moments = Moments([width])
    inside = torch.zeros(len(chosen), width, dtype=torch.float64)
    n_inside = torch.zeros(len(chosen), dtype=torch.float64)
    device = dictionary.W_dec.device
    for rows, _ in probe.neutral_rows():
        moments.add(rows.cpu())
        fires = (solo_codes(dictionary, space, rows.float().to(device), chosen) > 0).double().cpu()
        inside += fires.T @ rows.double().cpu()
        n_inside += fires.sum(0)
    total = moments.mean() * moments.n_rows
    means = {}
    for feature, own, n in zip(features, inside, n_inside.tolist(), strict=True):
        if 0 < n < moments.n_rows:
            means[feature] = own / n - (total - own) / (moments.n_rows - n)
    return moments, means


def control_directions(
    dictionary: Dictionary,
    space: int,
    feature: int,
    own: Float[Tensor, "width"],
    *,
    live: Sequence[int],
    around: Surroundings,
    settings: SteerSettings,
) -> list[Direction]:
    """The controls of one feature in one model, in the order of the settings, then a carried one, and isotropic ones
    last.

    Args:
        dictionary: whose decoder rows are drawn from.
        space: the model.
        feature: the steered feature.
        own: its vector at strength 1, raw units; every control is as long.
        live: features that fire.
        around: what is known of the model's activations.
        settings: which kinds, how many draws, and their seed.
    """
    found: list[Direction] = []
    for kind in settings.controls if settings.n_controls else ():
        if kind == DECODER:
            for other in _others(dictionary, feature, live, settings):
                row = dictionary.raw_decoder(space)[other]
                found.append(Direction(kind=kind, vector=as_long(row, own), feature=other))
        elif kind == MEANS:
            if feature in around.means:
                found.append(Direction(kind=kind, vector=as_long(around.means[feature], own)))
        else:
            for draw in range(settings.n_controls):
                vector = _drawn(kind, own, around, settings.seed, feature, space, draw)
                found.append(Direction(kind=kind, vector=as_long(vector, own)))
    if feature in around.carried:
        found.append(Direction(kind=CARRIED, vector=as_long(around.carried[feature], own)))
    for draw in range(settings.n_random):
        chance = seeds.generator("random directions", settings.seed, feature, space, draw)
        vector = torch.randn(len(own), generator=chance)
        found.append(Direction(kind=ISOTROPIC, vector=as_long(vector, own)))
    return found


def _drawn(
    kind: ControlKind, own: Tensor, around: Surroundings, seed: int, feature: int, space: int, draw: int
) -> Float[Tensor, "width"]:
    chance = seeds.generator(f"{kind} directions", seed, feature, space, draw)
    if kind == SHUFFLED:
        return own[torch.randperm(len(own), generator=chance).to(own.device)]
    assert around.root is not None
    return around.root @ torch.randn(len(own), generator=chance, dtype=torch.float64)


def _others(dictionary: Dictionary, feature: int, live: Sequence[int], settings: SteerSettings) -> list[int]:
    """Other live features that write in every model, the same for all models: fewer where there are not so many."""
    written = (dictionary.decoder_norms() > WRITTEN).all(-1).tolist()
    candidates = torch.tensor([i for i in live if i != feature and written[i]], dtype=torch.int64)
    order = torch.randperm(len(candidates), generator=seeds.generator("decoder directions", settings.seed, feature))
    return candidates[order[: settings.n_controls]].tolist()


def as_long(vector: Float[Tensor, "width"], own: Float[Tensor, "width"]) -> Float[Tensor, "width"]:
    """A vector of this direction and of another's length, precision and device."""
    return (vector.double() * (float(own.norm()) / float(vector.double().norm().clamp_min(1e-30)))).to(own)
