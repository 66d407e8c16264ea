"""Histograms and neighbours against the same from dense float64 codes, and from planted codes."""

from pathlib import Path

import pytest
import torch

from features.conftest import Case
from suture.dictionary.codes import Codes
from suture.features import details as details_module
from suture.features.details import (
    N_BINS,
    Details,
    details,
    fires_together,
    nearest_directions,
    value_histograms,
)


@pytest.fixture(scope="module")
def found(case: Case) -> Details:
    return details(case.dictionary, case.stats)


def test_every_value_is_counted_once_and_in_its_bin(case: Case, found: Details) -> None:
    _, _, _, f, solo = case.dense(case.rows)
    for counts, dense in zip(found.values, (f, *solo), strict=True):
        for i in range(f.shape[1]):
            top = max(float(one[:, i].max()) for one in (f, *solo))
            values = dense[:, i][dense[:, i] > 0]
            assert found.largest[i] == pytest.approx(top, rel=1e-5)
            assert int(counts[i].sum()) == len(values)
            for b in range(N_BINS):
                high, low = top * 2 ** (-b / 2), top * 2 ** (-(b + 1) / 2) if b < N_BINS - 1 else 0.0
                sure = int(((values > low * (1 + 1e-4)) & (values <= high * (1 - 1e-4))).sum())
                near = int(((values > low * (1 - 1e-4)) & (values <= high * (1 + 1e-4))).sum())
                assert sure <= int(counts[i, b]) <= near


def test_what_only_one_code_has_is_in_its_histogram_alone() -> None:
    one = Codes.from_dense(torch.tensor([[4.0, 0.0], [1.0, 0.0]]))
    other = Codes.from_dense(torch.tensor([[0.0, 0.0], [8.0, 0.0]]))
    largest, counts = value_histograms([one, other])
    assert largest.tolist() == [8.0, 0.0]
    assert counts[0, 0].nonzero()[:, 0].tolist() == [2, 6]  # a half and an eighth of the largest: one and three octaves
    assert counts[1, 0].nonzero()[:, 0].tolist() == [0]
    assert int(counts[:, 1].sum()) == 0


def test_nearest_directions_are_those_of_all_cosines(case: Case, found: Details) -> None:
    own = [case.dictionary.decoder(m).double() / case.stats.units[m].double() for m in range(2)]
    unit = torch.nn.functional.normalize(torch.cat(own, -1), dim=-1)
    cosine = unit @ unit.T
    alive = case.stats.joint.counts > 0
    each = [torch.nn.functional.normalize(one, dim=-1) for one in own]
    for i in range(len(unit)):
        expected = cosine[i].clone()
        expected[~alive] = -9
        expected[i] = -9
        n = int((found.nearest[i] >= 0).sum())
        assert n == min(8, int(alive.sum()) - int(alive[i]))
        assert found.cosine[i, :n].tolist() == pytest.approx(expected.topk(n).values.tolist(), abs=1e-5)
        for j, beside in zip(found.nearest[i, :n].tolist(), found.cosine_each[i, :n], strict=True):
            assert alive[j]
            assert j != i
            assert beside.tolist() == pytest.approx([float(d[i] @ d[j]) for d in each], abs=1e-5)


def test_dead_features_are_no_neighbours() -> None:
    decoder = torch.eye(3)
    decoder[1] = decoder[0]
    feature, _, _ = nearest_directions([decoder], torch.tensor([True, False, True]))
    assert 1 not in feature[0].tolist()
    assert 1 not in feature[2].tolist()
    assert 0 in feature[1].tolist()  # a dead one has living neighbours


@pytest.mark.parametrize("at_once", [2**22, 7])
def test_firing_together_is_the_correlation_of_firing(
    case: Case, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details_module, "CHUNK", at_once)
    feature, correlation, n_rows = fires_together(case.stats.joint)
    fires = (case.stats.joint.dense() > 0).double()
    assert n_rows == len(fires)
    phi = torch.corrcoef(fires.T)
    shared = fires.T @ fires
    for i in range(fires.shape[1]):
        expected = torch.where((shared[i] > 0) & phi[i].isfinite(), phi[i], -9)
        expected[i] = -9
        best = expected.topk(8).values
        n = int((best > -9).sum())
        assert correlation[i, :n].tolist() == pytest.approx(best[:n].tolist(), abs=1e-5)
        assert int((feature[i] >= 0).sum()) == n
        kept = feature[i, :n]
        assert phi[i, kept].tolist() == pytest.approx(correlation[i, :n].tolist(), abs=1e-5)


def test_many_pairs_are_counted_on_some_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    fires = torch.zeros(4000, 3)
    fires[::5, :2] = 1.0
    fires[::7, 2] = 1.0
    monkeypatch.setattr(details_module, "MAX_PAIRS", 1500)
    feature, correlation, n_rows = fires_together(Codes.from_dense(fires))
    assert n_rows < 2500
    assert feature[0, 0] == 1
    assert correlation[0, 0] == pytest.approx(1.0, abs=1e-6)


def test_a_folder_gives_back_what_was_written(found: Details, tmp_path: Path) -> None:
    assert Details.read(tmp_path) is None
    found.write(tmp_path)
    again = Details.read(tmp_path)
    assert again is not None
    assert torch.equal(again.values, found.values)
    assert torch.equal(again.nearest, found.nearest)
    assert torch.equal(again.correlation.nan_to_num(), found.correlation.nan_to_num())


def test_a_dictionary_that_never_fires_has_none_of_it() -> None:
    feature, _, n_rows = fires_together(Codes.from_dense(torch.zeros(5, 4)))
    assert n_rows == 5
    assert bool((feature == -1).all())
    largest, counts = value_histograms([Codes.from_dense(torch.zeros(5, 4))])
    assert not largest.any()
    assert not counts.any()
