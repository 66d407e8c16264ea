"""Pairs by activity: which features of one model's own dictionary are another's, joined over two models or more.

1. Held-out documents are dealt into two halves: on one pairs are made, on the other they are scored. (The largest of
   many correlations is too large where it was found.)
2. Pairs: correlation of every feature with every other from the non-zeros alone, then Hungarian. Of more than two
   models each in turn meets what those before it have been joined into, by the mean correlation with its members.
3. The bar: the same with the new model's rows shifted by half the documents, so that nothing belongs together; the
   99th percentile of its pairs' scores. Pairs above the bar are joined, the others stay each model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.dictionary.codes import Codes
from suture.uncertainty import correlation, deal_groups

MIN_TOGETHER = 5
"""Pairs that are active together on fewer rows have no correlation to speak of."""
MIN_ROWS = 10
"""A feature that fired on fewer rows of the scoring half says nothing by having no partner."""
NULL_QUANTILE = 0.99


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Features over all models, made of features of one."""

    members: Int[Tensor, "feature model"]
    """Which feature of each model's dictionary; -1 for none."""
    score: Float[Tensor, "feature"]
    """Correlation on the scoring half with which the last member was joined; NaN where there is one only."""
    bars: tuple[float, ...]
    """The null's bar for each model after the first."""
    fired: Int[Tensor, "feature"]
    """Rows on which each member is active, added up."""
    scored: Int[Tensor, "feature"]
    """The same on the scoring half."""


def match(codes: Sequence[Codes], documents: Int[Tensor, "row"]) -> Matched:
    """Join the features of several models' dictionaries, from their codes of the same rows."""
    half = deal_groups(documents, 2)  # 1
    pairing, scoring = ([_sparse(c, half == side) for c in codes] for side in (0, 1))
    members = torch.full((codes[0].n_features, len(codes)), -1)
    members[:, 0] = torch.arange(codes[0].n_features)
    score = torch.full((len(members),), torch.nan, dtype=torch.float64)
    bars = []
    for m in range(1, len(codes)):
        first = _with_members(pairing, members, m)
        second = _with_members(scoring, members, m)
        group, feature = _pairs(first)  # 2
        bar = _bar(pairing, scoring, members, m)  # 3
        joined = second[group, feature] > bar
        members[group[joined], m] = feature[joined]
        score[group[joined]] = second[group[joined], feature[joined]]
        alone = torch.ones(codes[m].n_features, dtype=torch.bool)
        alone[feature[joined]] = False
        new = torch.full((int(alone.sum()), len(codes)), -1)
        new[:, m] = alone.nonzero()[:, 0]
        members = torch.cat([members, new])
        score = torch.cat([score, torch.full((len(new),), torch.nan, dtype=torch.float64)])
        bars.append(bar)
    scored = [torch.from_numpy(np.diff(s.tocsc().indptr)).long() for s in scoring]
    return Matched(
        members=members,
        score=score,
        bars=tuple(bars),
        fired=_over_members([c.counts for c in codes], members),
        scored=_over_members(scored, members),
    )


def correlations(a: csr_matrix, b: csr_matrix) -> Float[Tensor, "left right"]:
    """Pearson of every column of one matrix with every column of another, zeros included; 0 where undefined."""
    n = _size(a)[0]
    sum_a, sum_b = _column_sums(a), _column_sums(b)
    square_a, square_b = _column_sums(a.power(2)), _column_sums(b.power(2))
    found = correlation(n, sum_a[:, None], sum_b, square_a[:, None], square_b, _product(a, b))
    return torch.where(_product(a > 0, b > 0) >= MIN_TOGETHER, found.nan_to_num(0.0), 0.0)


def _with_members(parts: Sequence[csr_matrix], members: Tensor, m: int) -> Float[Tensor, "feature own"]:
    """Mean correlation of every joined feature's members with every feature of model m."""
    total = torch.zeros(len(members), _size(parts[m])[1], dtype=torch.float64)
    for j in range(m):
        has = members[:, j] >= 0
        total[has] += correlations(parts[j], parts[m])[members[has, j]]
    return total / (members[:, :m] >= 0).sum(1, keepdim=True).clamp_min(1)


def _pairs(likeness: Float[Tensor, "feature own"]) -> tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]:
    """One-to-one pairs of the largest sum; those without a positive correlation are none."""
    group, feature = linear_sum_assignment(likeness.clamp_min(0).numpy(), maximize=True)
    group, feature = torch.from_numpy(group).long(), torch.from_numpy(feature).long()
    real = likeness[group, feature] > 0
    return group[real], feature[real]


def _bar(pairing: Sequence[csr_matrix], scoring: Sequence[csr_matrix], members: Tensor, m: int) -> float:
    """What one pair in a hundred scores where the rows do not belong together."""
    first = _with_members(_shifted(pairing, m), members, m)
    second = _with_members(_shifted(scoring, m), members, m)
    group, feature = _pairs(first)
    if len(group) == 0:
        return 0.0
    return max(0.0, float(torch.quantile(second[group, feature], NULL_QUANTILE)))


def _shifted(parts: Sequence[csr_matrix], m: int) -> list[csr_matrix]:
    """Model m's rows moved half the way round; rows lie in document order, so documents stay whole but for the cut."""
    n = _size(parts[m])[0]
    order = np.roll(np.arange(n), n // 2)
    return [part[order] if i == m else part for i, part in enumerate(parts)]


def _over_members(counts: Sequence[Int[Tensor, "_"]], members: Int[Tensor, "feature model"]) -> Int[Tensor, "feature"]:
    """The sum of a count of each model's features over the members of every joined feature."""
    parts = [torch.where(at >= 0, own[at.clamp_min(0)], 0) for own, at in zip(counts, members.unbind(1), strict=True)]
    return torch.stack(parts).sum(0)


def _sparse(codes: Codes, chosen: Bool[Tensor, "row"]) -> csr_matrix:
    """The chosen rows' codes."""
    shape = (codes.n_rows, codes.n_features)
    whole = csr_matrix((codes.value.double().numpy(), codes.feature.numpy(), codes.crow.numpy()), shape=shape)
    return whole[torch.nonzero(chosen)[:, 0].numpy()]


def _size(a: csr_matrix) -> tuple[int, int]:
    assert a.shape is not None
    return a.shape[0], a.shape[1]


def _column_sums(a: csr_matrix) -> Tensor:
    return torch.from_numpy(np.asarray(a.sum(axis=0), dtype=np.float64).ravel())


def _product(a: csr_matrix, b: csr_matrix) -> Tensor:
    return torch.from_numpy((a.T.astype(np.float64) @ b.astype(np.float64)).toarray())
