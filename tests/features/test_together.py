"""Co-firing of two codes: numpy's correlation, an interval that holds it, p-values that mean what they say."""

import numpy as np
import pytest
import torch

from suture.dictionary.codes import Codes
from suture.features.together import Together

N_DOCUMENTS, PER_DOCUMENT = 60, 40


def _pair(rng: np.random.Generator, n_features: int, shared: float) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Two codes whose common part varies from document to document, and the documents."""
    n = N_DOCUMENTS * PER_DOCUMENT
    document = np.repeat(np.arange(N_DOCUMENTS), PER_DOCUMENT)
    level = np.exp(0.8 * rng.standard_normal((N_DOCUMENTS, n_features)))[document]

    def draw() -> np.ndarray:
        return level * rng.exponential(size=(n, n_features)) * (rng.random((n, n_features)) < 0.1)

    common = draw()
    f, g = (shared * common + (1 - shared) * draw() for _ in range(2))
    return f, g, torch.from_numpy(document)


def _together(*codes: np.ndarray, group: torch.Tensor) -> Together:
    return Together.of([Codes.from_dense(torch.from_numpy(c)) for c in codes], group, int(group.max()) + 1)


def test_the_correlation_is_numpys_whatever_the_groups() -> None:
    f, g, document = _pair(np.random.default_rng(0), 7, 0.5)
    reference = [np.corrcoef(f[:, i], g[:, i])[0, 1] for i in range(7)]
    for group in (document, document % 5):
        np.testing.assert_allclose(_together(f, g, group=group).correlation[0].numpy(), reference, atol=1e-6)


def test_every_pair_of_three_models() -> None:
    f, g, document = _pair(np.random.default_rng(1), 3, 0.9)
    found = _together(f, g, f, group=document)
    assert found.pairs == ((0, 1), (0, 2), (1, 2))
    assert found.correlation[1].numpy() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(found.correlation[0], found.correlation[2])


def test_the_interval_holds_the_correlation_of_endless_text() -> None:
    rng = np.random.default_rng(2)
    f, g, document = _pair(rng, 300, 0.5)
    large = [_pair(np.random.default_rng(100 + i), 300, 0.5)[:2] for i in range(4)]
    truth = np.corrcoef(np.concatenate([a.ravel() for a, _ in large]), np.concatenate([b.ravel() for _, b in large]))[
        0, 1
    ]  # the features are alike
    low, high = _together(f, g, group=document).interval()
    covered = ((low[0].numpy() <= truth) & (truth <= high[0].numpy())).mean()
    assert 0.88 <= covered <= 0.99
    p_apart, p_together = _together(f, g, group=document).tests(float(truth))
    for p in (p_apart, p_together):
        assert float((p < 0.05).double().mean()) < 0.11


def test_codes_that_share_nothing_are_apart_and_equal_ones_together() -> None:
    rng = np.random.default_rng(3)
    f, g, document = _pair(rng, 20, 0.0)
    silent = np.zeros_like(f)
    p_apart, p_together = _together(f, rng.permutation(g), group=document).tests(0.3)
    assert float(p_apart.max()) < 0.01
    assert float(p_together.min()) > 0.99
    p_apart, p_together = _together(f, f, group=document).tests(0.3)
    assert float(p_together.max()) < 1e-6
    assert float(p_apart.min()) > 1 - 1e-6
    one = _together(f, silent, group=document)
    assert one.correlation.tolist() == [[0.0] * 20]
    assert float(one.tests(0.3)[0].max()) == 0
    neither = _together(silent, silent, group=document)
    assert bool(neither.correlation.isnan().all())
    for p in neither.tests(0.3):
        assert float(p.min()) == 1
