"""The mean of a number over seeds, with its 95 % interval by Student's t."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """A mean and how well the seeds know it."""

    mean: float
    low: float | None
    """Lower end of the 95 % interval; None where one seed says nothing about the spread."""
    high: float | None
    n: int
    """Seeds that have the number."""


def mean_interval(values: Iterable[float | int | None]) -> MeanInterval | None:
    """Of the values that are numbers; None where there is none.

    >>> mean_interval([1.0, None, 3.0]).mean, mean_interval([2.0]).low, mean_interval([None])
    (2.0, None, None)
    """
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return None
    n, mean = len(known), sum(known) / len(known)
    if n == 1:
        return MeanInterval(mean=mean, low=None, high=None, n=1)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in known) / (n - 1))
    half = float(student.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return MeanInterval(mean=mean, low=mean - half, high=mean + half, n=n)
