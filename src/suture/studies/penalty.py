"""Which L1 penalty leaves k features active: a search over whole trainings, each a step on a log-log line.

1. The number of active features falls steadily with the penalty, nearly as a power of it.
2. Between a trial with too many and one with too few, the next is on the line through the nearest of each; before both
   are known, on the line of slope -1 through the nearest, at most a factor of 4 away.
3. It ends with a trial within the tolerance. The next penalty follows from the trials alone, so that a search that was
   interrupted goes on where it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FURTHEST = 4.0
"""At most so many times larger or smaller than the trials before."""
INSIDE = 0.05
"""The next trial keeps this share of the bracket's length away from its ends."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A penalty and the active features that training with it ended with."""

    l1: float
    l0: float


def within(trial: Trial, target: float, tolerance: float) -> bool:
    """Whether a trial is as near as asked for.

    >>> within(Trial(l1=0.1, l0=8.3), 8.0, 0.05), within(Trial(l1=0.1, l0=8.5), 8.0, 0.05)
    (True, False)
    """
    return abs(trial.l0 - target) <= tolerance * target


def next_penalty(trials: Sequence[Trial], target: float, start: float) -> float:
    """The penalty to try next."""
    if not trials:
        return start
    above = [t for t in trials if t.l0 > target]  # too many active: the penalty is too low
    below = [t for t in trials if t.l0 <= target]
    if above and below:
        low, high = max(above, key=lambda t: t.l1), min(below, key=lambda t: t.l1)
        if low.l1 < high.l1:
            return _between(low, high, target)
    last = min(trials, key=lambda t: abs(math.log(_positive(t.l0) / target)))
    step = min(max(_positive(last.l0) / target, 1 / FURTHEST), FURTHEST)
    return last.l1 * (step if abs(step - 1) > INSIDE else step**2)


def _between(low: Trial, high: Trial, target: float) -> float:
    from_l0, to_l0 = math.log(_positive(low.l0)), math.log(_positive(high.l0))
    share = (from_l0 - math.log(target)) / max(from_l0 - to_l0, 1e-9)
    share = min(max(share, INSIDE), 1 - INSIDE)
    return math.exp((1 - share) * math.log(low.l1) + share * math.log(high.l1))


def _positive(l0: float) -> float:
    """A training that silenced everything still has a logarithm."""
    return max(l0, 1e-2)
