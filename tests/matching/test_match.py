"""The stage on planted models whose dictionaries are the truth itself, with noise: what is shared is found, no more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.matching.match import Matching, match
from suture.matching.settings import MatchSettings
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.report.matching import coverage_figure
from suture.report.page import report

PLANTED = PlantedSettings(widths=(48, 64), n_concepts=40, mean_active=3.0, rows_per_document=20, seed=3)


def truth(path: Path, store: Store, model: int, *, seed: int, kind: str = "sae") -> Path:
    """A dictionary whose features are a planted model's concepts, a little off, in the order of the concepts."""
    planted = PlantedModels(PLANTED)
    space = replace(store.spaces[model], mean=None)
    dictionary = Dictionary([space], Design(kind=kind, n_features=40, sparsity=Sparsity(kind="topk", k=4)))  # pyright: ignore[reportArgumentType]
    directions = planted.directions(model).float()
    noise = torch.randn(directions.shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    W = directions + noise * directions.norm(dim=1, keepdim=True).clamp_min(1e-6)
    mean = store.spaces[model].mean
    assert mean is not None
    dictionary.W_enc.data.copy_(W)
    dictionary.W_dec.data.copy_(W)
    dictionary.center.copy_(mean * space.scale)
    dictionary.b_dec.data.copy_(mean * space.scale)
    dictionary.save(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted_store(tmp_path_factory.mktemp("match") / "store", PLANTED, 12_000)


@pytest.fixture(scope="module")
def paths(store: Store) -> dict[str, Path]:
    folder = store.path.parent
    given = {"a": (0, 1), "b": (1, 2), "a2": (0, 3), "b2": (1, 4)}
    return {name: truth(folder / name, store, m, seed=seed) for name, (m, seed) in given.items()}


@pytest.fixture(scope="module")
def found(store: Store, paths: dict[str, Path]) -> Matching:
    out = store.path.parent / "matching"
    return match(out, paths["a"], paths["b"], store, twins=(paths["a2"], paths["b2"]))


def test_shared_concepts_are_the_same_and_exclusive_ones_nothing(found: Matching) -> None:
    labels = np.array(PlantedModels(PLANTED).labels())
    kind, partner = found.features_a["kind"], found.features_a["partner"]
    asked = kind != "silent"
    shared = (labels == "shared") & asked
    assert shared.sum() > 15
    assert (partner[shared] == np.arange(40)[shared]).mean() > 0.95
    assert (kind[shared] == "same").mean() > 0.9
    assert not (kind[(labels == "A") & asked] == "same").any()
    assert found.summary.a.same == pytest.approx((kind[asked] == "same").mean())


def test_ceilings_and_substitution_stand_beside_it(found: Matching) -> None:
    one, two = found.summary.ceilings
    assert one.same > 0.9
    assert one.strong == one.same, "a ceiling has no second seed of its own"
    assert two.same > 0.9
    assert found.summary.substituted is not None
    assert found.summary.substituted > 0.6
    assert found.summary.substituted_by_chance is not None
    assert found.summary.substituted_by_chance < 0.1
    assert len(found.summary.statements) == 4, "none of the four was trained on this store"


def test_a_matching_is_what_was_saved(found: Matching, store: Store) -> None:
    again = Matching.load(store.path.parent / "matching")
    for one, two in ((found.features_a, again.features_a), (found.features_b, again.features_b)):
        assert one.columns == two.columns
        for name in one.values:
            np.testing.assert_array_equal(one[name], two[name])
    assert again.summary == found.summary
    assert "the same" in repr(again)
    a, b = again.pairs
    assert len(set(b.tolist())) == len(b) == len(a)


def test_a_dictionary_with_itself_is_said_to_be(store: Store, paths: dict[str, Path]) -> None:
    itself = match(store.path.parent / "itself", paths["a"], paths["a"], store)
    asked = itself.features_a["kind"] != "silent"
    assert itself.summary.a.same == 1
    assert (itself.features_a["partner"][asked] == np.arange(40)[asked]).all()
    assert "matched with itself" in itself.summary.statements[0]


def test_both_ways_agree_on_the_pairs(found: Matching) -> None:
    a, b = found.pairs
    other = found.features_b["one_to_one"]
    mutual = found.features_a["mutual"]
    back = found.features_b["mutual"]
    for i in np.flatnonzero(mutual >= 0):
        assert back[int(mutual[i])] == i
    assert (other[b] == a).mean() > 0.9


def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_left(store: Store, paths: dict[str, Path]) -> None:
    folder = store.path.parent
    few = planted_store(folder / "few", PLANTED, 100)
    with pytest.raises(UserError, match="has 5 documents that no dictionary was trained on"):
        match(folder / "no", paths["a"], paths["b"], few)
    with pytest.raises(UserError, match="space-a = 3"):
        match(folder / "no", paths["a"], paths["b"], store, MatchSettings(space_a=3))
    other = write_store(folder / "other", store.read(torch.arange(len(store)))[:1], documents=store.documents.long())
    with pytest.raises(UserError, match="has no space"):
        match(folder / "no", paths["a"], paths["b"], other)
    with pytest.raises(UserError, match="holds other rows than the store"):
        match(folder / "no", paths["a"], paths["b"], store, random=(paths["b"], few))
    with pytest.raises(ArtifactError, match="is a dictionary"):
        Matching.load(paths["a"])
    assert not (folder / "no").exists()
    assert not (folder / "no.partial").exists()


def test_the_report_shows_it_beside_its_ceilings(found: Matching, tmp_path: Path) -> None:
    assert found.path is not None
    page = report(tmp_path / "r.html", [found.path]).read_text()
    assert 'id="matching"' in page
    for shares in (found.summary.a, found.summary.b, *found.summary.ceilings):
        assert shares.against in page
    curve = coverage_figure(found)
    assert curve is not None
    assert [trace["name"] for trace in curve["data"]] == ["A", "B", "A, second seed", "B, second seed"]
    for trace, features in zip(curve["data"][:2], (found.features_a, found.features_b), strict=True):
        asked = features["kind"] != "silent"
        assert trace["x"][-1] == 1
        assert sorted(trace["y"], reverse=True) == trace["y"]
        half = next(y for x, y in zip(trace["x"], trace["y"], strict=True) if x >= 0.5)
        assert (features["r"][asked] >= half - 1e-3).mean() == pytest.approx(0.5, abs=0.06)
    assert "match-maps" in page


def test_maps_and_words_judge_nothing(found: Matching, store: Store, paths: dict[str, Path]) -> None:
    plain = match(store.path.parent / "plain", paths["a"], paths["b"], store, MatchSettings(maps="none", examples=0))
    assert np.isnan(plain.features_a["map_x"]).all()
    assert plain.examples is None
    other = match(store.path.parent / "laid", paths["a"], paths["b"], store)
    assert np.isfinite(other.features_b["map_y"]).all()
    assert other.groups is None, "planted rows have no text"
    for name in ("kind", "partner", "r", "r_ctx_low", "mixture", "declared"):
        np.testing.assert_array_equal(plain.features_a[name], other.features_a[name])
