"""Measures of likeness against closed forms, planted rotations and noise, and independent computations."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from suture.activations.null import random_rotation
from suture.matching import similarity
from suture.matching.similarity import (
    cka,
    documents_dealt,
    even_rows,
    legacy_svcca,
    mutual_knn,
    procrustes,
    pwcca,
    rsa,
    svcca,
    within_tokens,
)

ALL = (cka, mutual_knn, rsa, svcca, pwcca, procrustes)


def normal(n: int, width: int, seed: int) -> Tensor:
    scale = torch.linspace(2, 0.5, width)
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("measure", ALL, ids=lambda m: m.__name__)
def test_a_turned_and_scaled_copy_is_all_alike(measure) -> None:
    x = normal(200, 12, 0)
    assert measure(x, 3 * x @ random_rotation(12, seed=1) + 5) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("measure", [cka, mutual_knn, rsa], ids=lambda m: m.__name__)
def test_noise_is_nothing_to_measures_without_bias(measure) -> None:
    assert abs(measure(normal(300, 60, 0), normal(300, 80, 1))) < 0.06


def test_svcca_of_noise_is_far_from_nothing_and_rises_with_the_width() -> None:
    narrow, wide = (svcca(normal(600, w, 0), normal(600, w, 1)) for w in (20, 150))
    assert wide > narrow > 0.1
    assert wide > 0.4


def test_cka_is_the_unbiased_hsic_over_its_roots() -> None:
    """By the definition of HSIC_1 (Song et al. 2012) from raw inner products."""
    x, y = normal(40, 5, 0).double(), (normal(40, 7, 1) + 0.5 * normal(40, 5, 0).mean(1, keepdim=True)).double()

    def hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
        n, one = len(k), torch.ones(len(k), dtype=torch.float64)
        k, l = k.clone().fill_diagonal_(0), l.clone().fill_diagonal_(0)  # noqa: E741
        inner = torch.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
        return float(inner / (n * (n - 3)))

    k, l = x @ x.T, y @ y.T  # noqa: E741
    assert cka(x, y) == pytest.approx(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)), abs=1e-12)


def test_neighbours_are_those_of_sklearn() -> None:
    x, y = normal(120, 6, 0), normal(120, 6, 0) + 0.8 * normal(120, 6, 1)
    lists = []
    for t in (x, y):
        centred = (t - t.mean(0)).double().numpy()
        lists.append(NearestNeighbors(n_neighbors=6, metric="cosine").fit(centred).kneighbors(centred)[1][:, 1:])
    both = np.mean([len(set(p) & set(q)) / 5 for p, q in zip(*lists, strict=True)])
    assert mutual_knn(x, y, k=5) == pytest.approx(both)


def test_rows_of_one_token_are_no_neighbours() -> None:
    tokens = torch.arange(120) % 30
    rows = similarity.neighbours(normal(30, 5, 0)[tokens] + 0.01 * normal(120, 5, 1), k=3, tokens=tokens)
    assert (tokens[rows] != tokens[:, None]).all()


def test_rsa_is_spearman_of_scipys_distances() -> None:
    x, y = normal(60, 6, 0), normal(60, 6, 0) + normal(60, 6, 1)
    distances = [pdist((t - t.mean(0)).double().numpy(), "cosine") for t in (x, y)]
    assert rsa(x, y) == pytest.approx(spearmanr(*distances).statistic, abs=1e-9)


def test_svcca_of_all_directions_is_the_mean_of_sklearns_cca() -> None:
    x, y = normal(300, 4, 0), normal(300, 5, 1)
    y[:, :2] += 2 * x[:, :2]
    fitted = CCA(n_components=4, scale=False, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    expected = np.mean([np.corrcoef(fitted[0][:, i], fitted[1][:, i])[0, 1] for i in range(4)])
    assert svcca(x, y, variance=1.0) == pytest.approx(expected, abs=1e-3)


def test_the_published_svcca_sees_one_component() -> None:
    x = normal(400, 10, 0)
    x[:, 0] *= 4
    y = normal(400, 10, 1)
    y[:, 3] = x[:, 0]
    assert legacy_svcca(x, y) > 0.99
    assert svcca(x, y) < 0.9


def test_procrustes_is_what_the_best_rotation_reaches() -> None:
    x, y = normal(100, 5, 0).double(), normal(100, 5, 0).double() + 0.5 * normal(100, 5, 1).double()
    x, y = x - x.mean(0), y - y.mean(0)
    turn, scale = orthogonal_procrustes(x.numpy(), y.numpy())
    assert procrustes(x, y) == pytest.approx(scale / float(x.norm() * y.norm()), abs=1e-10)
    assert torch.trace((x @ torch.from_numpy(turn)).T @ y) == pytest.approx(scale)


def test_pwcca_weighs_by_what_the_first_matrix_carries() -> None:
    x, y = normal(500, 6, 0), normal(500, 6, 1)
    x[:, 0] *= 10
    y[:, 0] = x[:, 0]
    assert pwcca(x, y) > svcca(x, y, variance=0.999) + 0.1


def test_nulls_move_rows_as_they_say() -> None:
    generator = np.random.default_rng(0)
    documents = torch.arange(40) // 5
    moved = documents_dealt(documents, generator)
    assert sorted(moved.tolist()) == list(range(40))
    assert (documents[moved].view(8, 5) == documents[moved].view(8, 5)[:, :1]).all()
    assert (moved.view(8, 5).diff(dim=1) == 1).all()
    assert (moved != torch.arange(40)).any()
    uneven = torch.tensor([0, 0, 0, 2, 5, 5, 5, 5])
    assert even_rows(uneven, 3).tolist() == [0, 1, 2, 4, 5, 6]
    tokens = torch.arange(40) % 7
    dealt = within_tokens(tokens, generator)
    assert (tokens[dealt] == tokens).all()
    assert sorted(dealt.tolist()) == list(range(40))
    assert (dealt != torch.arange(40)).any()


def test_rows_without_neighbours_of_another_token_share_none() -> None:
    x, y = normal(30, 4, 0), normal(30, 5, 1)
    assert mutual_knn(x, y, tokens=torch.zeros(30, dtype=torch.long)) == 0
    nearly = torch.zeros(30, dtype=torch.long)
    nearly[:3] = 1  # these have 27 others, of which ten count; the others have three
    found = similarity.neighbours(x, tokens=nearly)
    assert (found >= 0).sum(1).tolist() == [10] * 3 + [3] * 27
    assert mutual_knn(x, x, tokens=nearly) == 1
