"""Known pairs in real rows: each relation is what it says, and directions tell which feature stands for which."""

import pytest
import torch

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.planted.related import RelatedStore, add_related
from suture.planted.settings import PlantedSettings
from suture.planted.spike_settings import RelatedSettings
from suture.planted.store import planted_store

SETTINGS = RelatedSettings(n_pairs=3, related_rate=0.02)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = PlantedSettings(widths=(12, 16), n_concepts=20, mean_active=2.0)
    return planted_store(tmp_path_factory.mktemp("real") / "store", settings, 5000)


@pytest.fixture(scope="module")
def related(store: Store, tmp_path_factory: pytest.TempPathFactory) -> RelatedStore:
    return add_related(tmp_path_factory.mktemp("related") / "store", store, SETTINGS)


def test_each_relation_is_what_it_says(related: RelatedStore) -> None:
    assert [p.relation for p in related.pairs] == [r for r in SETTINGS.relations for _ in range(3)]
    for pair in related.pairs:
        own, *others = (set(rows.tolist()) for rows in pair.rows)
        assert len(own) == 100
        assert len(pair.partners) == len(others)
        common = [len(own & other) for other in others]
        sizes = [len(other) for other in others]
        expected = {
            "shared": ([100], [100]),
            "half": ([50], [100]),
            "super": ([100], [400]),
            "split": ([50, 50], [50, 50]),
            "exclusive": ([], []),
        }
        assert (common, sizes) == expected[pair.relation]
        if pair.relation == "split":
            assert not others[0] & others[1]


def test_rows_are_the_stores_plus_the_known_pairs(store: Store, related: RelatedStore) -> None:
    everything = torch.arange(len(store))
    for m, (before, after) in enumerate(zip(store.read(everything), related.store.read(everything), strict=True)):
        touched = torch.zeros(len(store), dtype=torch.bool)
        for pair in related.pairs:
            for rows in pair.rows[:1] if m == 0 else pair.rows[1:]:
                touched[rows] = True
        moved = (after - before).norm(dim=1) > 1e-6
        assert torch.equal(moved, touched)
    shared = next(p for p in related.pairs if p.relation == "shared")
    alone = [
        r
        for r in shared.rows[0].tolist()
        if not any(r in set(p.rows[0].tolist()) for p in related.pairs if p is not shared)
    ]
    before, after = store.read(torch.tensor(alone))[0], related.store.read(torch.tensor(alone))[0]
    along = (after - before) @ (shared.direction / shared.direction.norm())
    typical = (store.read(everything)[0] - store.read(everything)[0].mean(0)).norm(dim=1).median()
    assert float((along / typical).log().mean().exp()) == pytest.approx(0.6, rel=0.15)


def test_what_is_said_is_of_the_feature_that_stands_for_the_known_one(related: RelatedStore) -> None:
    dictionary = Dictionary(
        [related.store.spaces[0]], Design(kind="sae", n_features=len(related.pairs) + 4, sparsity=Sparsity(k=3))
    )
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(dictionary.W_dec.shape, generator=torch.Generator().manual_seed(0)) * 1e-3)
        for i, pair in enumerate(related.pairs[:-1]):
            dictionary.W_dec[i] = pair.direction
    said = related.called(dictionary, [f"kind {i}" for i in range(dictionary.n_features)])
    assert said[:-1] == tuple(f"kind {i}" for i in range(len(related.pairs) - 1))
    with torch.no_grad():
        dictionary.W_dec[:] = dictionary.W_dec[0]
    opposite = [p for p in related.pairs if float(p.direction @ related.pairs[0].direction) < 0]
    assert opposite
    said = dict(zip(map(id, related.pairs), related.called(dictionary, ["kind"] * dictionary.n_features), strict=True))
    assert all(said[id(pair)] == "not found" for pair in opposite)


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(UserError, match="relation"):
        RelatedSettings(relations=("shared", "shared"))
    with pytest.raises(UserError, match="pairs"):
        RelatedSettings(n_pairs=0)
