"""Stand-ins on spaces whose map is known: where a cosine is chance, and what finds the partners."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.activations.moments import Moments
from suture.activations.null import random_rotation
from suture.matching.proxies import Judged, Weights, judge, scores

N, F, D = 6000, 40, 24


@pytest.fixture(scope="module")
def judged() -> dict[str, Judged]:
    """B is A turned; features are A's directions and, in another order, the same turned."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(F, D, generator=g), dim=1)
    codes = (torch.rand(N, F, generator=g) < 0.05) * (1 + torch.rand(N, F, generator=g))
    x = codes @ directions + 0.02 * torch.randn(N, D, generator=g)
    turn, order = random_rotation(D, seed=3), torch.randperm(F, generator=g)
    moments = Moments([D, D])
    moments.add(torch.cat([x, x @ turn], dim=1))
    a = Weights(encoder=directions, decoder=directions)
    b = Weights(encoder=(directions @ turn)[order], decoder=(directions @ turn)[order])
    noisy = codes[:, order] * (torch.rand(N, F, generator=g) < 0.9)
    halves = [slice(0, N // 2), slice(N // 2, N)]
    pairing, scoring = (tuple(csr_matrix(t[h].double().numpy()) for t in (codes, noisy)) for h in halves)
    return judge(scores(a, b, moments, (0, 1)), pairing, scoring)


def test_after_the_rotation_every_partner_is_found_and_before_it_none(judged: dict[str, Judged]) -> None:
    for name in ("procrustes_cosine", "mapped_cosine", "mapped_back_cosine", "mapped_encoder_cosine", "preactivation"):
        assert judged[name].hard_auc > 0.95, name
        assert judged[name].top1 > 0.9, name
        assert judged[name].reached > 0.9, name
    for name in ("decoder_cosine", "encoder_cosine"):
        assert judged[name].top1 < 0.2, name
        assert judged[name].reached < 0.3, name
    assert judged["preactivation"].n_features == F


def test_within_a_space_cosines_are_plain() -> None:
    g = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randn(7, 5, generator=g)

    moments = Moments([5])
    moments.add(torch.randn(200, 5, generator=g))
    a, b = Weights(encoder=draw(), decoder=draw()), Weights(encoder=draw(), decoder=draw())
    found = scores(a, b, moments, (0, 0))
    assert set(found) == {"decoder_cosine", "encoder_cosine", "preactivation"}
    expected = torch.nn.functional.cosine_similarity(a.decoder[:, None], b.decoder[None], dim=2)
    np.testing.assert_allclose(found["decoder_cosine"], expected, atol=1e-6)


def test_without_a_partner_there_is_nothing_to_judge() -> None:
    nothing = csr_matrix((10, 3))
    found = judge({"any": np.zeros((3, 3))}, (nothing, nothing), (nothing, nothing))["any"]
    assert found.n_features == 0
    assert np.isnan(found.hard_auc)
