"""What a map explains of rows that it was not fitted on: R2 by rows and by texts, with documents as the unit.

1. R2 = 1 - sum |y - map(x)|^2 / sum |y - mean|^2, the mean that of the rows that judge.
2. Its interval: documents drawn with replacement; an error that one long document makes is one document's.
3. By texts: the same of every document's mean row, each document once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suture.bridges.ground import Rows
from suture.bridges.maps import Map
from suture.uncertainty import Draws, Interval, by_unit, hashed_rank, ratio_interval


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a map does one way."""

    r2: float
    interval: Interval
    r2_texts: float
    """Of documents' mean rows."""


@torch.no_grad()
def judged(maps: Sequence[Map], rows: Rows, source: int, *, draws: int, seed: int) -> list[Score]:
    """Maps of one way, on the same rows."""
    target = 1 - source
    unit = hashed_rank(rows.documents)
    n = int(unit.max()) + 1
    mean = rows.moments.mean(target)
    spread = torch.zeros(n, dtype=torch.float64)
    errors = [torch.zeros(n, dtype=torch.float64) for _ in maps]
    texts, mapped = _totals(rows, target, n), [_totals(rows, target, n) for _ in maps]
    for places, *pair in rows.batches():
        x, y, own = pair[source], pair[target], unit[places]
        spread += by_unit((y - mean).square().sum(1), own, n)
        texts += by_unit(y, own, n)
        for number, one in enumerate(maps):
            found = one(x)
            errors[number] += by_unit((y - found).square().sum(1), own, n)
            mapped[number] += by_unit(found, own, n)
    count = torch.bincount(unit, minlength=n).double()[:, None]
    texts = texts / count
    across = (texts - texts.mean(0)).square().sum()
    drawn = Draws.make(n, draws, seed)
    found = []
    for error, total in zip(errors, mapped, strict=True):
        ends = ratio_interval(error, spread, drawn)
        assert ends is not None, "several documents judge"
        by_text = (texts - total / count).square().sum() / across
        r2 = float(1 - error.sum() / spread.sum())
        found.append(Score(r2=r2, interval=(1 - ends[1], 1 - ends[0]), r2_texts=float(1 - by_text)))
    return found


def _totals(rows: Rows, space: int, n: int) -> Tensor:
    return torch.zeros(n, rows.view.spaces[space].width, dtype=torch.float64)
