"""Which spaces and rows of a store a dictionary is measured on: its own, and those that its training never saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.uncertainty import hashed_rank

LEAST_DOCUMENTS = 20
"""Ten a half: fewer say nothing about how sure a correlation is."""


def matching_view(dictionary: Dictionary, store: Store) -> Store:
    """The store's spaces that the dictionary was trained on, in its order.

    Raises:
        UserError: one of them is not there, or has another width.
    """
    places = []
    for space in dictionary.spaces:
        same = [i for i, s in enumerate(store.spaces) if s.stands_for(space)]
        found = [i for i in same if i not in places] or same  # a null of several copies has several of one kind
        if not found:
            problem = f"has no space {space.label}, only {', '.join(s.label for s in store.spaces)}"
            raise UserError("store", store.path, problem, "give the store the dictionary was trained on")
        width = store.spaces[found[0]].width
        if width != space.width:
            problem = f"has {space.label} at width {width}, the dictionary at {space.width}"
            raise UserError("store", store.path, problem, "give the store the dictionary was trained on")
        places.append(found[0])
    return store if places == list(range(len(store.spaces))) else store.select(places)


def order_seed(training: Mapping[str, Any]) -> int:
    """The seed of a recorded training's split into training and held-out documents: `data_seed`, or else `seed`."""
    data_seed = training.get("data_seed")
    return int(training.get("seed", 0) if data_seed is None else data_seed)


def whole_documents(documents: Int[Tensor, "row"], rows: Int[Tensor, "chosen"], at_most: int) -> Int[Tensor, "kept"]:
    """The rows of as many whole documents, in hashed order, as fit `at_most` rows (of one document at least)."""
    if len(rows) <= at_most:
        return rows
    rank = hashed_rank(documents[rows])
    size = torch.bincount(rank).cumsum(0)
    return rows[(size[rank] <= at_most) | (rank == 0)]
