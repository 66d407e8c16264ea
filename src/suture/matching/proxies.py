"""Stand-ins for activation correlation that need no codes: cosines of directions, and pre-activations from moments.

Rows of a decoder are vectors of activations, rows of an encoder covectors: under a map P of rows (x_A P is x_B) a
decoder row becomes d P, an encoder row e' with e' x_B = e x_A becomes e Q^T, Q the map the other way. Neither is the
other's inverse or transpose.

1. Scores of every pair of features: cosine raw (equal widths) or padded with zeros, after the best rotation, after the
   ridge map either way, of encoders, and the correlation of pre-activations e_A C_AB e_B over both spreads.
2. Judged where it is hard, by held-out correlation: among features whose partner has r of 0.5 or more, how often the
   partner beats the best-scoring wrong candidates (`hard_auc`; 0 for a score that knows nothing, since
   its best candidates are chosen by it), how often the best-scoring candidate is
   the partner (`top1`), and the mean r of the best-scoring candidate over that of the partner (`reached`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import normalize, pad

from suture.activations.moments import Moments
from suture.matching.assign import best
from suture.matching.correlate import columns, top_correlations
from suture.matching.kinds import correlation_of

N_WRONG = 16
"""Best-scoring candidates that the partner must beat."""
TRUE, WRONG = 0.5, 0.5
"""A partner to be found has this r; a candidate is wrong below this part of it."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of one dictionary in one space, in scaled units."""

    encoder: Tensor
    """[feature, width]"""
    decoder: Tensor
    """[feature, width]"""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How well a stand-in does."""

    hard_auc: float
    top1: float
    reached: float
    n_features: int
    """Features that have a partner to be found."""


def scores(
    a: Weights, b: Weights, moments: Moments, spaces: tuple[int, int]
) -> dict[str, Float64[ndarray, "one other"]]:
    """1, by name; `spaces` are those of `a` and `b` among the moments', one twice within a model."""
    i, j = spaces
    eA, dA, eB, dB = (w.double() for w in (a.encoder, a.decoder, b.encoder, b.decoder))
    C_A, C_B, C_AB = (moments.covariance(*pair) for pair in ((i, i), (j, j), (i, j)))
    width = max(dA.shape[1], dB.shape[1])

    def wide(x: Tensor) -> Tensor:
        return pad(x, (0, width - x.shape[1]))

    def cosine(x: Tensor, y: Tensor) -> Float64[ndarray, "one other"]:
        return (normalize(x, dim=1) @ normalize(y, dim=1).T).numpy()

    spread = torch.outer(((eA @ C_A) * eA).sum(1), ((eB @ C_B) * eB).sum(1)).clamp_min(1e-300).sqrt()
    found = {
        "decoder_cosine": cosine(wide(dA), wide(dB)),
        "encoder_cosine": cosine(wide(eA), wide(eB)),
        "preactivation": (eA @ C_AB @ eB.T / spread).numpy(),
    }
    if i != j:
        u, _, v = torch.linalg.svd(pad(C_AB, (0, width - C_AB.shape[1], 0, width - C_AB.shape[0])))
        P, Q = moments.map(i, j), moments.map(j, i)
        found["procrustes_cosine"] = cosine(wide(dA) @ u @ v, wide(dB))
        found["mapped_cosine"] = cosine(dA @ P, dB)
        found["mapped_back_cosine"] = cosine(dA, dB @ Q)
        found["mapped_encoder_cosine"] = cosine(eA @ Q.T, eB)
    return found


def judge(
    scored: Mapping[str, Float64[ndarray, "one other"]],
    pairing: tuple[csr_matrix, csr_matrix],
    scoring: tuple[csr_matrix, csr_matrix],
    *,
    min_rows: int = 10,
) -> dict[str, Judged]:
    """2, of every stand-in; features that hardly fire are nobody's candidates."""
    asked, partner = best(top_correlations(*pairing, keep=1))
    r = correlation_of(*scoring, asked, partner)
    kept = (r >= TRUE) & (columns(pairing[0]).count[asked] >= min_rows)
    asked, partner, r = asked[kept], partner[kept], r[kept]
    silent = columns(pairing[1]).count < min_rows
    return {name: _judged(score, asked, partner, r, silent, scoring) for name, score in scored.items()}


def _judged(
    score: Float64[ndarray, "one other"],
    asked: Int[ndarray, "pair"],
    partner: Int[ndarray, "pair"],
    r: Float64[ndarray, "pair"],
    silent: ndarray,
    scoring: tuple[csr_matrix, csr_matrix],
) -> Judged:
    if len(asked) == 0:
        return Judged(hard_auc=float("nan"), top1=float("nan"), reached=float("nan"), n_features=0)
    own = np.where(silent[None], -np.inf, score[asked])
    n_tried = min(4 * N_WRONG, own.shape[1])
    order = np.argsort(-own, axis=1)[:, :n_tried]
    found = correlation_of(*scoring, np.repeat(asked, n_tried), order.ravel()).reshape(order.shape)
    wrong = (found < WRONG * r[:, None]) & (order != partner[:, None]) & np.isfinite(np.take_along_axis(own, order, 1))
    wrong &= np.cumsum(wrong, axis=1) <= N_WRONG
    beaten = own[np.arange(len(asked)), partner][:, None] > np.take_along_axis(own, order, 1)
    tried = wrong.sum(1)
    share = (beaten & wrong).sum(1)[tried > 0] / tried[tried > 0]
    return Judged(
        hard_auc=float(share.mean()) if len(share) else float("nan"),
        top1=float((order[:, 0] == partner).mean()),
        reached=float(found[:, 0].mean() / r.mean()),
        n_features=len(asked),
    )
