"""Grids of planted spaces: chance is held to its rate, the token is seen through, and twins are not told apart."""

import numpy as np
import pytest
import torch
from torch import Tensor

from suture.activations.null import random_rotation
from suture.matching.calibrate import CKA, KNN, MEASURES, RSA, SVCCA, Measure, grid

N, PER = 240, 8
DOCUMENTS, TOKENS = torch.arange(N) // PER, torch.arange(N) % 29


def draw(width: int, seed: int) -> Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed))


def by_document(width: int, seed: int) -> Tensor:
    """Rows of a document resemble each other."""
    return draw(width, seed) + 1.5 * draw(width, seed + 100)[DOCUMENTS]


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda m: m.name)
def test_shuffling_what_is_prepared_is_preparing_what_is_shuffled(measure: Measure) -> None:
    x, y = draw(6, 0), draw(7, 1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    alike = torch.zeros(N, dtype=torch.long) - torch.arange(N)  # every row a token of its own
    moved = measure.permute(measure.prepare(y, alike), order)
    own = measure.prepare(x, alike)
    assert measure.compare(own, moved) == pytest.approx(measure.compare(own, measure.prepare(y[order], alike)))


@pytest.mark.parametrize("measure", [CKA, KNN, RSA, SVCCA], ids=lambda m: m.name)
def test_a_rotated_copy_passes_and_unrelated_documents_do_not(measure: Measure) -> None:
    x = by_document(8, 0)
    near = x @ random_rotation(8, seed=1) + 0.5 * draw(8, 5)
    found = grid([x], [near, by_document(8, 3)], DOCUMENTS, TOKENS, measure, n_draws=19, n_halves=8)
    assert found.best == (0, 0)
    assert found.p[0, 0] == 0.05
    assert found.p[0, 1] > 0.05
    assert found.calibrated[0, 0] > 0
    assert found.not_told_apart.tolist() == [[True, False]]


def test_what_the_token_gives_is_seen() -> None:
    x = draw(8, 0)[TOKENS] + 0.1 * draw(8, 1)
    y = draw(8, 0)[TOKENS] @ random_rotation(8, seed=1) + 0.1 * draw(8, 2)
    found = grid([x], [y], DOCUMENTS, TOKENS, CKA, n_draws=10, n_halves=4)
    assert found.value[0, 0] > 0.9
    assert found.token[0, 0] > 0.95 * found.value[0, 0]
    beyond = grid([by_document(8, 0)], [by_document(8, 0)], DOCUMENTS, TOKENS, CKA, n_draws=10, n_halves=4)
    assert beyond.token[0, 0] < 0.2


def test_two_equally_good_layers_are_not_told_apart() -> None:
    x = by_document(8, 0)
    twins = [x + 0.7 * draw(8, seed) for seed in (11, 12)]
    found = grid([x], [*twins, x + 6 * draw(8, 13)], DOCUMENTS, TOKENS, CKA, n_draws=5, n_halves=20)
    assert found.not_told_apart.tolist() == [[True, True, False]]


def test_chance_reaches_the_bar_as_rarely_as_it_says() -> None:
    """Of grids of 2 x 2 spaces that have nothing in common, one in twenty has a cell of p 0.05; rows in runs."""
    passed = 0
    for seed in range(20):
        one, other = ([by_document(5, 1000 * seed + s + side) for s in range(2)] for side in (0, 500))
        found = grid(one, other, DOCUMENTS, TOKENS, CKA, n_draws=19, n_halves=2, seed=seed)
        passed += bool((found.p <= 0.05).any())
    assert passed <= 3
    assert np.isfinite(found.z).all()
