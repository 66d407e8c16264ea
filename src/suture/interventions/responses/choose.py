"""Which features are steered to see whether models respond alike: so many of every label, over the whole range.

1. A feature that fires on too few rows, or on too many, is left out: nothing is sure of it, or everything moves.
2. Of every label, features evenly spaced in order of their co-firing: a stated rule, so that nobody picks pretty ones,
   and so that a score that could predict something has a range.
"""

from __future__ import annotations

import torch

from suture.errors import UserError
from suture.features.table import FeatureTable
from suture.labels import DEAD

LEAST_ROWS = 20
MOST_RATE = 0.1


def chosen_features(table: FeatureTable, each_label: int) -> list[int]:
    """Features to steer, by number.

    Raises:
        UserError: a table without co-firing (of a single model), or none that fires enough.
    """
    if "cofire_correlation" not in table.columns:
        raise UserError("table", table.path, "has no co-firing of two models", "describe a dictionary of two models")
    r, rows, rate = (table.column(name) for name in ("cofire_correlation", "n_active", "rate"))
    fit = (rows >= LEAST_ROWS) & (rate <= MOST_RATE) & (table.column("q999") > 0)  # 1
    chosen: list[int] = []
    for label in sorted(set(table.labels) - {DEAD}):
        own = [i for i, said in enumerate(table.labels) if said == label and bool(fit[i])]
        own.sort(key=lambda i: (float(r[i].nan_to_num(-1.0)), i))
        n = min(each_label, len(own))
        places = torch.linspace(0, len(own) - 1, n).round().long().tolist() if n > 1 else [len(own) // 2][:n]
        chosen += [own[place] for place in places]  # 2
    if len(chosen) < 2:
        raise UserError("table", table.path, f"has {len(chosen)} features that fire enough", "describe more rows")
    return sorted(chosen)
