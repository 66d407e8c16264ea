"""Correlation of every feature of one dictionary with every feature of another, from the non-zeros alone.

1. Sums, sums of squares and counts per feature, in float64.
2. A'B and its pattern's, a block of A's features at a time: the block is as large as its products, bounded from the
   rows its features fire on, fit the memory allowed. Blocks go to as many threads as given: scipy lets go of the lock.
3. r only where two features fire together often enough: elsewhere it is noise, and there are a hundred times as many.
4. Kept are the strongest partners of every feature of A and of every feature of B: of a column the k-th strongest so
   far is the bar that the next block must pass, so that what waits stays small.

Exact: r is Pearson over all rows, zeros included. 32,768 x 32,768 features on 100,000 rows of 32 active ones take
about 10^8 multiply-adds where the dense product takes 10^14.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix

BYTES_PER_PRODUCT = 48
"""What a pair of features that ever fires together holds while its block is worked on: both products and r."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """What correlation needs of each feature by itself."""

    total: Float64[ndarray, "feature"]
    square: Float64[ndarray, "feature"]
    count: Int[ndarray, "feature"]
    """Rows on which it fires."""
    n_rows: int

    @property
    def spread(self) -> Float64[ndarray, "feature"]:
        """Standard deviation times sqrt(n_rows)."""
        return np.sqrt(np.maximum(self.square - self.total**2 / self.n_rows, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Pairs of features worth looking at, by feature of A, the strongest first."""

    a: Int[ndarray, "pair"]
    b: Int[ndarray, "pair"]
    r: Float64[ndarray, "pair"]
    together: Int[ndarray, "pair"]
    """Rows on which both fire."""
    shape: tuple[int, int]
    """Features of A and of B."""

    def __len__(self) -> int:
        return len(self.a)

    def sparse(self) -> csr_matrix:
        """r as a matrix [feature of A, feature of B]."""
        return csr_matrix((self.r, (self.a, self.b)), shape=self.shape)

    def reversed(self) -> Candidates:
        """The same with A and B exchanged."""
        order = np.lexsort((-self.r, self.b))
        pairs = (self.b[order], self.a[order], self.r[order], self.together[order])
        return Candidates(a=pairs[0], b=pairs[1], r=pairs[2], together=pairs[3], shape=(self.shape[1], self.shape[0]))


def columns(codes: csr_matrix) -> Columns:
    """1."""
    n_rows, n_features = size(codes)
    value = codes.data.astype(np.float64)
    return Columns(
        total=np.bincount(codes.indices, value, n_features).astype(np.float64),
        square=np.bincount(codes.indices, value**2, n_features).astype(np.float64),
        count=np.bincount(codes.indices, minlength=n_features).astype(np.int64),
        n_rows=n_rows,
    )


def top_correlations(
    a: csr_matrix,
    b: csr_matrix,
    *,
    keep: int = 16,
    min_together: int = 5,
    floor: float = 0.02,
    memory: int = 2**26,
    threads: int = 1,
) -> Candidates:
    """The strongest partners of every feature, both ways, from codes [row, feature] of the same rows.

    Args:
        a: codes without explicit zeros, values positive.
        b: the same rows' codes in the other dictionary.
        keep: partners kept of each feature of A, and of each of B.
        min_together: pairs that fire together on fewer rows have no correlation to speak of.
        floor: nor are pairs below this worth keeping.
        memory: bytes that the products of all blocks at work may take.
        threads: blocks worked on at a time.
    """
    assert size(a)[0] == size(b)[0], "codes of the same rows"
    left, right = columns(a), columns(b)
    by_feature = csr_matrix(a.T, dtype=np.float64)
    b = csr_matrix(b, dtype=np.float64)
    patterns = _pattern(by_feature), _pattern(b)

    def block(features: range) -> Candidates:
        rows = slice(features.start, features.stop)
        products = by_feature[rows] @ b  # 2
        together = patterns[0][rows] @ patterns[1]
        assert np.array_equal(products.indices, together.indices), "a product of two values vanished"
        return _correlated(products, together, left, right, features.start, min_together=min_together, floor=floor)

    ranges = list(_blocks(by_feature, b, budget=memory // (BYTES_PER_PRODUCT * threads)))
    best = _Best(size(b)[1], keep)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(ranges), threads):
            for found in pool.map(block, ranges[first : first + threads]):
                best.add(found)
    return best.finish((size(a)[1], size(b)[1]))


def size(codes: csr_matrix) -> tuple[int, int]:
    """Rows and features."""
    assert codes.shape is not None
    return int(codes.shape[0]), int(codes.shape[1])


def _pattern(codes: csr_matrix) -> csr_matrix:
    ones = np.ones(len(codes.data), dtype=np.int32)
    return csr_matrix((ones, codes.indices, codes.indptr), shape=codes.shape)


def _blocks(by_feature: csr_matrix, b: csr_matrix, budget: int) -> Iterator[range]:
    """Ranges of A's features whose products hold `budget` entries at most; of one feature at least."""
    n_a, n_b = size(by_feature)[0], size(b)[1]
    active = np.diff(b.indptr).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(active[by_feature.indices])])
    entries = np.minimum(before[by_feature.indptr[1:]] - before[by_feature.indptr[:-1]], n_b)
    ends = np.cumsum(entries)
    start = 0
    while start < n_a:
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + budget, side="right")), start + 1)
        yield range(start, stop)
        start = stop


