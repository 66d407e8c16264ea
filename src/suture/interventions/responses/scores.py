"""What is known of features before they are steered, that might say whether two models will respond alike.

1. From the feature table: co-firing of the codes from each model alone, the share that labels rest on, mapped cosine.
2. Beyond the token: the same codes on documents that training never saw, where the dictionary's store is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy import ndarray

from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.table import FeatureTable
from suture.interventions.responses.columns import SCORES
from suture.matching.evidence import Grouping, evidence
from suture.matching.read import Side, split
from suture.pipeline import artifact

N_ROWS = 100_000
FROM_TABLE = {
    "r": "cofire_correlation",
    "jaccard": "cofire_jaccard",
    "evenness": "refit_share",
    "mapped_cosine": "mapped_cosine",
}


def scores(dictionary: Path, table: FeatureTable, chosen: Sequence[int]) -> dict[str, ndarray]:
    """Every score of some features, float64 [feature]; NaN where it is not known.

    Args:
        dictionary: the dictionary's folder.
        table: what is known of its features.
        chosen: their numbers.
    """
    found = {column.name: np.full(len(chosen), np.nan) for column in SCORES}
    for name, column in FROM_TABLE.items():  # 1
        if column in table.columns:
            found[name] = table.column(column)[list(chosen)].numpy().astype(np.float64)
    found["evenness"] = 1 - np.abs(2 * found["evenness"] - 1)
    store = _own_store(dictionary)
    if store is not None:
        with suppress(UserError):  # too few documents: it is not known then, and the rest is
            found["r_ctx"] = beyond_token(dictionary, store, chosen)  # 2
    return found


def beyond_token(dictionary: Path, store: Store, chosen: Sequence[int]) -> ndarray:
    """r_ctx between a feature's values from the first model alone and from the second alone.

    Raises:
        UserError: too few documents that the dictionary was not trained on.
    """
    sides = [Side.open(dictionary, store, space=m) for m in (0, 1)]
    rows = split(store, sides, N_ROWS).rows
    numbers = np.array(list(chosen), dtype=np.int64)
    grouping = Grouping.of(
        store.documents[rows].numpy(), np.concatenate([side.tokens(rows).numpy() for side in sides], axis=1)
    )
    places = np.arange(len(numbers))
    a, b = (side.codes(rows)[:, numbers] for side in sides)
    return evidence(a, b, places, places, grouping).r_ctx


def _own_store(dictionary: Path) -> Store | None:
    """The store that it was trained on, where that is still there."""
    made = artifact.open_artifact(Dictionary.folder_of(dictionary))
    store = made.settings.get("store")
    if store is None or not artifact.is_made_from(made, store):
        return None
    return Store.open(store)
