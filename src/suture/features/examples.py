"""A feature's examples with the text around them, and the codes there from each model's side.

1. Around each chosen row (`chosen` says which), the neighbouring rows of the same document, in the order of the text.
2. A row's text runs from the end of the row before it: tokens that only some models end there merge into it.
3. The text for some way around all of them is kept once, in passages, however many examples lie in it.
4. Per model, the codes of these rows from that model alone; besides, the code of all models together. All are looked up
   among the kept non-zeros. Around a row that was not described only its own are known, and the others shown as 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.codes import Codes
from suture.dictionary.dictionary import Dictionary
from suture.features.chosen import STORE, TOP, Encoded, drawn, encoded, strongest_in_store
from suture.features.settings import ChoiceSettings, ContextSettings
from suture.features.stats import FeatureStats
from suture.parallel import ALONE, Ranks
from suture.pipeline.garbage import uncollected


@uncollected()
def examples(
    stats: FeatureStats,
    store: Store,
    settings: ContextSettings | None = None,
    *,
    choice: ChoiceSettings | None = None,
    elsewhere: Elsewhere | None = None,
    seed: int = 0,
) -> list[list[dict[str, Any]]]:
    """Per feature its examples in the shape of examples.json: the strongest, best first, then others.

    An example is {"kind", "value", "document", "row", "joint": [code per token], "sides": per model {"tokens",
    "values", "peak"}}; `peak` is the example's own row in `tokens`. A pooled dictionary's `joint` is the larger of the
    sides. `choice` draws examples of other strengths, `elsewhere` adds the strongest of the whole store.
    """
    settings = settings or ContextSettings()
    known = Encoded(rows=stats.rows, joint=stats.joint, solo=stats.solo)
    kinds = {TOP: stats.top.position} | (drawn(stats.joint, choice, seed) if choice is not None else {})
    found: list[list[dict[str, Any]]] = [[] for _ in range(stats.n_features)]
    for kind, position in kinds.items():
        feature, rank = torch.nonzero(position >= 0, as_tuple=True)
        row = stats.rows[position[feature, rank]]
        _add(found, kind, store, settings, known, feature, row)
        if kind == TOP and elsewhere is not None:
            _add(found, STORE, store, settings, elsewhere.encoded, *elsewhere.besides(stats))
    return found


def _add(
    found: list[list[dict[str, Any]]],
    kind: str,
    store: Store,
    settings: ContextSettings,
    known: Encoded,
    feature: Int[Tensor, "example"],
    row: Int[Tensor, "example"],
) -> None:
    """Add to `found` one kind's examples."""
    window = row.unsqueeze(1) + torch.arange(-settings.before, settings.after + 1)
    inside = (window >= 0) & (window < len(store))
    window = window.clamp(0, len(store) - 1)
    inside &= store.documents[window] == store.documents[row].unsqueeze(1)
    codes = [_round(_lookup(c, known.rows, window, feature)) for c in (known.joint, *known.solo)]
    value = _round(_lookup(known.joint, known.rows, row[:, None], feature)[:, 0]).tolist()
    begin = inside.long().argmax(dim=1).tolist()
    count = inside.sum(dim=1).tolist()
    # all at once: an array's slice of twenty numbers costs more than the numbers
    joint, *sides = [[[v or 0 for v in own] for own in c.tolist()] for c in codes]
    text, document = _Text(store), store.documents[row].tolist()
    for e, (i, r) in enumerate(zip(feature.tolist(), row.tolist(), strict=True)):
        chosen = slice(begin[e], begin[e] + count[e])
        first = r - settings.before + begin[e]
        tokens = text.tokens(first, count[e])
        found[i].append(
            {
                "kind": kind,
                "value": value[e],
                "document": document[e],
                "row": r,
                "joint": joint[e][chosen],
                "sides": [{"tokens": tokens, "values": side[e][chosen], "peak": r - first} for side in sides],
            }
        )


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The strongest rows of the whole store."""

    row: Int[Tensor, "feature top"]
    """-1 where a feature has fewer."""
    encoded: Encoded
    """Their codes."""
    n_rows: int
    """Rows searched."""

    def besides(self, stats: FeatureStats) -> tuple[Int[Tensor, "example"], Int[Tensor, "example"]]:
        """(feature, row) of those that are not among a feature's strongest examples."""
        top = torch.where(stats.top.position >= 0, stats.rows[stats.top.position.clamp_min(0)], -1)
        new = (self.row >= 0) & ~(self.row[:, :, None] == top[:, None, :]).any(-1)
        feature, rank = torch.nonzero(new, as_tuple=True)
        return feature, self.row[feature, rank]