def _correlated(
    products: csr_matrix,
    together: csr_matrix,
    left: Columns,
    right: Columns,
    start: int,
    *,
    min_together: int,
    floor: float,
) -> Candidates:
    """3, of one block of A's features beginning with number `start`."""
    kept = np.flatnonzero(together.data >= min_together)
    a = start + np.searchsorted(products.indptr, kept, side="right").astype(np.int64) - 1
    b = products.indices[kept].astype(np.int64)
    spread = left.spread[a] * right.spread[b]
    covariance = products.data[kept] - left.total[a] * right.total[b] / left.n_rows
    r = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    good = r >= floor
    count = together.data[kept][good].astype(np.int64)
    return Candidates(a=a[good], b=b[good], r=r[good], together=count, shape=(len(left.total), len(right.total)))


class _Best:
    """4. What has been kept so far: blocks of A arrive in order, so that A's side of a block is done with it."""

    def __init__(self, n_b: int, keep: int) -> None:
        self.keep = keep
        self.bar = np.full(n_b, -np.inf)
        self.of_a: list[Candidates] = []
        self.of_b: Candidates | None = None

    def add(self, found: Candidates) -> None:
        """A block more."""
        self.of_a.append(_take(found, _strongest(found.a, found.r, self.keep)))
        news = _take(found, np.flatnonzero(found.r > self.bar[found.b]))
        whole = news if self.of_b is None else _join([self.of_b, news])
        strongest = _take(whole, _strongest(whole.b, whole.r, self.keep))
        self.of_b = strongest
        full = np.bincount(strongest.b, minlength=len(self.bar)) >= self.keep
        weakest = np.full(len(self.bar), np.inf)
        np.minimum.at(weakest, strongest.b, strongest.r)
        self.bar[full] = weakest[full]

    def finish(self, shape: tuple[int, int]) -> Candidates:
        """Both sides' pairs, each once."""
        parts = self.of_a + ([] if self.of_b is None else [self.of_b])
        whole = _join(parts)
        _, first = np.unique(whole.a * shape[1] + whole.b, return_index=True)
        whole = _take(whole, first)
        return _take(whole, np.lexsort((-whole.r, whole.a)))


def _strongest(feature: Int[ndarray, "pair"], r: Float64[ndarray, "pair"], keep: int) -> Int[ndarray, "kept"]:
    """Places of the `keep` largest r of each feature."""
    order = np.lexsort((-r, feature))
    counts = np.bincount(feature)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[rank < keep]


def _take(pairs: Candidates, places: Int[ndarray, "kept"]) -> Candidates:
    return Candidates(
        a=pairs.a[places],
        b=pairs.b[places],
        r=pairs.r[places],
        together=pairs.together[places],
        shape=pairs.shape,
    )


def _join(parts: list[Candidates]) -> Candidates:
    return Candidates(
        a=np.concatenate([p.a for p in parts]),
        b=np.concatenate([p.b for p in parts]),
        r=np.concatenate([p.r for p in parts]),
        together=np.concatenate([p.together for p in parts]),
        shape=parts[0].shape,
    )
