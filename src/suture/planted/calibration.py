"""Are labels as sure as they say? Claims and intervals about features held against the planted shares of concepts.

1. A concept's true share of model m: how strong it is there over how strong it is in all, in units of each model's mean
   norm, as the labels measure it (`true_shares`).
2. Every label is claims: "model m lacks it" or "model m has it". A model with a little of a feature, a share between t
   and e, that cannot read its occasion counts as lacking it: the claim is wrong where the planted share of the concept
   that the feature stands for is e or more, and `faint` where it is t or more. "m has it" is wrong below t.
3. The error rate of the claims at false-discovery rate q should be near q where concepts lie on the boundary, and below
   it where they lie clear of it.
4. An interval is of the feature's share over all text, which a much larger sample tells: 95 % of them should hold that
   (`population`). The planted share is the concept's; a feature is not quite its concept, and on many rows its interval
   is narrower than the two are apart, so fewer hold it. How far they are apart is `total_error`.

Concepts without a feature make no claim here; `scores` counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.labels import DEAD, OPEN, SHARED

UNDECIDED = (*OPEN, DEAD)
"""Labels that claim nothing."""
AT_BOUNDARY = 0.01
"""How near a planted share is to the boundary to be on it: the models' scales differ by some per cent."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Counts, so that those of several seeds can be added up."""

    n_lacks: int
    """Claims that a model lacks a feature."""
    wrong_lacks: int
    """Where it has more than a little of it."""
    faint: int
    """Where it has a little of it."""
    n_has: int
    """Claims that a model has it."""
    wrong_has: int
    n_intervals: int
    covered: int
    """Intervals that hold the planted share."""
    covered_population: int
    """Intervals that hold the feature's share over all text; as many as `covered` where that was not given."""
    total_error: float
    """Sum over the intervals of the distance between measured (or the population's) and planted share."""
    n_at_boundary: int
    """(feature, model) pairs whose planted share is the boundary itself."""
    small_p_lacks: int
    """Of those, how many p-values of "lacks it" are below 0.05: near 5 % if p-values mean what they say."""
    small_p_has: int


def true_shares(
    concepts: Sequence[Float[Tensor, "concept _"]], scales: Sequence[float]
) -> Float[Tensor, "concept model"]:
    """Each model's share of every concept (1); `concepts` are raw directions, `scales` those of the spaces."""
    amounts = [d.double().norm(dim=1) * s / d.shape[1] ** 0.5 for d, s in zip(concepts, scales, strict=True)]
    amount = torch.stack(amounts, dim=1)
    return amount / amount.sum(dim=1, keepdim=True)


def calibration(
    truth: Float[Tensor, "concept model"],
    assignment: Int[Tensor, "concept"],
    labels: Sequence[str],
    intervals: tuple[Float[Tensor, "feature model"], Float[Tensor, "feature model"]],
    p_values: tuple[Float[Tensor, "feature model"], Float[Tensor, "feature model"]],
    *,
    threshold: float = 0.15,
    even: float = 0.3,
    population: Float[Tensor, "feature model"] | None = None,
) -> Calibration:
    """Hold labels, intervals (low, high) and p-values (lacks, has) against `truth`.

    `population` are shares from a much larger sample. `assignment` names each concept's feature (`scores.assign`);
    `threshold` and `even` are LabelSettings.exclusive_share and even_share, t and e.
    """
    boundary, much = 2 * threshold / truth.shape[1], 2 * even / truth.shape[1]
    known = assignment >= 0
    truth, feature = truth[known], assignment[known]
    names = list(labels)
    lacks, has = claims([names[i] for i in feature.tolist()], truth.shape[1])
    low, high = (end[feature] for end in intervals)
    measured = low.isfinite() & high.isfinite()
    at = (truth - boundary).abs() < AT_BOUNDARY
    whole = truth if population is None else population[feature].double()
    return Calibration(
        n_lacks=int(lacks.sum()),
        wrong_lacks=int((lacks & (truth >= much)).sum()),
        faint=int((lacks & (truth >= boundary) & (truth < much)).sum()),
        n_has=int(has.sum()),
        wrong_has=int((has & (truth < boundary)).sum()),
        n_intervals=int(measured.sum()),
        covered=int((measured & (low <= truth) & (truth <= high)).sum()),
        covered_population=int((measured & (low <= whole) & (whole <= high)).sum()),
        total_error=float(((whole if population is not None else (low + high) / 2) - truth).abs()[measured].sum()),
        n_at_boundary=int(at.sum()),
        small_p_lacks=int((at & (p_values[0][feature] < 0.05)).sum()),
        small_p_has=int((at & (p_values[1][feature] < 0.05)).sum()),
    )


def claims(labels: Sequence[str], n_models: int) -> tuple[Bool[Tensor, "label model"], Bool[Tensor, "label model"]]:
    """(this model lacks it, this model has it) of every label; nothing for `ambiguous` and `dead`.

    >>> [side.tolist() for side in claims(["A", "shared", "ambiguous"], 2)]
    [[[False, True], [False, False], [False, False]], [[True, False], [True, True], [False, False]]]
    """
    letters = ascii_uppercase[:n_models]
    decided = torch.tensor([name not in UNDECIDED for name in labels], dtype=torch.bool).unsqueeze(1)
    named = [[name == SHARED or letter in name for letter in letters] for name in labels]
    has = torch.tensor(named, dtype=torch.bool).view(len(labels), n_models) & decided
    return ~has & decided, has
