"""How well a dictionary, its labels or a fitted map tell the planted truth; pure functions of tensors.

1. `cosines`: every concept against every decoder row, over the concatenation of the models in scaled units.
2. From them: `recovery`, `mmcs`, `mcc`, and `assign`, which names the feature that stands for each concept (or none).
3. A concept's found label is its feature's label, `missed` where it has none: `confusion`, `macro_f1`.
4. `auroc` of an exclusivity score, `detection_f1` of features as detectors of concepts, `map_error` of a bridge.
5. `directions_found`: a concept counts in each model that has it, however many features that takes.
6. `score_dictionary` puts 1-4 together, for any number of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_uppercase

import torch
from jaxtyping import Bool, Float, Int, Num
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from suture.labels import DEAD, OPEN, SHARED


def true_labels(n_models: int) -> tuple[str, ...]:
    """Whose a concept can be among several models.

    >>> true_labels(3)
    ('A', 'B', 'C', 'AB', 'AC', 'BC', 'shared')
    """
    letters = ascii_uppercase[:n_models]
    return (*("".join(c) for size in range(1, n_models) for c in combinations(letters, size)), SHARED)


def found_columns(n_models: int) -> tuple[str, ...]:
    """What a concept can be found as: the true labels, undecided, or not at all."""
    return (*true_labels(n_models), *OPEN, DEAD, "missed")


TRUE_LABELS = true_labels(2)
FOUND_LABELS = found_columns(2)


def joint_directions(
    directions: Sequence[Float[Tensor, "concept _"]], scales: Sequence[float]
) -> Float[Tensor, "concept D"]:
    """The concepts' directions in all models side by side, each model's times its scale (a dictionary's units)."""
    assert len(directions) == len(scales)
    return torch.cat([d * s for d, s in zip(directions, scales, strict=True)], dim=1)


def cosines(
    concepts: Float[Tensor, "concept D"], decoder: Float[Tensor, "feature D"]
) -> Float[Tensor, "concept feature"]:
    """Cosine of every concept with every decoder row; 0 where either is zero."""
    return _unit(concepts) @ _unit(decoder).T


def best(cosine: Float[Tensor, "concept feature"], live: Bool[Tensor, "feature"]) -> Float[Tensor, "concept"]:
    """Each concept's largest cosine with a live feature; 0 where no feature lives."""
    if not bool(live.any()):
        return torch.zeros(len(cosine))
    return cosine[:, live].max(dim=1).values


def recovery(cosine: Float[Tensor, "concept feature"], live: Bool[Tensor, "feature"], threshold: float) -> float:
    """Share of the concepts that a live feature points at with at least this cosine (0.8 and 0.9 are reported)."""
    return float((best(cosine, live) >= threshold).double().mean())


def mmcs(cosine: Float[Tensor, "concept feature"], live: Bool[Tensor, "feature"]) -> float:
    """Mean over concepts of the maximum cosine with a live feature."""
    return float(best(cosine, live).double().mean())


def mcc(cosine: Float[Tensor, "concept feature"], live: Bool[Tensor, "feature"]) -> float:
    """Mean cosine of the best one-to-one matching of concepts and live features (Hungarian).

    Signs count, because codes are never negative; a concept left without a feature, or better off without, counts 0.
    """
    usable = cosine[:, live].clamp(min=0).double().numpy()
    concept, feature = linear_sum_assignment(usable, maximize=True)
    return float(usable[concept, feature].sum() / len(cosine))


def assign(
    cosine: Float[Tensor, "concept feature"], live: Bool[Tensor, "feature"], threshold: float = 0.8
) -> Int[Tensor, "concept"]:
    """The live feature that stands for each concept, -1 for a concept that none reaches with `threshold`.

    No feature stands for two concepts: pairs are matched one to one (Hungarian) among those at or above the threshold.
    """
    allowed = torch.where((cosine >= threshold) & live, cosine, torch.zeros_like(cosine)).double().numpy()
    concept, feature = linear_sum_assignment(allowed, maximize=True)
    chosen = torch.full((len(cosine),), -1)
    real = allowed[concept, feature] > 0
    chosen[torch.from_numpy(concept[real])] = torch.from_numpy(feature[real])
    return chosen


def found_labels(assignment: Int[Tensor, "concept"], feature_labels: Sequence[str]) -> list[str]:
    """Per concept the label of the feature that stands for it; `missed` where there is none.

    >>> found_labels(torch.tensor([1, -1]), ["A", "shared"])
    ['shared', 'missed']
    """
    names = list(feature_labels)
    return ["missed" if i < 0 else names[i] for i in assignment.tolist()]


def confusion(
    truth: Sequence[str],
    found: Sequence[str],
    rows: Sequence[str] = TRUE_LABELS,
    columns: Sequence[str] = FOUND_LABELS,
) -> Int[Tensor, "label found"]:
    """Number of concepts of each true label (rows) that were found under each label (columns)."""
    table = torch.zeros(len(rows), len(columns), dtype=torch.int64)
    for t, f in zip(truth, found, strict=True):
        table[rows.index(t), columns.index(f)] += 1
    return table


def macro_f1(table: Int[Tensor, "label found"]) -> float:
    """Mean over the true labels that occur of F1 = 2 hits / (truly so + called so); columns begin with the true labels.

    A concept that was missed, or called ambiguous, dead, drifted or one-sided, is a miss of its true label.
    """
    hits = table.diagonal().double()
    truly, called = table.sum(dim=1).double(), table[:, : len(table)].sum(dim=0).double()
    occurs = truly > 0
    return float((2 * hits[occurs] / (truly + called)[occurs]).mean())


def auroc(score: Num[Tensor, "concept"], positive: Bool[Tensor, "concept"]) -> float:
    """Probability that a positive scores above a negative, ties counting half; NaN where one of the kinds is absent."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    value, inverse, count = score.unique(return_inverse=True, return_counts=True)
    assert len(value) == len(count)
    middle_rank = count.cumsum(0).double() - (count.double() - 1) / 2
    rank_sum = float(middle_rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def exclusivity(decoder_share: Float[Tensor, "feature"]) -> Float[Tensor, "feature"]:
    """|2 r - 1| of the decoder share r of model B: 0 for a feature that both models have alike, 1 for one's own."""
    return lacking(torch.stack([1 - decoder_share, decoder_share], dim=1))


def lacking(shares: Float[Tensor, "feature model"]) -> Float[Tensor, "feature"]:
    """How much some model lacks a feature: 1 - M times its smallest share; 0 where all have it alike."""
    return 1 - shares.shape[1] * shares.amin(dim=1)


def decoder_shares(decoders: Sequence[Float[Tensor, "feature _"]]) -> Float[Tensor, "feature model"]:
    """Every model's part of a feature's decoder norms; equal parts for a feature without a decoder row."""
    norms = torch.stack([d.norm(dim=1) for d in decoders], dim=1)
    total = norms.sum(dim=1, keepdim=True)
    tiny = torch.finfo(total.dtype).tiny
    return torch.where(total > 0, norms / total.clamp(min=tiny), torch.full_like(norms, 1 / len(decoders)))


def decoder_share(
    decoder_a: Float[Tensor, "feature width_a"], decoder_b: Float[Tensor, "feature width_b"]
) -> Float[Tensor, "feature"]:
    """||d^B|| / (||d^A|| + ||d^B||) in scaled units; 1/2 for a feature without a decoder row."""
    return decoder_shares([decoder_a, decoder_b])[:, 1]


def directions_found(
    directions: Sequence[Float[Tensor, "concept _"]],
    decoders: Sequence[Float[Tensor, "feature _"]],
    live: Bool[Tensor, "feature"],
    threshold: float = 0.8,
) -> float:
    """Share of the (concept, model) pairs, over the models that have the concept, whose direction there is the decoder
    row of some live feature in that model, up to a cosine of `threshold`.
    """
    found = []
    for truth, decoder in zip(directions, decoders, strict=True):
        has = truth.norm(dim=1) > 0
        found.append(best(cosines(truth[has], decoder), live) >= threshold)
    return float(torch.cat(found).double().mean())


def detection_f1(
    active: Bool[Tensor, "row feature"], fired: Bool[Tensor, "row concept"], assignment: Int[Tensor, "concept"]
) -> Float[Tensor, "concept"]:
    """F1 of "its feature is active" as a detector of "the concept fired", per concept; 0 for a concept without one."""
    chosen = active[:, assignment.clamp(min=0)] & (assignment >= 0)
    hits = (chosen & fired).sum(dim=0).double()
    total = chosen.sum(dim=0).double() + fired.sum(dim=0).double()
    return torch.where(total > 0, 2 * hits / total.clamp(min=1), torch.zeros_like(total))


def map_error(fitted: Float[Tensor, "n m"], truth: Float[Tensor, "n m"]) -> float:
    """Relative Frobenius error ||fitted - truth|| / ||truth|| of a fitted map."""
    return float((fitted.double() - truth.double()).norm() / truth.double().norm())


@dataclass(frozen=True, kw_only=True)
class PlantedScores:
    """A dictionary and its labels held against the truth."""

    recovery_80: float
    recovery_90: float
    recovery_80_exclusive: float
    """Recovery at cosine 0.8 among the concepts that some model lacks; NaN where there is none."""
    recovery_90_exclusive: float
    """The same at cosine 0.9."""
    mmcs: float
    mcc: float
    confusion: list[list[int]]
    """Rows `true_labels`, columns `found_columns`, numbers of concepts."""
    macro_f1: float
    auroc: float
    """Of `lacking` of the decoder rows, telling the concepts that some model lacks, over those found at cosine 0.8."""


def score_dictionary(
    concepts: Sequence[Float[Tensor, "concept _"]],
    decoders: Sequence[Float[Tensor, "feature _"]],
    scales: Sequence[float],
    live: Bool[Tensor, "feature"],
    feature_labels: Sequence[str],
    truth: Sequence[str],
) -> PlantedScores:
    """All scores of features over two models or more.

    `concepts` are raw directions per model, `decoders` the features' rows per model in scaled units, `truth` the
    concepts' labels as `PlantedModels.labels` gives them.
    """
    n_models = len(concepts)
    cosine = cosines(joint_directions(concepts, scales), torch.cat(list(decoders), dim=1))
    assignment = assign(cosine, live)
    found_as = found_labels(assignment, feature_labels)
    table = confusion(truth, found_as, true_labels(n_models), found_columns(n_models))
    is_exclusive = torch.tensor([label != SHARED for label in truth])
    found = assignment >= 0
    score = lacking(decoder_shares(decoders))[assignment.clamp(min=0)]
    return PlantedScores(
        recovery_80=recovery(cosine, live, 0.8),
        recovery_90=recovery(cosine, live, 0.9),
        recovery_80_exclusive=recovery(cosine[is_exclusive], live, 0.8),
        recovery_90_exclusive=recovery(cosine[is_exclusive], live, 0.9),
        mmcs=mmcs(cosine, live),
        mcc=mcc(cosine, live),
        confusion=table.tolist(),
        macro_f1=macro_f1(table),
        auroc=auroc(score[found], is_exclusive[found]),
    )


def _unit(x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    return x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
