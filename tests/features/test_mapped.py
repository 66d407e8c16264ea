"""A direction carried by the fitted map lands where scikit-learn's ridge carries it, and on the planted direction."""

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge

from features.conftest import Case, scaled
from suture.activations.moments import RIDGE, Moments
from suture.features.mapped import mapped_cosines
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store


def test_the_map_is_scikit_learns_ridge(case: Case) -> None:
    x = scaled(case.store, case.discovery)
    moments = Moments((6, 10))
    for part in x.split(100):
        moments.add(part)
    a, b = x.double().split([6, 10], dim=1)
    penalty = RIDGE * float(a.var(0, correction=0).mean()) * len(a)
    expected = Ridge(alpha=penalty).fit(a.numpy(), b.numpy()).coef_.T
    assert torch.allclose(moments.map(0, 1), torch.from_numpy(expected), atol=1e-5)
    carried = case.dictionary.decoder(0).double() @ torch.from_numpy(expected)
    cosine = torch.nn.functional.cosine_similarity(carried, case.dictionary.decoder(1).double(), dim=1)
    decoders = [case.dictionary.decoder(m) for m in range(2)]
    assert torch.allclose(mapped_cosines(moments, decoders)[0, 1], cosine, atol=1e-5)
    # the table's map is fitted to a part of these rows: the others choose a penalty
    assert torch.allclose(case.stats.mapped_cosine[0, 1], cosine, atol=0.05)


@pytest.mark.parametrize("embedding", ["rotation", "affine"])
def test_planted_directions_correspond_where_a_map_exists(tmp_path: Path, embedding: str) -> None:
    settings = PlantedSettings(widths=(16, 24), n_concepts=40, mean_active=3.0, exclusive=0.1, embedding=embedding)  # pyright: ignore[reportArgumentType]
    models = PlantedModels(settings)
    store = planted_store(tmp_path / "store", settings, 20_000)
    moments = Moments((16, 24))
    moments.add(scaled(store, torch.arange(20_000)))
    decoders = [models.directions(m) * store.spaces[m].scale for m in range(2)]
    cosine = mapped_cosines(moments, decoders)[0, 1]
    common = models.presence.all(dim=1)
    assert float(cosine[common].min()) > 0.7
    assert bool(cosine[~common].isnan().all())  # no direction in one of the models, so no cosine
    shuffled = [decoders[0], decoders[1].roll(1, dims=0)]
    assert float(mapped_cosines(moments, shuffled)[0, 1].nan_to_num().abs().mean()) < 0.3


def test_three_models_have_a_cosine_for_every_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, 4, generator=generator)
    turns = [torch.linalg.qr(torch.randn(4, 4, generator=generator))[0] for _ in range(3)]
    moments = Moments((4, 4, 4))
    moments.add(torch.cat([base @ turn for turn in turns], dim=1))
    cosines = mapped_cosines(moments, turns)
    assert set(cosines) == {(0, 1), (0, 2), (1, 2)}
    for cosine in cosines.values():
        assert torch.allclose(cosine, torch.ones(4).double(), atol=1e-3)
