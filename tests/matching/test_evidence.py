"""Evidence about pairs against dense float64, shuffles within tokens, and leaving out each document by hand."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from suture.matching.evidence import Grouping, evidence
from suture.uncertainty import discoveries


def rows(n_documents: int = 60, per_document: int = 15, n_tokens: int = 40) -> Grouping:
    r = np.random.default_rng(5)
    documents = np.repeat(np.arange(n_documents), per_document)
    return Grouping.of(documents, r.integers(0, n_tokens, (len(documents), 1)))


def codes(grouping: Grouping, n: int = 12) -> tuple[csr_matrix, csr_matrix]:
    """Features tied to tokens and to a common cause, of every mixture."""
    r = np.random.default_rng(6)
    n_rows = len(grouping.token)
    by_token = r.random((grouping.token.max() + 1, n))[grouping.token] < 0.3
    cause = r.random((n_rows, n)) < 0.2
    parts = []
    for _ in range(2):
        fires = np.where(np.arange(n) % 2 == 0, by_token & (r.random((n_rows, n)) < 0.7), cause)
        fires = np.where(r.random((n_rows, n)) < 0.15, r.random((n_rows, n)) < 0.2, fires)
        parts.append(csr_matrix(fires * r.lognormal(size=(n_rows, n))))
    return parts[0], parts[1]


PAIRS = np.arange(12), np.arange(12)


def residual(x: np.ndarray, token: np.ndarray) -> np.ndarray:
    mean = np.zeros((token.max() + 1, x.shape[1]))
    np.add.at(mean, token, x)
    return x - (mean / np.bincount(token)[:, None])[token]


def columnwise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(x.shape[1])])


@pytest.mark.parametrize("memory", [1, 2**26])
def test_numbers_are_those_of_the_dense_codes(memory: int) -> None:
    g = rows()
    a, b = codes(g)
    found = evidence(a, b, *PAIRS, g, memory=memory)
    x, y = a.toarray(), b.toarray()
    np.testing.assert_allclose(found.r, columnwise(x, y), atol=1e-12)
    seen = np.bincount(g.token)[g.token] >= 2
    np.testing.assert_allclose(
        found.r_ctx, columnwise(residual(x, g.token)[seen], residual(y, g.token)[seen]), atol=1e-12
    )
    both = ((x > 0) & (y > 0)).sum(0)
    np.testing.assert_allclose(found.b_given_a, both / (x > 0).sum(0), atol=1e-12)
    np.testing.assert_allclose(found.a_given_b, both / (y > 0).sum(0), atol=1e-12)
    np.testing.assert_allclose(found.jaccard, both / ((x > 0) | (y > 0)).sum(0), atol=1e-12)


def test_the_error_is_that_of_leaving_out_one_document_at_a_time() -> None:
    g = rows(n_documents=20)
    a, b = codes(g)
    found = evidence(a, b, *PAIRS, g)
    x, y = a.toarray(), b.toarray()
    z = np.arctanh([columnwise(x[g.document != d], y[g.document != d]) for d in range(20)])
    np.testing.assert_allclose(found.r_error, np.sqrt(19 / 20 * ((z - z.mean(0)) ** 2).sum(0)), rtol=1e-9)
    np.testing.assert_allclose(found.r_low, np.tanh(np.arctanh(found.r) - 1.6448536 * found.r_error), atol=1e-7)


def test_the_tokens_part_is_what_is_left_after_shuffling_within_tokens() -> None:
    g = rows()
    a, b = codes(g)
    found = evidence(a, b, *PAIRS, g)
    x, y = a.toarray(), b.toarray()
    shuffled = []
    for seed in range(300):
        r = np.random.default_rng(seed)
        order, by = np.lexsort((r.random(len(y)), g.token)), np.argsort(g.token, kind="stable")
        moved = np.empty_like(y)
        moved[by] = y[order]
        shuffled.append(columnwise(x, moved))
    np.testing.assert_allclose(found.r_token, np.mean(shuffled, 0), atol=5 * np.std(shuffled) / np.sqrt(300))
    assert (found.r_ctx[1::2] > 0.15).all(), "a common cause is beyond the token"
    assert np.abs(found.r_ctx[::2]).mean() < 0.1, "a token is not"


def test_half_to_half_differences_are_as_large_as_the_errors_say() -> None:
    """z of halves of the documents has the spread of a normal, where documents differ much."""
    r = np.random.default_rng(7)
    n_documents, per, n = 400, 30, 150
    g = Grouping.of(np.repeat(np.arange(n_documents), per), np.zeros((n_documents * per, 1), dtype=np.int64))
    topic = (r.random((n_documents, n)) < 0.2)[g.document]
    fires = topic & (r.random(topic.shape) < 0.2)
    a, b = (csr_matrix((fires & (r.random(fires.shape) < 0.7)) * r.lognormal(size=fires.shape)) for _ in range(2))
    halves = []
    for half in (0, 1):
        kept = np.flatnonzero(g.document % 2 == half)
        inner = Grouping.of(g.document[kept], g.token[kept, None])
        halves.append(evidence(a[kept], b[kept], np.arange(n), np.arange(n), inner))
    one, two = halves
    z = (np.arctanh(one.r) - np.arctanh(two.r)) / np.sqrt(one.r_error**2 + two.r_error**2)
    assert 0.85 < z.std() < 1.15


def test_pairs_of_nothing_are_declared_as_rarely_as_they_should_be() -> None:
    """Benjamini-Hochberg on p, half of the pairs false."""
    r = np.random.default_rng(8)
    g = rows(n_documents=200, per_document=20)
    n_rows = len(g.token)
    a = (r.random((n_rows, 200)) < 0.05) * r.lognormal(size=(n_rows, 200))
    other = (r.random((n_rows, 200)) < 0.05) * r.lognormal(size=(n_rows, 200))
    b = np.where(np.arange(200) < 100, np.where(r.random(a.shape) < 0.4, a, other), other)
    p = torch.from_numpy(evidence(csr_matrix(a), csr_matrix(b), np.arange(200), np.arange(200), g).p)
    found = discoveries(p, torch.ones(200, dtype=torch.bool), 0.05).numpy()
    assert found[:100].sum() >= 90
    assert found[100:].sum() <= 11


def test_a_feature_that_never_fires_is_known_to_be_nothing() -> None:
    g = rows(n_documents=10)
    a, b = codes(g)
    silent = a.tolil()
    silent[:, 0] = 0
    found = evidence(silent.tocsr(), b, *PAIRS, g)
    assert found.r[0] == 0
    assert found.r_low[0] == -1
    assert found.p[0] >= 0.5
    assert len(evidence(a, b, PAIRS[0][:0], PAIRS[1][:0], g).r) == 0
