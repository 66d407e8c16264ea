"""Kinds of pairs on codes whose truth is known: equal, half, over, split and alone."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from suture.matching.assign import best
from suture.matching.correlate import top_correlations
from suture.matching.evidence import Grouping, evidence
from suture.matching.kinds import corrected, correlation_of, families, kinds, products, reliability

TRUTH = ("same", "overlapping", "parent", "split", "none")
N_EACH = 6


def known(seed: int, n_rows: int = 24_000) -> tuple[csr_matrix, csr_matrix]:
    """Six features of A of each kind.

    B fires on the same rows, on half and as many others, on these and three times as many others, in two halves, or on
    others.
    """
    r = np.random.default_rng(seed)
    a, b = [], []

    def rows(rate: float) -> np.ndarray:
        return r.random(n_rows) < rate

    def noisy(fires: np.ndarray, strength: np.ndarray) -> np.ndarray:
        return fires * strength * r.lognormal(0, 0.25, n_rows) * (r.random(n_rows) < 0.97)

    for kind in TRUTH:
        for _ in range(N_EACH):
            fires, strength, coin = rows(0.02), r.lognormal(0, 0.3, n_rows), rows(0.5)
            a.append(noisy(fires, strength))
            if kind == "same":
                b.append(noisy(fires, strength))
            if kind == "overlapping":
                b.append(noisy((fires & coin) | rows(0.01), strength))
            if kind == "parent":
                b.append(noisy(fires | rows(0.06), strength))
            if kind == "split":
                b += [noisy(fires & coin, strength), noisy(fires & ~coin, strength)]
            if kind == "none":
                b.append(noisy(rows(0.02), strength))
    return csr_matrix(np.stack(a, 1)), csr_matrix(np.stack(b, 1))


@pytest.fixture(scope="module")
def found() -> dict[str, np.ndarray]:
    a, b = known(0)
    halves = [slice(0, 12_000), slice(12_000, 24_000)]
    pairing, scoring = [(a[h], b[h]) for h in halves]
    g = Grouping.of(np.arange(12_000) // 20, np.zeros((12_000, 1), dtype=np.int64))
    candidates = top_correlations(*pairing)
    pair_a, pair_b = best(candidates)
    proof = evidence(*scoring, pair_a, pair_b, g)
    mixture = families(candidates, pairing, scoring)
    named = np.full(a.shape[1], "none", dtype=object)
    named[pair_a] = kinds(proof, mixture.r[pair_a])
    r = np.zeros(a.shape[1])
    r[pair_a] = proof.r
    return {"kind": named, "single": r, "mixture": mixture.r, "weights": mixture.weights}


@pytest.mark.parametrize("kind", TRUTH)
def test_each_kind_is_called_what_it_is(found: dict[str, np.ndarray], kind: str) -> None:
    start = TRUTH.index(kind) * N_EACH
    assert found["kind"][start : start + N_EACH].tolist() == [kind] * N_EACH


def test_a_mixture_helps_what_is_split_and_nothing_else(found: dict[str, np.ndarray]) -> None:
    gain = (found["mixture"] - found["single"]).reshape(len(TRUTH), N_EACH)
    assert (gain[TRUTH.index("split")] > 0.15).all()
    assert (np.abs(gain[: TRUTH.index("split")]) < 0.05).all()
    assert ((found["weights"] > 0.3).sum(1).reshape(len(TRUTH), N_EACH)[TRUTH.index("split")] == 2).all()


def test_reliability_takes_the_noise_of_training_out() -> None:
    """Three noisy copies of one code: r is the product of two noises, and so is each reliability."""
    r = np.random.default_rng(3)
    base = (r.random((6000, 20)) < 0.05) * r.lognormal(size=(6000, 20))
    kept = [csr_matrix(base * (r.random(base.shape) < 0.75)) for _ in range(4)]
    first, second = slice(0, 3000), slice(3000, 6000)

    def halves(i: int, j: int) -> tuple[tuple[csr_matrix, csr_matrix], tuple[csr_matrix, csr_matrix]]:
        return (kept[i][first], kept[j][first]), (kept[i][second], kept[j][second])

    own = np.arange(20)
    raw = correlation_of(kept[0][second], kept[1][second], own, own)
    assert raw.mean() < 0.8
    better = corrected(raw, reliability(*halves(0, 2)), reliability(*halves(1, 3)))
    assert abs(better.mean() - 1) < 0.05


def test_products_of_pairs_are_those_of_the_columns() -> None:
    a, b = known(1, n_rows=500)
    i, j = np.array([0, 7, 7]), np.array([3, 0, 30])
    np.testing.assert_allclose(products(a, b, i, j), (a.toarray()[:, i] * b.toarray()[:, j]).sum(0), rtol=1e-12)
    assert len(products(a, b, i[:0], j[:0])) == 0
