"""Correlation from the non-zeros against numpy's and scipy's of the dense matrices, whatever the blocks and threads."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr

from suture.matching.correlate import Candidates, columns, top_correlations


def sparse(n_rows: int, n_features: int, rate: float, seed: int) -> csr_matrix:
    r = np.random.default_rng(seed)
    dense = r.lognormal(size=(n_rows, n_features)) * (r.random((n_rows, n_features)) < rate)
    return csr_matrix(dense)


def pair_of_codes(n_a: int = 60, n_b: int = 45) -> tuple[csr_matrix, csr_matrix]:
    """B's first features are noisy copies of A's, in another order."""
    a, b = sparse(700, n_a, 0.08, 0), sparse(700, n_b, 0.08, 1).toarray()
    order = np.random.default_rng(2).permutation(30)
    copied = a.toarray()[:, order]
    r = np.random.default_rng(3)
    b[:, :30] = np.where(r.random(copied.shape) < 0.8, copied * r.lognormal(0, 0.3, copied.shape), b[:, :30])
    return a, csr_matrix(b)


def dense_reference(a: csr_matrix, b: csr_matrix, *, min_together: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """r of all pairs by numpy, NaN where a pair is not to be kept; rows together."""
    x, y = a.toarray(), b.toarray()
    r = np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :]
    together = (x > 0).T.astype(int) @ (y > 0).astype(int)
    return np.where((together >= min_together) & (r >= floor), r, np.nan), together


def as_dense(found: Candidates) -> np.ndarray:
    dense = np.full(found.shape, np.nan)
    dense[found.a, found.b] = found.r
    return dense


def test_every_pair_is_exact_when_all_are_kept() -> None:
    a, b = pair_of_codes()
    found = top_correlations(a, b, keep=10_000, min_together=3, floor=0.02)
    expected, together = dense_reference(a, b, min_together=3, floor=0.02)
    np.testing.assert_array_equal(np.isnan(as_dense(found)), np.isnan(expected))
    np.testing.assert_allclose(as_dense(found), expected, atol=1e-12, rtol=0)
    np.testing.assert_array_equal(found.together, together[found.a, found.b])
    some = 5
    x, y = a.toarray()[:, found.a[some]], b.toarray()[:, found.b[some]]
    assert found.r[some] == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize(("memory", "threads"), [(1, 1), (20_000, 2), (2**26, 1)])
def test_the_strongest_of_both_sides_are_kept_whatever_the_blocks(memory: int, threads: int) -> None:
    a, b = pair_of_codes()
    found = as_dense(top_correlations(a, b, keep=3, min_together=2, floor=0.0, memory=memory, threads=threads))
    expected, _ = dense_reference(a, b, min_together=2, floor=0.0)
    strength = np.where(np.isnan(expected), -1.0, expected)
    of_a = strength >= np.sort(strength, axis=1)[:, -3][:, None]
    of_b = strength >= np.sort(strength, axis=0)[-3][None]
    np.testing.assert_allclose(found, np.where(of_a | of_b, expected, np.nan), atol=1e-12, rtol=0)


def test_pairs_come_by_feature_of_a_with_the_strongest_first_and_reversing_exchanges_the_sides() -> None:
    a, b = pair_of_codes()
    found = top_correlations(a, b, keep=4)
    assert np.all(np.diff(found.a) >= 0)
    assert np.all((np.diff(found.r) <= 0) | (np.diff(found.a) > 0))
    other = top_correlations(b, a, keep=4)
    turned = found.reversed()
    np.testing.assert_array_equal(turned.a, other.a)
    np.testing.assert_array_equal(turned.b, other.b)
    np.testing.assert_allclose(turned.r, other.r, atol=1e-12, rtol=0)


def test_features_that_never_fire_have_no_partner_and_no_warning() -> None:
    a, b = pair_of_codes()
    silent = a.tolil()
    silent[:, 7] = 0
    found = top_correlations(silent.tocsr(), b)
    assert 7 not in found.a
    assert len(top_correlations(csr_matrix((50, 4)), csr_matrix((50, 3)))) == 0


def test_columns_are_the_sums_over_rows() -> None:
    a, _ = pair_of_codes()
    found, x = columns(a), a.toarray()
    np.testing.assert_allclose(found.total, x.sum(0), rtol=1e-13)
    np.testing.assert_allclose(found.square, (x**2).sum(0), rtol=1e-13)
    np.testing.assert_array_equal(found.count, (x > 0).sum(0))
    np.testing.assert_allclose(found.spread / np.sqrt(700), x.std(0), rtol=1e-12)
