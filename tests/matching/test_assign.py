"""Matchers against scipy's dense Hungarian and against each other's meaning."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from suture.matching.assign import best, mutual, one_to_one
from suture.matching.correlate import Candidates


def candidates(r: np.ndarray) -> Candidates:
    a, b = np.nonzero(r > 0)
    order = np.lexsort((-r[a, b], a))
    a, b = a[order], b[order]
    return Candidates(a=a, b=b, r=r[a, b], together=np.full(len(a), 9), shape=r.shape)


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 10_000))
def test_the_sum_is_the_largest_there_is(n_a: int, n_b: int, density: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    r = generator.random((n_a, n_b)) * (generator.random((n_a, n_b)) < density)
    a, b = one_to_one(candidates(r))
    assert len(set(a.tolist())) == len(a)
    assert len(set(b.tolist())) == len(b)
    assert (r[a, b] > 0).all()
    rows, columns = linear_sum_assignment(r, maximize=True)
    np.testing.assert_allclose(r[a, b].sum(), r[rows, columns].sum(), atol=1e-9)


def test_best_may_share_a_partner_and_mutual_may_not() -> None:
    r = np.array([[0.9, 0.2, 0.0], [0.8, 0.1, 0.0], [0.0, 0.0, 0.0], [0.3, 0.0, 0.4]])
    found = candidates(r)
    assert [x.tolist() for x in best(found)] == [[0, 1, 3], [0, 0, 2]]
    assert [x.tolist() for x in mutual(found)] == [[0, 3], [0, 2]]
    assert [x.tolist() for x in one_to_one(found)] == [[0, 1, 3], [1, 0, 2]] or r[one_to_one(found)].sum() > 1.39
