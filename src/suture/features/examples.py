"""A feature's strongest examples with the text around them, and the codes there from each model's side.

1. Around each top row, the neighbouring rows of the same document (rows are text positions in order).
2. A row's text runs from the end of the row before it: tokens that only some models end there merge into it.
3. Per model, the codes of these rows from that model alone; besides, the code of all models together. All are looked up
   among the kept non-zeros.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.codes import Codes
from suture.features.settings import ContextSettings
from suture.features.stats import FeatureStats


def examples(stats: FeatureStats, store: Store, settings: ContextSettings | None = None) -> list[list[dict[str, Any]]]:
    """Per feature its top examples, best first, in the shape of examples.json.

    An example is {"value", "document", "row", "joint": [code per token], "sides": per model {"tokens", "values",
    "peak"}}; `peak` is the example's own row in `tokens`. A pooled dictionary's `joint` is the larger of the sides.
    """
    settings = settings or ContextSettings()
    feature, rank = torch.nonzero(stats.top.position >= 0, as_tuple=True)
    at = stats.top.position[feature, rank]
    row = stats.rows[at]
    window = row.unsqueeze(1) + torch.arange(-settings.before, settings.after + 1)
    inside = (window >= 0) & (window < len(store))
    window = window.clamp(0, len(store) - 1)
    inside &= store.documents[window] == store.documents[row].unsqueeze(1)
    codes = [_round(_lookup(c, stats.rows, window, feature)) for c in (stats.joint, *stats.solo)]
    value = _round(stats.top.value[feature, rank])
    begin = inside.long().argmax(dim=1).tolist()
    count = inside.sum(dim=1).tolist()
    text = _Text(store)
    found: list[list[dict[str, Any]]] = [[] for _ in range(stats.n_features)]
    for e, (i, r) in enumerate(zip(feature.tolist(), row.tolist(), strict=True)):
        chosen = slice(begin[e], begin[e] + count[e])
        first = r - settings.before + begin[e]
        tokens = text.tokens(first, count[e])
        joint, *sides = [[v or 0 for v in c[e, chosen].tolist()] for c in codes]
        found[i].append(
            {
                "value": float(value[e]),
                "document": int(store.documents[r]),
                "row": r,
                "joint": joint,
                "sides": [{"tokens": tokens, "values": values, "peak": r - first} for values in sides],
            }
        )
    return found


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


class _Text:
    """The store's documents, each read once, cut at the rows' ends."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.documents = store.documents.tolist()
        self.ends = store.ends.tolist()
        self.texts: dict[int, str] = {}

    def tokens(self, first: int, count: int) -> list[str]:
        """The texts of `count` rows from row `first` on, all in one document."""
        document = self.documents[first]
        if document not in self.texts:
            self.texts[document] = self.store.text(document)
        text = self.texts[document]
        begin = self.ends[first - 1] if first > 0 and self.documents[first - 1] == document else 0
        cuts = [begin, *self.ends[first : first + count]]
        return [text[a:b] for a, b in pairwise(cuts)]
