"""Does a score predict agreement? Rank correlation over features, and agreement label by label, with intervals.

1. Spearman's rho between a score and the agreement, over the features that have both; its interval is a bootstrap over
   features, each draw ranked anew.
2. Per label, and over all: the median correlation of matched and of mismatched pairs over features, with the same
   bootstrap, and how many features agree for sure (the interval over prompts lies above zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy.stats import rankdata

from suture import seeds
from suture.pipeline.table import Table
from suture.uncertainty import Interval

LEAST = 5
"""Features below which no rank correlation is given."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How well one score predicts agreement."""

    score: str
    rho: float
    """Spearman's, over features."""
    interval: Interval
    """95 %, over features."""
    n: int
    """Features that have the score."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The features of one label."""

    label: str
    n: int
    correlation: float
    """Median over features, matched pairs."""
    correlation_interval: Interval
    mismatched: float | None
    """Median of the mismatched pairs' mean; None where no other feature was compared with."""
    mismatched_interval: Interval | None
    n_agree: int
    """Features whose agreement lies above zero for sure."""

    @property
    def apart(self) -> bool:
        """Whether matched pairs lie above mismatched ones, intervals and all."""
        return self.mismatched_interval is not None and self.correlation_interval[0] > self.mismatched_interval[1]


def predictions(table: Table, scores: tuple[str, ...], *, n_draws: int, seed: int) -> tuple[Prediction, ...]:
    """1, for every score that enough features have."""
    found = []
    for name in scores:
        known = np.isfinite(table[name]) & np.isfinite(table["agreement"])
        x, y = table[name][known], table["agreement"][known]
        if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        drawn = [spearman(x[own], y[own]) for own in _draws(len(x), n_draws, seed)]
        found.append(Prediction(score=name, rho=spearman(x, y), interval=_ends(drawn), n=len(x)))
    return tuple(found)


def groups(table: Table, *, n_draws: int, seed: int) -> tuple[Group, ...]:
    """2, label by label and all together."""
    labels = table["label"].astype(str)
    found = []
    for label in [*dict.fromkeys(sorted(labels)), ALL]:
        own = np.isfinite(table["correlation"]) & ((labels == label) | (label == ALL))
        if not own.any():
            continue
        matched, low = table["correlation"][own], table["agreement_low"][own]
        mismatched = table["mismatched"][own]
        mismatched = mismatched[np.isfinite(mismatched)]
        found.append(
            Group(
                label=label,
                n=int(own.sum()),
                correlation=float(np.median(matched)),
                correlation_interval=_median_interval(matched, n_draws, seed),
                mismatched=float(np.median(mismatched)) if len(mismatched) else None,
                mismatched_interval=_median_interval(mismatched, n_draws, seed) if len(mismatched) else None,
                n_agree=int((low > 0).sum()),
            )
        )
    return tuple(found)


def spearman(x: ndarray, y: ndarray) -> float:
    """Of two vectors, ties sharing their mean rank; NaN where one does not vary.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _draws(n: int, n_draws: int, seed: int) -> ndarray:
    return seeds.numpy_generator("features drawn", seed).integers(n, size=(n_draws, n))


def _median_interval(values: ndarray, n_draws: int, seed: int) -> Interval:
    return _ends(np.median(values[_draws(len(values), n_draws, seed)], axis=1))


def _ends(drawn: list[float] | ndarray) -> Interval:
    low, high = np.nanquantile(np.asarray(drawn, dtype=np.float64), (0.025, 0.975))
    return float(low), float(high)
