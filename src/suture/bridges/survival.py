"""Which features survive the crossing: a carried feature's code against its own, at the same text positions.

1. Codes of the same held-out rows from both models, each from its own activations; sums for every feature at once.
2. r of the two. Above one bar it survives, below another it is lost, between them it fades; dead where it never fires.
3. What is seen of one that does not survive: it fires on too few rows to tell, never in the other model, on far more
   rows there, or its decoder row shrinks in the map; otherwise its occasion is not read there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.activations.store import Store
from suture.bridges.columns import SURVIVAL
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.pieces import as_sparse, pieces
from suture.pipeline.table import Table
from suture.uncertainty import correlation

SURVIVES, FADES, LOST, DEAD = LABELS = ("survives", "fades", "lost", "dead")
FEW_ROWS = 10
FAR_MORE = 4.0
"""So many times as many rows as before are far more."""
SHRUNK = 0.5
"""A decoder row has shrunk that keeps less than this part of what the middle one keeps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossing:
    """Sums over rows, per feature, of its code before (x) and after (y)."""

    n_rows: int
    before: Int[ndarray, "feature"]
    """Rows on which it fires."""
    after: Int[ndarray, "feature"]
    r: Float64[ndarray, "feature"]
    """NaN where one of the two never fires."""

    @staticmethod
    def of(one: Dictionary, other: Dictionary, views: tuple[Store, Store], rows: Int[Tensor, "row"]) -> Crossing:
        """Of two dictionaries whose features belong together by number, each with its own space's store."""
        F = one.n_features
        sums = {name: np.zeros(F) for name in ("x", "y", "xx", "yy", "xy", "nx", "ny")}
        for x, y in zip(_codes(one, views[0], rows), _codes(other, views[1], rows), strict=True):
            both = csr_matrix(x.multiply(y))
            parts = {"x": x, "y": y, "xx": x.multiply(x), "yy": y.multiply(y), "xy": both, "nx": x > 0, "ny": y > 0}
            for name, part in parts.items():
                sums[name] += np.asarray(part.sum(axis=0), dtype=np.float64).ravel()
        x, y, xx, yy, xy = (torch.from_numpy(sums[name]) for name in ("x", "y", "xx", "yy", "xy"))
        r = correlation(len(rows), x, y, xx, yy, xy)
        before, after = (sums[name].astype(np.int64) for name in ("nx", "ny"))
        return Crossing(n_rows=len(rows), before=before, after=after, r=r.numpy())


def _codes(dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> Iterator[csr_matrix]:
    return (as_sparse(piece.codes(dictionary)) for piece in pieces(dictionary, view, rows))


def survival(
    crossing: Crossing,
    *,
    norm_kept: Float[Tensor, "feature"],
    round_trip: Float[Tensor, "feature"],
    refit_cosine: Float[Tensor, "feature"],
    survives_above: float,
    lost_below: float,
) -> Table:
    """A row per feature (2, 3)."""
    kept = norm_kept.double().numpy()
    known = np.nan_to_num(crossing.r, nan=0.0)
    label = np.where(known >= survives_above, SURVIVES, np.where(known < lost_below, LOST, FADES)).astype(object)
    label[(crossing.before == 0) & (crossing.after == 0)] = DEAD
    values = {
        "label": label,
        "why": _why(crossing, kept, label),
        "r": crossing.r,
        "rows_before": crossing.before,
        "rows_after": crossing.after,
        "norm_kept": kept,
        "round_trip": round_trip.double().numpy(),
        "refit_cosine": refit_cosine.double().numpy(),
    }
    return Table(axes=("feature",), columns=SURVIVAL, values=values)


def _why(crossing: Crossing, kept: Float64[ndarray, "feature"], label: ndarray) -> ndarray:
    before, after = crossing.before, crossing.after
    reasons = [
        (np.isin(label, (SURVIVES, DEAD)), ""),
        (before < FEW_ROWS, "fires on too few rows to tell"),
        (after == 0, "never fires in the other model"),
        (after > FAR_MORE * before, "fires on far more rows in the other model"),
        (kept < SHRUNK * np.median(kept), "its decoder row shrinks in the map"),
    ]
    conditions, words = zip(*reasons, strict=True)
    texts = np.array(["its occasion is not read in the other model", *words], dtype=object)
    first = np.select(conditions, range(1, len(words) + 1), default=0)
    return texts[first]
