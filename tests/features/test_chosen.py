"""Chosen rows against dense float64 codes sorted plainly."""

import pytest
import torch

from features.conftest import Case, random_dictionary
from suture.activations.store import Store
from suture.errors import UserError
from suture.features import chosen
from suture.features.chosen import BANDS, drawn, strongest_in_store
from suture.features.examples import examples, search_store
from suture.features.settings import ChoiceSettings, ContextSettings


@pytest.mark.parametrize("n_rows", [1500, 700])
def test_the_strongest_rows_of_the_store_are_those_of_a_full_sort(
    case: Case, n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "BATCH_ROWS", 130)
    row, value = strongest_in_store(case.dictionary, case.store, n_top=3, n_rows=n_rows)
    _, _, _, f, _ = case.dense(torch.arange(n_rows))
    for i in range(f.shape[1]):
        expected = f[:, i].topk(3)
        active = int((expected.values > 0).sum())
        assert row[i, :active].tolist() == expected.indices[:active].tolist()
        assert value[i, :active].tolist() == pytest.approx(expected.values[:active].tolist(), rel=1e-5)
        assert bool((row[i, active:] == -1).all())


def test_drawn_rows_lie_in_their_band(case: Case) -> None:
    settings = ChoiceSettings(n_band=5, n_random=7)
    found = drawn(case.stats.joint, settings)
    f = case.stats.joint.dense().double()
    for i in range(f.shape[1]):
        active = f[:, i][f[:, i] > 0].sort().values
        for kind, (low, high) in BANDS.items():
            if len(active) == 0:
                assert found[kind][i].tolist() == [-1] * 5
                continue
            values = f[found[kind][i], i]
            assert bool((values >= active[int(low * len(active))]).all())
            assert bool((values <= active[min(int(high * len(active)), len(active) - 1)]).all())
        if len(active):
            assert bool((f[found["random"][i], i] > 0).all())
    again = drawn(case.stats.joint, settings)
    assert all(torch.equal(again[kind], rows) for kind, rows in found.items())


def test_examples_of_every_kind_and_none_twice_among_the_strongest(case: Case) -> None:
    choice = ChoiceSettings(n_store=4)
    elsewhere = search_store(case.dictionary, case.store, choice)
    assert elsewhere is not None
    found = examples(case.stats, case.store, ContextSettings(), choice=choice, elsewhere=elsewhere)
    _, _, _, f, solo = case.dense(torch.arange(1500))
    kinds = {e["kind"] for per_feature in found for e in per_feature}
    assert kinds == {"top", "store", "random", *BANDS}
    for i, per_feature in enumerate(found):
        strongest = [e["row"] for e in per_feature if e["kind"] in ("top", "store")]
        assert len(strongest) == len(set(strongest))
        wanted = f[:, i].topk(4)
        active = wanted.indices[wanted.values > 0].tolist()
        assert set(active) <= set(strongest)  # the true strongest are there, wherever they lie
        for e in per_feature:
            assert e["value"] == pytest.approx(float(f[e["row"], i]), rel=1e-3)
            for m, side in enumerate(e["sides"]):
                assert side["values"][side["peak"]] == pytest.approx(float(solo[m][e["row"], i]), rel=1e-3)
    assert search_store(case.dictionary, case.store, ChoiceSettings(n_searched=0)) is None


def test_a_pooled_dictionary_is_searched_too(planted: Store) -> None:
    dictionary = random_dictionary(planted, "pooled")
    row, value = strongest_in_store(dictionary, planted, n_top=2, n_rows=300)
    assert bool((value[:, 0] >= value[:, 1])[row[:, 1] >= 0].all())


def test_refusals() -> None:
    with pytest.raises(UserError, match="is negative"):
        ChoiceSettings(n_store=-1)
