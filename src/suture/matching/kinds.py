"""What two features are to each other: the same, one split into many, parent and child, overlapping, or nothing.

1. Families: f of A as a non-negative mixture of its strongest candidates in B, fitted on the pairing half from sums of
   products alone, correlated with f on the scoring half. A concept that B splits is found so; one that B merely
   overlaps is not.
2. Reliability: how well a feature correlates with its partner in a dictionary of another seed. r_corr = r / sqrt of
   both sides' takes the training's own noise out of r.
3. The rule, first that holds: `same`: r_corr >= 0.8 (without second seeds r >= 0.7; 0.5 would let features through that
   share half their rows). `split`: the mixture reaches 0.8 and is better than the single partner by 0.1. `parent`:
   surely correlated (lower bound >= 0.3) and one fires on most of the other's rows but not the other way round.
   `overlapping`: surely correlated otherwise. `none`: the rest. `silent`: fired too rarely to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy import ndarray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls
from scipy.sparse import csc_matrix, csr_matrix

from suture.matching.assign import best
from suture.matching.correlate import Candidates, columns, top_correlations
from suture.matching.evidence import Evidence

SAME, SPLIT, PARENT, OVERLAPPING, NONE, SILENT = KINDS = ("same", "split", "parent", "overlapping", "none", "silent")

MEMBERS = 8
"""Candidates that a mixture may have."""
WEAKEST_MEMBER = 0.05
SAME_RAW, SAME_CORRECTED = 0.7, 0.8
SPLIT_RAW, SPLIT_CORRECTED, SPLIT_GAIN = 0.8, 0.85, 0.1
SURE = 0.3
WITHIN, LOPSIDED = 0.6, 1.5
"""A parent fires on this share of its child's rows at least, and on so many times the share that its child does."""
LEAST_RELIABILITY = 0.05
MOST_CORRECTED = 1.2
"""r_corr above 1 is noise in the reliabilities."""
PAIRS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Families:
    """Every feature of A as a mixture of B's."""

    r: Float64[ndarray, "feature"]
    """Correlation of the mixture with the feature on the scoring half; NaN without candidates."""
    members: Int[ndarray, "feature member"]
    """-1 where there is none."""
    weights: Float64[ndarray, "feature member"]


def families(
    candidates: Candidates, pairing: tuple[csr_matrix, csr_matrix], scoring: tuple[csr_matrix, csr_matrix]
) -> Families:
    """1; `pairing` and `scoring` are the codes of A and B on the two halves."""
    n_a = candidates.shape[0]
    members = _strongest_members(candidates)
    fit, test = _Covariances.of(*pairing, members), _Covariances.of(*scoring, members)
    weights, r = np.zeros(members.shape), np.full(n_a, np.nan)
    for i in np.flatnonzero(members[:, 0] >= 0):
        m = slice(0, int((members[i] >= 0).sum()))
        own = fit.within[i, m, m]
        root = cholesky(own + 1e-9 * np.trace(own) * np.eye(len(own)), lower=True)
        weights[i, m], _ = nnls(root.T, solve_triangular(root, fit.across[i, m], lower=True))
        w = weights[i, m]
        spread = test.own[i] * (w @ test.within[i, m, m] @ w)
        r[i] = w @ test.across[i, m] / np.sqrt(spread) if spread > 0 else 0.0
    return Families(r=r, members=members, weights=weights)


def reliability(
    pairing: tuple[csr_matrix, csr_matrix], scoring: tuple[csr_matrix, csr_matrix]
) -> Float64[ndarray, "feature"]:
    """2: each feature's r on the scoring half with the partner that the pairing half chose in another seed's codes."""
    a, b = best(top_correlations(*pairing, keep=1))
    found = np.full(columns(pairing[0]).count.shape, LEAST_RELIABILITY)
    found[a] = np.maximum(correlation_of(*scoring, a, b), LEAST_RELIABILITY)
    return found


def corrected(
    r: Float64[ndarray, "pair"], of_a: Float64[ndarray, "pair"], of_b: Float64[ndarray, "pair"]
) -> Float64[ndarray, "pair"]:
    """r_corr, from both sides' reliabilities."""
    return np.clip(r / np.sqrt(of_a * of_b), -1.0, MOST_CORRECTED)