def search_store(
    dictionary: Dictionary,
    store: Store,
    choice: ChoiceSettings,
    stats: FeatureStats | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    ranks: Ranks = ALONE.world,
) -> Elsewhere | None:
    """The strongest rows of the whole store with their codes; None where none are wanted or none are active.

    What `stats` knows is not encoded again.
    """
    known = None if stats is None else Encoded(rows=stats.rows, joint=stats.joint, solo=stats.solo)
    n_rows = min(choice.n_searched, len(store))
    row, _ = strongest_in_store(
        dictionary, store, n_top=choice.n_store, n_rows=n_rows, known=known, on_progress=on_progress, ranks=ranks
    )
    rows = row[row >= 0].unique()
    if len(rows) == 0:
        return None
    return Elsewhere(row=row, encoded=encoded(dictionary, store, rows), n_rows=n_rows)


def _lookup(
    codes: Codes, rows: Int[Tensor, "row"], window: Int[Tensor, "example token"], feature: Int[Tensor, "example"]
) -> Float[Tensor, "example token"]:
    """The code of each example's feature on its window; 0 on rows that were not encoded."""
    position = torch.searchsorted(rows, window).clamp_max(len(rows) - 1)
    value = codes.lookup(position, feature.unsqueeze(1).expand_as(window))
    return torch.where(rows[position] == window, value, torch.zeros(()))


def _round(value: Tensor) -> np.ndarray:
    """Four significant digits, so that the file holds no noise."""
    x = value.double().numpy()
    exponent = 3 - np.floor(np.log10(np.abs(x), where=x != 0, out=np.zeros_like(x)))
    up, down = 10.0 ** np.maximum(exponent, 0), 10.0 ** np.maximum(-exponent, 0)
    return np.rint(x * up / down) * down / up


def passages(
    found: Sequence[Sequence[Mapping[str, Any]]], store: Store, settings: ContextSettings | None = None
) -> list[dict[str, Any]]:
    """The text around all examples, as passages.json: {"document", "row": of the first token, "tokens"}, by row.

    Passages do not overlap; each lies in one document. (3)
    """
    settings = settings or ContextSettings()
    rows = torch.tensor(sorted({e["row"] for own in found for e in own}), dtype=torch.int64)
    if len(rows) == 0:
        return []
    document = store.documents[rows]
    first = (rows - settings.before - settings.longer).clamp_min(0)
    last = (rows + settings.after + settings.longer).clamp_max(len(store) - 1)
    text, kept = _Text(store), []
    begin, end = text.around(rows)
    first, last = torch.maximum(first, begin), torch.minimum(last, end - 1)
    spans: list[list[int]] = []
    for d, a, b in zip(document.tolist(), first.tolist(), last.tolist(), strict=True):
        if spans and spans[-1][0] == d and a <= spans[-1][2] + 1:
            spans[-1][2] = max(spans[-1][2], b)
        else:
            spans.append([d, a, b])
    for d, a, b in spans:
        kept.append({"document": d, "row": a, "tokens": text.tokens(a, b - a + 1)})
    return kept


class _Text:
    """The store's documents, each read and cut at its rows' ends once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        _, lengths = torch.unique_consecutive(store.documents, return_counts=True)
        self.bounds = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(0)])
        """Where each stretch of a document's rows begins; one more ends the last."""
        self.rows: dict[int, list[str]] = {}

    def around(self, rows: Int[Tensor, "row"]) -> tuple[Int[Tensor, "row"], Int[Tensor, "row"]]:
        """The first row of each row's document, and the one after its last."""
        number = torch.searchsorted(self.bounds, rows, right=True)
        return self.bounds[number - 1], self.bounds[number]

    def tokens(self, first: int, count: int) -> list[str]:
        """The texts of `count` rows from row `first` on, all in one document."""
        number = bisect_right(self.bounds.numpy(), first) - 1
        begin = int(self.bounds[number])
        if number not in self.rows:
            text = self.store.text(int(self.store.documents[first]))
            cuts = [0, *self.store.ends[begin : int(self.bounds[number + 1])].tolist()]
            self.rows[number] = [text[a:b] for a, b in pairwise(cuts)]
        return self.rows[number][first - begin : first - begin + count]
