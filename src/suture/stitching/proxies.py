"""Five stand-ins for the measured change, and how well each tells novel from reconstruction.

1. Activation correlation: the largest with a feature of the smaller dictionary, on the half of the documents that is
   not judged on. Decoder and encoder cosine: the largest. Decoder mixture: R2 of the decoder row as a non-negative
   mixture of the ten nearest. Beta: the best factor, on those other documents (on the same it is the label itself).
2. Each is held against labels from the documents of the other half: ROC-AUC with its interval, PR-AUC for finding the
   novel ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray
from scipy.optimize import nnls
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import normalize

from suture.dictionary.dictionary import Dictionary
from suture.matching.correlate import top_correlations
from suture.planted.scores import auroc
from suture.stitching.latents import LABELS, NOVEL, RECONSTRUCTION, Reading, intervals, labelled
from suture.uncertainty import auroc_interval, deal_groups

NEAREST = 10
BLOCK = 1024
SIMILAR = ("activation_correlation", "decoder_cosine", "encoder_cosine", "mixture")
"""The larger, the less novel."""
NAMES = (*SIMILAR, "beta_elsewhere")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How well a stand-in finds the novel features."""

    roc_auc: float
    roc_low: float
    """Lower end of its 95 % interval over features (`uncertainty.auroc_interval`)."""
    roc_high: float
    pr_auc: float
    n_novel: int
    n_decided: int


def proxies(
    reading: Reading, small: Dictionary, large: Dictionary, *, draws: int, seed: int
) -> tuple[dict[str, Float64[ndarray, "feature"]], dict[str, Judged]]:
    """1 and 2: every stand-in for each feature of the larger dictionary, and how well it does."""
    half = deal_groups(torch.from_numpy(reading.document), 2).numpy()
    found = scores(reading, half == 0, small, large)
    per_document = csr_matrix(reading.per_document[np.unique(reading.document[half == 1])])
    low, high = intervals(per_document, draws=draws, seed=seed)
    fired = reading.summed(np.ones(len(reading.overlap)), half == 1).astype(np.int64)
    return found, judged(found, labelled(low, high, fired))


def scores(
    reading: Reading, elsewhere: Bool[ndarray, "item"], small: Dictionary, large: Dictionary
) -> dict[str, Float64[ndarray, "feature"]]:
    """1, by name."""
    decoders = large.W_dec.detach(), small.W_dec.detach()
    with np.errstate(invalid="ignore", divide="ignore"):
        beta = reading.summed(reading.overlap, elsewhere) / reading.summed(reading.energy, elsewhere)
    return {
        "activation_correlation": best_correlation(reading.large[elsewhere], reading.small[elsewhere]),
        "decoder_cosine": nearest(*decoders, 1)[0][:, 0],
        "encoder_cosine": nearest(large.W_enc.detach(), small.W_enc.detach(), 1)[0][:, 0],
        "mixture": mixture(*decoders),
        "beta_elsewhere": beta,
    }


def best_correlation(large: csr_matrix, small: csr_matrix) -> Float64[ndarray, "feature"]:
    """The largest correlation of each column of the first with one of the second; 0 where there is none."""
    pairs = top_correlations(large, small, keep=1, threads=torch.get_num_threads())
    found = np.zeros(pairs.shape[0])
    np.maximum.at(found, pairs.a, pairs.r)
    return found


def nearest(
    one: Float[Tensor, "one width"], other: Float[Tensor, "other width"], n: int
) -> tuple[Float64[ndarray, "one k"], Int[ndarray, "one k"]]:
    """The largest cosines of each row with others, and whose they are."""
    unit = normalize(other, dim=1).T
    best = [(normalize(part, dim=1) @ unit).topk(min(n, len(other)), dim=1) for part in one.split(BLOCK)]
    values, places = (torch.cat(parts).cpu().numpy() for parts in zip(*best, strict=True))
    return values.astype(np.float64), places


def mixture(one: Float[Tensor, "one width"], other: Float[Tensor, "other width"]) -> Float64[ndarray, "one"]:
    """R2 of each row as a non-negative mixture of the nearest others."""
    _, places = nearest(one, other, NEAREST)
    left, right = (normalize(x, dim=1).double().cpu().numpy() for x in (one, other))
    return np.array([1 - nnls(right[near].T, row)[1] ** 2 for row, near in zip(left, places, strict=True)])


def judged(found: Mapping[str, Float64[ndarray, "feature"]], label: Int[ndarray, "feature"]) -> dict[str, Judged]:
    """2, of every stand-in, against labels (places in `LABELS`); features undecided there are not asked."""
    novel, known = label == LABELS.index(NOVEL), label == LABELS.index(RECONSTRUCTION)
    decided = novel | known
    for values in found.values():
        decided &= np.isfinite(values)  # one that fires on one half alone has no beta on the other
    results = {}
    for name, values in found.items():
        score = -values[decided] if name in SIMILAR else values[decided]
        positive = novel[decided]
        auc, n_novel = auroc(torch.from_numpy(score), torch.from_numpy(positive)), int(positive.sum())
        low, high = auroc_interval(auc, n_novel, len(positive) - n_novel)
        results[name] = Judged(
            roc_auc=auc,
            roc_low=low,
            roc_high=high,
            pr_auc=average_precision(score, positive),
            n_novel=n_novel,
            n_decided=int(decided.sum()),
        )
    return results


def average_precision(score: Float64[ndarray, "feature"], positive: Bool[ndarray, "feature"]) -> float:
    """Precision at every positive, from the highest score on, averaged; NaN without positives. Ties count together."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(positive[order])[ends]
    return float((np.diff(np.append(0, hits)) * hits / (ends + 1)).sum() / positive.sum())