def kinds(
    evidence: Evidence,
    mixture: Float64[ndarray, "pair"],
    *,
    r_corr: Float64[ndarray, "pair"] | None = None,
    reliability_of_a: Float64[ndarray, "pair"] | None = None,
) -> list[str]:
    """3, of pairs; `mixture` is the family's r of each pair's feature of A."""
    same = evidence.r >= SAME_RAW
    split = mixture >= SPLIT_RAW
    sure = evidence.r_low >= SURE
    if r_corr is not None:
        same = (r_corr >= SAME_CORRECTED) & sure
    if reliability_of_a is not None:
        split = mixture / np.sqrt(reliability_of_a) >= SPLIT_CORRECTED
    split &= mixture - evidence.r >= SPLIT_GAIN
    parent = sure & _one_holds_the_other(evidence)
    named = np.select([same, split, parent, sure], [SAME, SPLIT, PARENT, OVERLAPPING], NONE)
    return [str(name) for name in named]


def correlation_of(
    a: csr_matrix, b: csr_matrix, pair_a: Int[ndarray, "pair"], pair_b: Int[ndarray, "pair"]
) -> Float64[ndarray, "pair"]:
    """r of given pairs; 0 where one of the two does not vary."""
    left, right = columns(a), columns(b)
    covariance = products(a, b, pair_a, pair_b) - left.total[pair_a] * right.total[pair_b] / left.n_rows
    spread = left.spread[pair_a] * right.spread[pair_b]
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)


def products(
    a: csr_matrix, b: csr_matrix, pair_a: Int[ndarray, "pair"], pair_b: Int[ndarray, "pair"]
) -> Float64[ndarray, "pair"]:
    """Sum over rows of f g, of given pairs."""
    left, right = csc_matrix(a, dtype=np.float64), csc_matrix(b, dtype=np.float64)
    bounds = [*range(0, len(pair_a), PAIRS_AT_A_TIME), len(pair_a)]
    parts = [
        np.asarray(left[:, pair_a[i:j]].multiply(right[:, pair_b[i:j]]).sum(axis=0), dtype=np.float64).ravel()
        for i, j in pairwise(bounds)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _one_holds_the_other(evidence: Evidence) -> Bool[ndarray, "pair"]:
    high = np.fmax(evidence.b_given_a, evidence.a_given_b)
    low = np.fmin(evidence.b_given_a, evidence.a_given_b)
    return (high >= WITHIN) & (high >= LOPSIDED * low)


def _strongest_members(candidates: Candidates) -> Int[ndarray, "feature member"]:
    members = np.full((candidates.shape[0], MEMBERS), -1, dtype=np.int64)
    counts = np.bincount(candidates.a, minlength=candidates.shape[0])
    rank = np.arange(len(candidates)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = (rank < MEMBERS) & (candidates.r > WEAKEST_MEMBER)
    members[candidates.a[kept], rank[kept]] = candidates.b[kept]
    return members


@dataclass(frozen=True, kw_only=True, eq=False)
class _Covariances:
    """Times the number of rows, which no ratio of them minds."""

    own: Float64[ndarray, "feature"]
    across: Float64[ndarray, "feature member"]
    """Of the feature with each member."""
    within: Float64[ndarray, "feature member member"]
    """Of the members with each other."""

    @staticmethod
    def of(a: csr_matrix, b: csr_matrix, members: Int[ndarray, "feature member"]) -> _Covariances:
        """Entries without a member are 0."""
        left, right = columns(a), columns(b)
        across, within = np.zeros(members.shape), np.zeros((*members.shape, members.shape[1]))
        feature, place = np.nonzero(members >= 0)
        other = members[feature, place]
        across[feature, place] = products(a, b, feature, other) - left.total[feature] * right.total[other] / left.n_rows
        both = (members[:, :, None] >= 0) & (members[:, None, :] >= 0) & np.tri(members.shape[1], dtype=bool)
        feature, i, j = np.nonzero(both)
        one, two = members[feature, i], members[feature, j]
        value = products(b, b, one, two) - right.total[one] * right.total[two] / left.n_rows
        within[feature, i, j] = value
        within[feature, j, i] = value
        return _Covariances(own=left.spread**2, across=across, within=within)
