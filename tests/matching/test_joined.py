"""Families from known correlations: complete linkage against chains, and members that are not confirmed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from suture.matching.correlate import Candidates
from suture.matching.joined import NONE, confirmed, counts, joined


def candidates(r: np.ndarray) -> Candidates:
    a, b = np.nonzero(r > 0)
    order = np.lexsort((-r[a, b], a))
    a, b = a[order], b[order]
    return Candidates(a=a, b=b, r=r[a, b], together=np.full(len(a), 9), shape=r.shape)


def three(ab: float, bc: float, ac: float) -> dict[tuple[int, int], Candidates]:
    """One feature in each of three dictionaries."""
    given = {(0, 1): ab, (1, 2): bc, (0, 2): ac}
    return {two: candidates(np.array([[r]])) for two, r in given.items()}


def test_three_that_are_alike_are_one_family_and_a_chain_is_not() -> None:
    assert joined(three(0.9, 0.8, 0.7), [1, 1, 1], bar=0.3).tolist() == [[0, 0, 0]]
    assert joined(three(0.9, 0.8, 0.1), [1, 1, 1], bar=0.3).tolist() == [[0, 0, NONE]]
    assert joined(three(0.9, 0.8, 0.0), [1, 1, 1], bar=0.3).tolist() == [[0, 0, NONE]]
    assert joined(three(0.2, 0.1, 0.1), [1, 1, 1], bar=0.3).tolist() == []


@given(st.integers(2, 4), st.integers(1, 8), st.floats(0.1, 0.9), st.integers(0, 10_000))
def test_families_are_disjoint_and_every_two_of_their_members_reach_the_bar(
    n: int, size: int, bar: float, seed: int
) -> None:
    r = np.random.default_rng(seed)
    given = {(m, k): r.random((size, size)) * (r.random((size, size)) < 0.5) for m in range(n) for k in range(m + 1, n)}
    families = joined({two: candidates(x) for two, x in given.items()}, [size] * n, bar=bar)
    for m in range(n):
        own = families[:, m][families[:, m] != NONE]
        assert len(set(own.tolist())) == len(own)
    for family in families:
        there = np.flatnonzero(family != NONE)
        assert len(there) >= 2
        for i, m in enumerate(there):
            for k in there[i + 1 :]:
                assert given[m, k][family[m], family[k]] >= bar
    assert (np.diff((families != NONE).sum(1)) <= 0).all()


def test_who_is_not_confirmed_by_the_others_is_dropped_and_nobody_else() -> None:
    families = np.array([[4, 5, 6], [1, 2, 3], [7, NONE, 8], [9, 9, 9]])
    alike = np.ones((4, 3, 3), dtype=bool)
    alike[0, 2, 0] = alike[0, 0, 2] = alike[0, 2, 1] = alike[0, 1, 2] = False  # the third is like neither
    alike[2, 0, 2] = alike[2, 2, 0] = False
    alike[3] = False
    found = confirmed(families, alike)
    assert found.tolist() == [[4, 5, NONE], [1, 2, 3], [NONE] * 3, [NONE] * 3]
    assert counts(found, 0, 10).tolist() == [1, 3, 1, 1, 2, 1, 1, 1, 1, 1]
