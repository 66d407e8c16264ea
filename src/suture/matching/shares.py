"""What becomes of the features of one side of a matching, as shares of those that fire, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from suture.matching.kinds import KINDS, SAME, SAME_RAW, SILENT
from suture.pipeline.table import Table

CORRELATED = 0.3
N_CURVE = 101


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What becomes of the features of one side, as shares of those that fire."""

    of: str
    """Whose features, in words."""
    against: str
    n_features: int
    """Those that fire often enough to be asked."""
    correlated: float
    """Whose partner has r of 0.3 or more."""
    declared: float
    """Whose partner is correlated at all, at the rate of false discoveries asked for."""
    beyond_token: float
    """Whose correlation beyond the token is surely above the bar."""
    same: float
    """By the rule, so by `r_corr` where second seeds are known."""
    same_beyond_token: float
    strong: float
    """Whose partner has r of 0.7 or more: one rule for a comparison, its ceilings and its control."""
    kinds: Mapping[str, int]
    curve: tuple[float, ...] = ()
    """r with the partner that 0, 1, .., 100 % of these features reach; empty where it was not kept."""


def shares_of(table: Table, of: str, against: str) -> Shares:
    """Of a direction's table."""
    kind = table["kind"]
    fires = kind != SILENT
    n = int(fires.sum())
    beyond = (table["partner"] >= 0) & (table["token_only"] == 0)

    def share(chosen: ndarray) -> float:
        return float((chosen & fires).sum() / max(n, 1))

    with np.errstate(invalid="ignore"):
        correlated, strong = table["r"] >= CORRELATED, table["r"] >= SAME_RAW
    return Shares(
        of=of,
        against=against,
        n_features=n,
        correlated=share(correlated),
        declared=share(table["declared"] > 0),
        beyond_token=share(beyond),
        same=share(kind == SAME),
        same_beyond_token=share((kind == SAME) & beyond),
        strong=share(strong),
        kinds={name: int((kind == name).sum()) for name in KINDS},
        curve=_curve(np.nan_to_num(table["r"][fires])),
    )


def _curve(r: Float64[ndarray, "feature"]) -> tuple[float, ...]:
    """r in falling order, at even shares of the features."""
    if len(r) == 0:
        return ()
    falling = np.sort(r)[::-1]
    at = np.linspace(0, len(r) - 1, N_CURVE).round().astype(int)
    return tuple(float(f"{v:.4g}") for v in falling[at])
