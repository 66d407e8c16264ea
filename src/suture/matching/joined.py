"""Families: features of several dictionaries that are one and the same, at most one of each; pure functions.

1. Every two dictionaries are paired one to one on the pairing half (`assign`).
2. Pairs are gone through from the strongest down. Two families are joined if no dictionary is in both and every
   feature of one has r of the bar or more with every feature of the other, on the pairing half: complete linkage, since
   a chain (A like B, B like C) ends at features that have nothing to do with each other.
3. The scoring half judges. Of a family in which two members are not confirmed to be alike, the member with the fewest
   confirmed is dropped, and again, until all that are left are.

A family says that features do the same on the same text. It is a count, not a proof of sameness: features that share
half of their rows, or of which one holds the other, reach r of 0.3 too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from suture.matching.assign import one_to_one
from suture.matching.correlate import Candidates

Two = tuple[int, int]
"""Numbers of two dictionaries, the smaller first."""
NONE = -1


def joined(
    candidates: Mapping[Two, Candidates], sizes: Sequence[int], *, bar: float
) -> Int[ndarray, "family dictionary"]:
    """1 and 2: members of every family of two or more, `NONE` where a dictionary has none; the largest first."""
    known = {two: c.sparse() for two, c in candidates.items()}
    starts = np.concatenate([[0], np.cumsum(sizes)])
    family = list(range(int(starts[-1])))  # of every feature: the feature that stands for it
    members: dict[int, dict[int, int]] = {}
    for m, size in enumerate(sizes):
        members |= {int(starts[m]) + i: {m: i} for i in range(size)}
    for r, m, i, k, j in _strongest_first(candidates, bar):
        one, two = family[starts[m] + i], family[starts[k] + j]
        if one == two or members[one].keys() & members[two].keys():
            continue
        if r >= bar and _all_reach(members[one], members[two], known, bar):
            for dictionary, feature in members.pop(two).items():
                members[one][dictionary] = feature
                family[starts[dictionary] + feature] = one
    found = np.full((len(members), len(sizes)), NONE, dtype=np.int64)
    for row, own in enumerate(members.values()):
        found[row, list(own)] = list(own.values())
    n = (found != NONE).sum(1)
    found = found[n > 1]
    return found[np.argsort(-(found != NONE).sum(1), kind="stable")]


def confirmed(
    families: Int[ndarray, "family dictionary"], alike: Bool[ndarray, "family dictionary dictionary"]
) -> Int[ndarray, "family dictionary"]:
    """3: the families with members dropped; rows stay where they are, and may end with fewer than two."""
    found = families.copy()
    while True:
        there = found != NONE
        pairs = there[:, :, None] & there[:, None, :] & ~np.eye(found.shape[1], dtype=bool)
        missing = (pairs & ~alike).sum(2)
        bad = missing.max(1) > 0
        if not bad.any():
            break
        found[bad, missing[bad].argmax(1)] = NONE
    return np.where((found != NONE).sum(1, keepdims=True) > 1, found, NONE)


def counts(families: Int[ndarray, "family dictionary"], dictionary: int, size: int) -> Int[ndarray, "feature"]:
    """In how many dictionaries each feature of one is found, its own counted."""
    found = np.ones(size, dtype=np.int64)
    own = families[:, dictionary]
    there = own != NONE
    found[own[there]] = (families[there] != NONE).sum(1)
    return found


def _strongest_first(candidates: Mapping[Two, Candidates], bar: float) -> list[tuple[float, int, int, int, int]]:
    edges = []
    for (m, k), c in candidates.items():
        a, b = one_to_one(c)
        if len(a) == 0:
            continue
        r = np.asarray(c.sparse()[a, b]).ravel()
        edges += [(float(v), m, int(i), k, int(j)) for v, i, j in zip(r, a, b, strict=True) if v >= bar]
    return sorted(edges, key=lambda edge: (-edge[0], *edge[1:]))


def _all_reach(one: Mapping[int, int], two: Mapping[int, int], known: Mapping[Two, object], bar: float) -> bool:
    for m, i in one.items():
        for k, j in two.items():
            matrix, place = (known[m, k], (i, j)) if m < k else (known[k, m], (j, i))
            if matrix[place] < bar:  # pyright: ignore[reportIndexIssue]
                return False
    return True
