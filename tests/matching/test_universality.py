"""Three planted models whose dictionaries are the truth with noise: families are the concepts they share, no more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.matching.settings import FamilySettings
from suture.matching.universality import Together, Universality, universality
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.report.page import report

PLANTED = PlantedSettings(widths=(56, 64, 72), n_concepts=48, mean_active=3.0, rows_per_document=20, seed=5)


def truth(path: Path, store: Store, model: int, *, seed: int, order: np.ndarray | None = None) -> Path:
    """A planted model's concepts as a dictionary, a little off, in a given order."""
    directions = PlantedModels(PLANTED).directions(model).float()
    if order is not None:
        directions = directions[torch.from_numpy(order)]
    space = replace(store.spaces[model], mean=None)
    n = len(directions)
    dictionary = Dictionary([space], Design(kind="sae", n_features=n, sparsity=Sparsity(kind="topk", k=4)))
    noise = torch.randn(directions.shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    W = directions + noise * directions.norm(dim=1, keepdim=True).clamp_min(1e-6)
    mean = store.spaces[model].mean
    assert mean is not None
    for own, values in ((dictionary.W_enc, W), (dictionary.W_dec, W)):
        own.data.copy_(values)
    dictionary.center.copy_(mean * space.scale)
    dictionary.b_dec.data.copy_(mean * space.scale)
    dictionary.save(path)
    return path


ORDER = np.random.default_rng(0).permutation(48)[:45]
"""Of the concepts in the second model's dictionary, which lacks three."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted_store(tmp_path_factory.mktemp("families") / "store", PLANTED, 14_000)


@pytest.fixture(scope="module")
def paths(store: Store) -> list[Path]:
    folder = store.path.parent
    orders = (None, ORDER, None)
    return [truth(folder / f"d{m}", store, m, seed=m, order=orders[m]) for m in range(3)]


@pytest.fixture(scope="module")
def found(store: Store, paths: list[Path]) -> Universality:
    folder = store.path.parent
    orders = (None, ORDER, None)
    twins = [truth(folder / f"t{m}", store, m, seed=10 + m, order=orders[m]) for m in range(3)]
    return universality(folder / "families", paths, store, twins=twins)


def test_families_are_the_concepts_that_models_share(found: Universality) -> None:
    labels = np.array(PlantedModels(PLANTED).labels())
    member = found.families["member"].astype(int)
    whole = member[(member >= 0).all(1)]
    back = np.full(48, -9)  # where a concept lies in the second dictionary
    back[ORDER] = np.arange(45)
    assert len(whole) > 10
    assert (whole[:, 1] == back[whole[:, 0]]).all(), "no family mixes concepts"
    assert (whole[:, 2] == whole[:, 0]).all()
    assert set(labels[whole[:, 0]]) == {"shared"}
    assert len(whole) >= 0.9 * (labels[ORDER] == "shared").sum()
    for one, two in ((0, 1), (0, 2), (1, 2)):
        pair = member[(member[:, one] >= 0) & (member[:, two] >= 0) & ((member >= 0).sum(1) == 2)]
        concepts = pair[:, one] if one == 0 else ORDER[pair[:, one]]
        assert not set(labels[concepts]) & {"A", "B", "C"}


def test_shares_have_intervals_and_a_ceiling(found: Universality) -> None:
    labels = PlantedModels(PLANTED).labels()
    expected = sum(labels[i] == "shared" for i in ORDER) / sum("A" in label or label == "shared" for label in labels)
    one = found.summary.dictionaries[0]
    low, high = one.in_all_interval
    assert low <= one.in_all <= high
    assert one.in_all <= one.in_most <= one.in_another
    assert one.in_all == pytest.approx(expected, abs=0.12)
    assert one.ceiling is not None
    assert one.ceiling > 0.9
    assert one.in_another < one.ceiling, "what one model alone has is not found elsewhere"
    assert sum(found.summary.sizes) == len(found.families)
    assert "are found in all 3 dictionaries" in found.summary.sentences[0]


def test_the_interval_is_the_jackknifes_over_groups_of_documents() -> None:
    families = np.array([[0, 0], [1, 1], [2, 2]])
    left_out = [np.where(np.arange(3)[:, None] < n, families, -1) for n in (3, 3, 2, 1)]
    nothing = np.zeros((3, 2, 2))
    asked = [np.array([True] * 3 + [True, False]), np.ones(3, dtype=bool)]
    made = Together(codes=[], asked=asked, families=families, r=nothing, r_ctx_low=nothing, without=left_out)
    value, (low, high) = made.share(0, 2)
    assert value == 3 / 4
    shares = np.array([3, 3, 2, 1]) / 4
    reach = 3.182446 * np.sqrt(3 / 4 * ((shares - shares.mean()) ** 2).sum())
    assert low == pytest.approx(max(0, value - reach))
    assert high == min(1, value + reach)


def test_documents_left_out_change_what_is_confirmed(store: Store, paths: list[Path]) -> None:
    """At a bar in the middle of what pairs reach, some of them pass it by their documents' luck."""
    plain = universality(store.path.parent / "plain", paths, store)
    middle = float(np.median(plain.families["r_weakest"]))
    tight = universality(store.path.parent / "tight", paths, store, FamilySettings(bar=middle))
    low, high = tight.summary.dictionaries[0].in_all_interval
    assert low < tight.summary.dictionaries[0].in_all < high


def test_rows_that_do_not_belong_together_give_no_families(store: Store, paths: list[Path]) -> None:
    strict = universality(store.path.parent / "strict", paths, store, FamilySettings(beyond_token=0.999))
    assert len(strict.families) == 0
    assert strict.summary.dictionaries[0].in_another == 0
    assert Universality.load(store.path.parent / "strict").summary == strict.summary


def test_more_dictionaries_find_no_more_in_all(store: Store, paths: list[Path], found: Universality) -> None:
    two = universality(store.path.parent / "two", paths[:2], store)
    assert two.summary.dictionaries[0].in_all >= found.summary.dictionaries[0].in_all


def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_left(store: Store, paths: list[Path]) -> None:
    out = store.path.parent / "no"
    with pytest.raises(UserError, match="dictionary = 1: is too few to have something in common"):
        universality(out, paths[:1], store)
    with pytest.raises(UserError, match="are 2 for 3 dictionaries"):
        universality(out, paths, store, FamilySettings(space=(0, 0)))
    with pytest.raises(UserError, match="twins = 1: are not one for each dictionary"):
        universality(out, paths, store, twins=paths[:1])
    few = planted_store(store.path.parent / "few", PLANTED, 100)
    with pytest.raises(UserError, match="holds other rows than the store"):
        universality(out, paths, store, random=(paths[2], few))
    with pytest.raises(ArtifactError, match="is a dictionary"):
        Universality.load(paths[0])
    assert not out.exists()


def test_the_report_lists_families(found: Universality, tmp_path: Path) -> None:
    assert found.path is not None
    page = report(tmp_path / "r.html", [found.path]).read_text()
    assert 'id="universality"' in page
    assert "Families of 3 dictionaries" in page
    for one in found.summary.dictionaries:
        assert one.name in page
