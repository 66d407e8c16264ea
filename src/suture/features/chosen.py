"""Which rows stand for a feature: its strongest, here and in the whole store, and others of every strength.

| kind       | rows                                                                                                    |
|------------|---------------------------------------------------------------------------------------------------------|
| `top`      | the strongest of the rows described, at most so many from one document                                  |
| `store`    | the strongest of all rows searched, from whatever documents, less those above                           |
| `q50-q90`, `q10-q50`, `weakest` | drawn among the rows described where it is active, by where its values lie         |
| `random`   | drawn among all rows described where it is active                                                       |

The strongest alone flatter a feature: the other kinds show what it does most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import seeds
from suture.activations.store import Store
from suture.dictionary.codes import Codes, union
from suture.dictionary.dictionary import Dictionary
from suture.features.settings import ChoiceSettings
from suture.parallel import ALONE, Ranks

TOP, STORE, RANDOM = "top", "store", "random"
BANDS = {"q50-q90": (0.5, 0.9), "q10-q50": (0.1, 0.5), "weakest": (0.0, 0.1)}
"""Between which quantiles of a feature's active values a kind is drawn."""


BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Codes of some rows."""

    rows: Int[Tensor, "row"]
    """Ascending."""
    joint: Codes
    solo: tuple[Codes, ...]


def drawn(codes: Codes, settings: ChoiceSettings, seed: int = 0) -> dict[str, Int[Tensor, "feature draw"]]:
    """Positions in `codes` of every kind that is drawn; -1 for features that are nowhere active.

    Draws of one kind may meet; a feature of few active rows shows the same row for several kinds.
    """
    order = torch.argsort(codes.value, stable=True)
    order = order[torch.argsort(codes.feature[order], stable=True)]
    count = codes.counts.long()
    begin = count.cumsum(0) - count
    generator = seeds.generator("drawn examples", seed)
    wanted = {kind: (*span, settings.n_band) for kind, span in BANDS.items()} | {RANDOM: (0.0, 1.0, settings.n_random)}
    found: dict[str, Tensor] = {}
    for kind, (low, high, n) in wanted.items():
        share = low + (high - low) * torch.rand(codes.n_features, n, generator=generator, dtype=torch.float64)
        place = begin[:, None] + (share * count[:, None]).long().clamp_max((count - 1).clamp_min(0)[:, None])
        position = codes.row.long()[order[place.clamp_max(max(len(order) - 1, 0))]] if len(order) else place
        found[kind] = torch.where(count[:, None] > 0, position, -1)
    return found


def strongest_in_store(
    dictionary: Dictionary,
    store: Store,
    *,
    n_top: int,
    n_rows: int,
    known: Encoded | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    ranks: Ranks = ALONE.world,
) -> tuple[Int[Tensor, "feature top"], Float[Tensor, "feature top"]]:
    """The rows of the store's first `n_rows` on which each feature is strongest, and its values; -1 and NaN fill up.

    A pooled dictionary's code is the larger of its models'. Among equal values the earlier row comes first. Rows
    whose codes are `known` are not encoded again. Each of several ranks searches its own share of the others.
    """
    n_rows = min(n_rows, len(store))
    best = _Strongest.none(dictionary.n_features, n_top)
    if n_top == 0 or n_rows == 0:
        return best.row, best.value
    unknown = torch.ones(n_rows, dtype=torch.bool)
    if known is not None:
        unknown[known.rows[known.rows < n_rows]] = False
    chunks = torch.nonzero(unknown)[:, 0].split(BATCH_ROWS)
    for rows in chunks[ranks.share(len(chunks))]:
        if len(rows):
            codes = _joint(dictionary, dictionary.scaled(store.read(rows)))
            best.add(codes, rows)
        if on_progress is not None and len(rows):
            on_progress("strongest rows", int(rows[-1]) + 1, n_rows)
    whole = _Strongest.none(dictionary.n_features, n_top)
    for row, value in zip(ranks.gather(best.row), ranks.gather(best.value), strict=True):
        feature, _ = torch.nonzero(row >= 0, as_tuple=True)
        whole.add_pairs(feature, value[row >= 0], row[row >= 0])
    if known is not None:
        whole.add(known.joint, known.rows, below=n_rows)
    return whole.row, torch.where(torch.isfinite(whole.value), whole.value, torch.nan)


@dataclass(kw_only=True)
class _Strongest:
    """The strongest rows so far of every feature."""

    row: Int[Tensor, "feature top"]
    value: Float[Tensor, "feature top"]

    @staticmethod
    def none(n_features: int, n_top: int) -> _Strongest:
        return _Strongest(
            row=torch.full((n_features, n_top), -1, dtype=torch.int64),
            value=torch.full((n_features, n_top), -torch.inf),
        )

    def add(self, codes: Codes, rows: Int[Tensor, "row"], below: int | None = None) -> None:
        """Codes of some rows, of those under a number."""
        row, value = rows[codes.row.long()], codes.value
        good = value > 0
        if below is not None:
            good &= row < below
        self.add_pairs(codes.feature.long()[good], value[good], row[good])

    def add_pairs(
        self, feature: Int[Tensor, "active"], value: Float[Tensor, "active"], row: Int[Tensor, "active"]
    ) -> None:
        """Values of features at rows."""
        better, held = value >= self.value[feature, -1], torch.isfinite(self.value)
        feature = torch.cat([held.nonzero()[:, 0], feature[better]])
        value = torch.cat([self.value[held], value[better]])
        row = torch.cat([self.row[held], row[better]])
        order = torch.argsort(row, stable=True)
        order = order[torch.argsort(value[order], descending=True, stable=True)]
        order = order[torch.argsort(feature[order], stable=True)]
        feature, value, row = feature[order], value[order], row[order]
        first = torch.searchsorted(feature, torch.arange(len(self.row)))
        rank = torch.arange(len(feature)) - first[feature]
        inside = rank < self.row.shape[1]
        self.value[feature[inside], rank[inside]] = value[inside]
        self.row[feature[inside], rank[inside]] = row[inside]


def encoded(dictionary: Dictionary, store: Store, rows: Int[Tensor, "row"]) -> Encoded:
    """The codes of some rows of a store."""
    parts = [dictionary.scaled(store.read(some)) for some in rows.split(BATCH_ROWS)]
    alone = [[dictionary.encode_alone(x, m).to("cpu") for x in parts] for m in range(dictionary.n_spaces)]
    return Encoded(
        rows=rows,
        joint=Codes.concatenate([_joint(dictionary, x) for x in parts]),
        solo=tuple(Codes.concatenate(codes) for codes in alone),
    )


def _joint(dictionary: Dictionary, x: Float[Tensor, "row D_all"]) -> Codes:
    """The code that examples are ranked by, on the CPU."""
    if dictionary.design.joint:
        return dictionary.encode(x).to("cpu")
    return union([dictionary.encode_alone(x, m) for m in range(dictionary.n_spaces)]).to("cpu")
