"""Streamed moments are numpy's, and their ridge map scikit-learn's, between any spaces."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from suture.activations.moments import RIDGE, Moments
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

WIDTHS = (5, 3, 7)


def rows(n: int, seed: int) -> Tensor:
    """Correlated coordinates around a mean that holds nearly all of the norm."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(15, 15, generator=torch.Generator().manual_seed(0))
    return torch.randn(n, 15, generator=generator) @ mixing + 1000.0


def moments(x: Tensor) -> Moments:
    found = Moments(WIDTHS)
    for part in x.split(37):
        found.add(part)
    return found


def test_means_and_covariances_are_numpys() -> None:
    x = rows(400, 1)
    found, exact = moments(x), x.double().numpy()
    assert found.n_rows == 400
    assert np.allclose(found.mean().numpy(), exact.mean(0), rtol=1e-12)
    assert np.allclose(found.covariance().numpy(), np.cov(exact.T, bias=True), rtol=1e-10, atol=1e-10)
    assert np.allclose(found.mean([2, 0]).numpy(), exact.mean(0)[[*range(8, 15), *range(5)]], rtol=1e-12)
    assert torch.equal(found.covariance(1, [0, 2]), found.covariance()[5:8][:, [*range(5), *range(8, 15)]])


@pytest.mark.parametrize(("source", "target"), [(0, 1), (2, 0), ([0, 1], 2), (1, [0, 2]), ([2, 0], [1])])
@pytest.mark.parametrize("penalty", [RIDGE, 0.1])
def test_the_map_is_scikit_learns_ridge(source: int | list[int], target: int | list[int], penalty: float) -> None:
    fit, other = rows(400, 1), rows(300, 2)
    found = moments(fit)
    a, b = (fit.double()[:, found.columns(s)].numpy() for s in (source, target))
    ridge = Ridge(alpha=penalty * a.var(0).mean() * len(a)).fit(a, b)
    fitted = found.affine(source, target, penalty=penalty)
    x, y = (other.double()[:, found.columns(s)] for s in (source, target))
    assert np.allclose(fitted(x).numpy(), ridge.predict(x.numpy()), atol=1e-6)
    expected = r2_score(y.numpy(), ridge.predict(x.numpy()), multioutput="variance_weighted")
    assert moments(other).explained(fitted, source, target) == pytest.approx(expected, abs=1e-6)


def test_a_stores_rows_are_summed_in_scaled_units(tmp_path: Path) -> None:
    settings = PlantedSettings(widths=(6, 4), n_concepts=10, mean_active=2.0)
    store = planted_store(tmp_path / "store", settings, 500)
    chosen = torch.arange(100, 400)
    scaled = torch.cat([a * s.scale for a, s in zip(store.read(chosen), store.spaces, strict=True)], dim=1)
    found = Moments.of_store(store, chosen)
    assert found.widths == (6, 4)
    assert torch.allclose(found.mean(), scaled.double().mean(0))
    assert torch.allclose(found.covariance(), torch.cov(scaled.double().T, correction=0))
