"""Where features fire, as a person reads it: rows of the scoring half, with the text around them.

1. The rows where a feature is strongest, one of a document at most.
2. Of a pair: rows where the feature is strongest and rows where its partner is, the same rows read in both, so that one
   sees where the two agree and where one is silent.
3. The word of a row: the whole word that its token is a part of. A feature's words are the commonest of its rows.

Stores without text (planted ones) have none of this.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csc_matrix, csr_matrix

from suture.activations.store import Store
from suture.pipeline import artifact

N_WORD_ROWS = 10
"""Rows that a feature's words are taken from."""
N_WORDS = 3
"""Words named of a feature."""
BEFORE, AFTER = 70, 40
"""Characters shown before and after a row's token."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

Passage = tuple[str, str, str]
"""Before the token, the token, after it."""
Example = tuple[int, float, float]
"""Number of its passage, the feature's value, its partner's."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Rows of every pair (2)."""

    passages: Sequence[Passage] = ()
    a: Sequence[Sequence[Example]] = ()
    """Of each feature of A with its partner, the strongest first."""
    b: Sequence[Sequence[Example]] = ()
    """Of each feature of B, with its partner in A; its own value first."""

    def save(self, path: Path) -> None:
        """As JSON."""
        artifact.write_json(path, {"passages": self.passages, "a": self.a, "b": self.b})

    @staticmethod
    def load(path: Path) -> Examples:
        """What `save` wrote."""
        raw: Mapping[str, Any] = artifact.read_json(path)
        passages = [(str(before), str(token), str(after)) for before, token, after in raw["passages"]]
        a, b = ([[(int(k), float(f), float(g)) for k, f, g in own] for own in raw[side]] for side in "ab")
        return Examples(passages=passages, a=a, b=b)


def strongest(codes: csr_matrix, documents: Int[ndarray, "row"], n: int) -> Int[ndarray, "feature n"]:
    """1: rows of every feature, -1 where it fires in fewer documents."""
    by_feature = csc_matrix(codes)
    n_features = len(by_feature.indptr) - 1
    feature = np.repeat(np.arange(n_features, dtype=np.int64), np.diff(by_feature.indptr))
    order = np.lexsort((by_feature.indices, -np.asarray(by_feature.data, dtype=np.float64), feature))
    feature, row = feature[order], by_feature.indices[order].astype(np.int64)
    document = np.unique(documents, return_inverse=True)[1].ravel()
    _, first = np.unique(feature * len(documents) + document[row], return_index=True)
    first.sort()
    feature, row = feature[first], row[first]
    count = np.bincount(feature, minlength=n_features)
    rank = np.arange(len(feature)) - np.repeat(np.cumsum(count) - count, count)
    found = np.full((n_features, n), -1, dtype=np.int64)
    kept = rank < n
    found[feature[kept], rank[kept]] = row[kept]
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """The text at the scoring rows of a store."""

    store: Store
    rows: Int[ndarray, "row"]
    """Scoring rows, as rows of the store."""
    _texts: dict[int, str] = field(default_factory=dict, repr=False)

    @cached_property
    def has_text(self) -> bool:
        """Whether the store knows the text of its documents."""
        try:
            return len(self.rows) > 0 and bool(self._text(int(self._documents[self.rows[0]])))
        except KeyError:
            return False

    @cached_property
    def _documents(self) -> ndarray:
        return self.store.documents.numpy()

    @cached_property
    def _ends(self) -> ndarray:
        return self.store.ends.numpy()

    def _text(self, document: int) -> str:
        if document not in self._texts:
            self._texts[document] = self.store.text(document)
        return self._texts[document]

    def _at(self, place: int) -> tuple[str, int, int]:
        """The document's text, and where the token of a scoring row begins and ends in it."""
        row = int(self.rows[place])
        document, end = int(self._documents[row]), int(self._ends[row])
        text = self._text(document)
        same = row > 0 and self._documents[row - 1] == document
        return text, int(self._ends[row - 1]) if same else 0, end

    def passage(self, place: int) -> Passage:
        """The text around a scoring row."""
        text, begin, end = self._at(place)
        return text[max(0, begin - BEFORE) : begin], text[begin:end], text[end : end + AFTER]

    def word(self, place: int) -> str:
        """3: in lower case; the token itself where it is in no word."""
        text, begin, end = self._at(place)
        token = text[begin:end]
        last = begin + len(token.rstrip()) - 1
        for found in _WORD.finditer(text, max(0, begin - BEFORE), end + AFTER):
            if found.start() <= last < found.end():
                return found.group().lower()
        return token.strip().lower()


def words(reader: Reader, rows: Int[ndarray, "feature n"]) -> list[list[str]]:
    """The word at each of every feature's rows."""
    known = {int(place): reader.word(int(place)) for place in np.unique(rows[rows >= 0])}
    return [[known[int(place)] for place in own if place >= 0] for own in rows]


def named(found: Sequence[str]) -> str:
    """A feature's commonest words, one after the other.

    >>> named(["dog", "cat", "dog"])
    'dog, cat'
    """
    return ", ".join(word for word, _ in Counter(found).most_common(N_WORDS) if word)


def examples(
    reader: Reader,
    codes: tuple[csr_matrix, csr_matrix],
    tops: tuple[ndarray, ndarray],
    pairs: tuple[tuple[ndarray, ndarray], tuple[ndarray, ndarray]],
    n: int,
) -> Examples:
    """2, both ways: `codes` of the scoring rows, `tops` the strongest rows, `pairs` of A in B and of B in A."""
    numbers: dict[int, int] = {}
    sides = []
    for own, other, (features, partners) in ((0, 1, pairs[0]), (1, 0, pairs[1])):
        partner = np.full(tops[own].shape[0], -1, dtype=np.int64)
        partner[features] = partners
        half = (n + 1) // 2
        theirs = np.where(partner[:, None] >= 0, tops[other][partner, : n - half], -1)
        chosen = np.concatenate([tops[own][:, :half], theirs], axis=1)
        f = _values(codes[own], chosen, np.arange(len(chosen)))
        g = _values(codes[other], chosen, partner)
        side = []
        for rows, a, b in zip(chosen, f, g, strict=True):
            seen = dict.fromkeys(int(row) for row in rows if row >= 0)
            values = {int(row): (float(x), float(y)) for row, x, y in zip(rows, a, b, strict=True)}
            side.append(
                [(numbers.setdefault(row, len(numbers)), *(float(f"{v:.3g}") for v in values[row])) for row in seen]
            )
        sides.append(side)
    return Examples(passages=[reader.passage(place) for place in numbers], a=sides[0], b=sides[1])


def _values(
    codes: csr_matrix, rows: Int[ndarray, "feature n"], feature: Int[ndarray, "feature"]
) -> Float64[ndarray, "feature n"]:
    """The codes at rows, each line's of its feature; 0 where a row or a feature is -1."""
    there = (rows >= 0) & (feature >= 0)[:, None]
    found = np.zeros(rows.shape)
    of = np.broadcast_to(feature[:, None], rows.shape)
    if there.any():
        found[there] = np.asarray(codes[rows[there], of[there]]).ravel()
    return found
