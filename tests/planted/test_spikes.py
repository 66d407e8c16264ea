"""Known features in real rows: they are what they say, an oracle finds them all, and the limit is where half are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.planted.settings import PlantedSettings
from suture.planted.spike_settings import SpikeSettings
from suture.planted.spikes import Found, Spiked, add_spikes, detection_limit
from suture.planted.store import planted_store

SPIKES = SpikeSettings(strengths=(0.2, 0.8), n_each=3, rate=0.02, kinds=("random", "documents", "token"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    settings = PlantedSettings(widths=(12, 16), n_concepts=20, mean_active=2.0)
    return planted_store(tmp_path_factory.mktemp("real") / "store", settings, 6000)


@pytest.fixture(scope="module")
def spiked(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Spiked:
    return add_spikes(tmp_path_factory.mktemp("spiked") / "store", store, SPIKES)


def test_rows_are_the_stores_plus_the_known_features(store: Store, spiked: Spiked) -> None:
    assert len(spiked.spikes) == 2 * 3 * 3
    everything = torch.arange(len(store))
    for m, (before, after) in enumerate(zip(store.read(everything), spiked.store.read(everything), strict=True)):
        added = torch.zeros_like(before)
        for spike in spiked.spikes:
            added[spike.rows] += spike.values.unsqueeze(1) * spike.directions[m]
        assert torch.allclose(after - before, added, atol=1e-5)
    assert torch.equal(spiked.store.documents, store.documents)


def test_each_has_its_owners_strength_and_rate(store: Store, spiked: Spiked) -> None:
    values = [x - x.mean(0) for x in store.read(torch.arange(len(store)))]
    typical = [float(x.norm(dim=1).median()) for x in values]
    for spike in spiked.spikes:
        assert 0.002 < len(spike.rows) / len(store) < 0.06
        assert float(spike.values.log().mean().exp()) == pytest.approx(spike.strength, rel=0.25)
        for m, direction in enumerate(spike.directions):
            length = float(direction.norm())
            assert length == pytest.approx(typical[m] if m in spike.owners else 0.0, rel=1e-4)
        if spike.kind == "documents":
            documents = torch.unique(store.documents[spike.rows])
            assert len(documents) < 0.7 * len(torch.unique(store.documents))
        if spike.kind == "token":
            assert len(torch.unique(store.token_ids[spike.rows, 0])) == 1
    assert {s.kind for s in spiked.spikes} == {"random", "documents", "token"}
    assert [s.owners for s in spiked.spikes[:9:3]] == [(0,), (1,), (0, 1)]


def test_an_oracle_finds_all_and_a_stranger_none(spiked: Spiked) -> None:
    n = len(spiked.spikes)
    oracle = Dictionary(spiked.store.spaces, Design(n_features=n, sparsity=Sparsity(k=1)))
    for i, spike in enumerate(spiked.spikes):
        scaled = [d * s.scale for d, s in zip(spike.directions, oracle.spaces, strict=True)]
        oracle.W_dec.data[i] = torch.cat(scaled)
    labels = ["A" if s.owners == (0,) else "B" if s.owners == (1,) else "shared" for s in spiked.spikes]
    found = spiked.score(oracle, labels)
    assert all(f.right for f in found)
    assert [f.feature for f in found] == list(range(n))
    assert not any(f.right for f in spiked.score(oracle, ["ambiguous"] * n))
    assert not any(f.feature is not None for f in spiked.score(oracle, ["dead"] * n))
    one_sided = spiked.score(oracle, ["one-sided"] * n)
    assert {(f.kind, len(f.owners)) for f in one_sided if f.right} == {("token", 1)}, "its occasion is known to all"
    stranger = Dictionary(spiked.store.spaces, oracle.design)
    stranger.W_dec.data.copy_(torch.randn(oracle.W_dec.shape, generator=torch.Generator().manual_seed(3)))
    assert sum(f.right for f in spiked.score(stranger, labels)) <= 1


def _found(strength: float, *, right: bool, owners: tuple[int, ...] = (0,)) -> Found:
    return Found(strength=strength, kind="random", owners=owners, feature=None, cosine=0.0, label="", right=right)


def test_the_limit_is_the_strength_at_which_half_are_right() -> None:
    rng = np.random.default_rng(0)
    for limit in (0.2, 0.45):
        strengths = np.repeat([0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2], 12)
        chance = 1 / (1 + np.exp(-6 * (np.log(strengths) - np.log(limit))))
        found = [_found(float(s), right=bool(rng.random() < p)) for s, p in zip(strengths, chance, strict=True)]
        got = detection_limit(found, exclusive=True, n_spaces=2)
        assert got.strength == pytest.approx(limit, rel=0.25)
        assert got.low <= got.strength <= got.high
        assert got.n == len(found)


def test_what_is_never_or_always_right_has_a_limit_beyond_or_below_all() -> None:
    never = [_found(s, right=False) for s in (0.1, 0.3) for _ in range(4)]
    assert detection_limit(never, exclusive=True, n_spaces=2).strength == float("inf")
    always = [_found(s, right=True, owners=(0, 1)) for s in (0.1, 0.3) for _ in range(4)]
    faintest = detection_limit(always, exclusive=False, n_spaces=2)
    assert (faintest.strength, faintest.low, faintest.high) == (0.1, 0.1, 0.1), "of fainter ones nothing is known"


def test_refusals() -> None:
    with pytest.raises(UserError, match="rate"):
        replace(SPIKES, rate=0.7)
    with pytest.raises(UserError, match="strength = "):
        replace(SPIKES, strengths=())
