"""Outlier rows and massive coordinates: found and named, kept, left out or drawn in; units are the typical rows'."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from suture.activations.null import random_rotation
from suture.activations.outliers import measure
from suture.activations.settings import MULTIPLE, View
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.activations.view import seen
from suture.errors import UserError

N_ROWS, SINKS = 4000, torch.arange(5, 4000, 400)


def _rows(size: float = 1500.0, *, offset: float = 0.0) -> list[Tensor]:
    """Two spaces; every 400th row of the first is a sink, one direction for all of them."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(N_ROWS, 16, generator=g), torch.randn(N_ROWS, 12, generator=g) * 0.5
    a[:, 3] *= 8.0
    sink = torch.nn.functional.normalize(torch.randn(16, generator=g), dim=0)
    a[SINKS] += size * 4.0 * sink
    return [a + offset, b + offset]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("sinks") / "store", _rows(), documents=torch.arange(N_ROWS) // 40)


def test_sinks_are_counted_and_their_part_of_the_variance_is_told(store: Store) -> None:
    assert store.extremes is not None
    a, b = store.extremes
    assert a.n_outliers == len(SINKS)
    assert b.n_outliers == 0
    assert a.outlier_share > 0.99
    assert a.tokens == ((".", len(SINKS)),)
    x = store.read(torch.arange(N_ROWS))[0].double()
    far = (x - x.mean(0)).square().sum(1)
    assert a.outlier_share == pytest.approx(float(far[SINKS].sum() / far.sum()), rel=1e-6)
    assert a.mean_share == pytest.approx(float(x.mean(0).square().sum() / x.square().sum(1).mean()), rel=1e-6)
    variance = x.var(0, correction=0).sort(descending=True).values
    expected = [float(variance[:n].sum() / variance.sum()) for n in (1, 3, 10)]
    assert a.coordinate_shares == pytest.approx(expected, rel=1e-6)


def test_the_centre_is_that_of_typical_rows_however_far_the_sinks_lie(store: Store) -> None:
    assert store.extremes is not None
    typical = torch.ones(N_ROWS, dtype=torch.bool)
    typical[SINKS] = False
    x = store.read(torch.arange(N_ROWS))[0][typical]
    own = store.extremes[0]
    assert torch.allclose(own.centre, x.mean(0), atol=1e-4)
    assert own.spread == pytest.approx(float((x - x.mean(0)).square().sum(1).mean().sqrt()), rel=1e-5)
    assert float(store.spaces[0].known_mean.norm()) > 2 * own.median  # all rows' mean lies far out


def test_a_massive_coordinate_and_a_mean_that_holds_nearly_all_are_told(tmp_path: Path) -> None:
    far = write_store(tmp_path / "far", _rows(0.0, offset=50.0))
    assert far.extremes is not None
    assert far.extremes[0].coordinate_shares[0] == pytest.approx(64 / 79, abs=0.03)
    assert far.extremes[0].mean_share > 0.99
    assert "the mean holds" in far.remarks[0]
    assert "1 coordinate holds 8" in far.remarks[0]
    quiet = write_store(tmp_path / "quiet", [torch.randn(500, 64), torch.randn(500, 64)])
    assert quiet.remarks == []


def test_opened_again_it_is_known(store: Store) -> None:
    again = Store.open(store.path)
    assert again.extremes == store.extremes
    assert again.extremes is not None
    assert store.extremes is not None
    assert torch.equal(again.extremes[0].centre, store.extremes[0].centre)
    assert again.remarks == store.remarks
    assert (
        f"{len(SINKS)} rows above {MULTIPLE:g} times the median norm hold 100% of the variance ('.'" in store.remarks[0]
    )


def test_left_out_they_are_gone_from_every_space(store: Store) -> None:
    view = seen(store, View(outliers="drop"))
    assert len(view) == N_ROWS - len(SINKS)
    kept = torch.ones(N_ROWS, dtype=torch.bool)
    kept[SINKS] = False
    rows = torch.tensor([700, 3, 3989, 3])
    base = kept.nonzero().flatten()[rows]
    for found, whole in zip(view.read(rows), store.read(base), strict=True):
        assert torch.equal(found, whole)
    assert torch.equal(view.documents, store.documents[kept])
    assert torch.equal(view.ends, store.ends[kept])
    assert torch.equal(view.token_ids, store.token_ids[kept])
    assert [text for text, _ in view.row_context(5, before=1, after=1)] == [
        ".",
        "..",
        ".",
    ]  # the dropped one's text too
    for space, values in zip(view.spaces, view.read(torch.arange(len(view))), strict=True):
        centred = (values - values.mean(0)) * space.scale
        assert float(centred.square().sum(1).mean()) == pytest.approx(space.width, rel=1e-3)


def test_clipped_they_lie_at_ten_medians_and_others_stay(store: Store) -> None:
    view = seen(store, View(outliers="clip"))
    assert store.extremes is not None
    assert len(view) == N_ROWS
    everything = torch.arange(N_ROWS)
    (a, b), (clipped, same) = store.read(everything), view.read(everything)
    own = store.extremes[0]
    assert torch.equal(same, b)
    typical = torch.ones(N_ROWS, dtype=torch.bool)
    typical[SINKS] = False
    assert torch.equal(clipped[typical], a[typical])
    length = (clipped[SINKS] - own.centre).norm(dim=1)
    assert torch.allclose(length, torch.full_like(length, MULTIPLE * own.median), rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(clipped[SINKS] - own.centre, a[SINKS] - own.centre)
    assert float(cosine.min()) > 1 - 1e-5


@pytest.mark.parametrize("treatment", ["drop", "clip"])
def test_a_null_of_such_a_view_is_the_view_rotated(store: Store, treatment: str) -> None:
    settings = View(spaces=(0,), null=True, rotation_seed=4, outliers=treatment)  # pyright: ignore[reportArgumentType]
    view = seen(store, settings)
    own, copy = view.read(torch.arange(len(view)))
    assert torch.allclose(own @ random_rotation(16, seed=4), copy, atol=1e-3)
    assert view.spaces[0].scale == view.spaces[1].scale
    centre, median = view.typical(1) or (torch.zeros(16), 0.0)
    assert float((copy - centre).norm(dim=1).median()) == pytest.approx(median, rel=0.01)


def test_sinks_far_beyond_change_nothing_that_is_said_of_the_rest(tmp_path: Path) -> None:
    """The law: once clipped or left out, it does not matter how large the sinks were."""
    near, far = (write_store(tmp_path / str(size), _rows(size)) for size in (1000.0, 15_000.0))
    for treatment in ("drop", "clip"):
        one, other = (seen(s, View(outliers=treatment)) for s in (near, far))  # pyright: ignore[reportArgumentType]
        for a, b in zip(one.spaces, other.spaces, strict=True):
            assert a.scale == pytest.approx(b.scale, rel=1e-4)
        for a, b in zip(*(view.read(torch.arange(0, len(view), 7)) for view in (one, other)), strict=True):
            # the direction of a sink shows a little of the row that it hides
            assert torch.allclose(a, b, atol=1.5 if treatment == "clip" else 1e-5)


def test_an_older_store_is_measured_when_asked(store: Store) -> None:
    old = replace(store, extremes=None)
    assert old.remarks == []
    assert len(seen(old, View(outliers="drop"))) == N_ROWS - len(SINKS)
    assert measure(old) == store.extremes


def test_a_multiple_that_means_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="outlier-multiple"):
        View(outlier_multiple=1.0)


@pytest.mark.parametrize("known", ["none", "wrong", "right"])
@pytest.mark.parametrize("size", [0.0, 1500.0])
def test_what_is_measured_does_not_depend_on_the_mean_known_before_only_how_often_rows_are_read(
    known: str, size: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _rows(size, offset=3.0)
    store = write_store(tmp_path / "store", rows)
    assert store.extremes is not None
    if known != "right":
        wrong = [None if known == "none" else s.known_mean + 5.0 for s in store.spaces]
        store = replace(store, spaces=tuple(replace(s, mean=m) for s, m in zip(store.spaces, wrong, strict=True)))
    n_read: list[int] = []
    read = Store.read_space
    monkeypatch.setattr(Store, "read_space", lambda s, r, m: n_read.append(len(r) if m == 0 else 0) or read(s, r, m))
    found = measure(store)
    n_outliers = len(SINKS) if size else 0
    assert sum(n_read) - 2 * n_outliers == N_ROWS * (1 + (known != "right") + (n_outliers > 0))
    assert store.extremes is not None
    for own, first, x in zip(found, store.extremes, rows, strict=True):
        assert own.n_outliers == first.n_outliers
        assert own.median == pytest.approx(first.median, rel=1e-4)
        assert own.spread == pytest.approx(first.spread, rel=1e-4)
        assert torch.allclose(own.centre, first.centre, atol=1e-4)
        assert own.mean_share == pytest.approx(
            float(x.double().mean(0).square().sum() / x.double().square().sum(1).mean()), rel=1e-4
        )
        assert own.outlier_share == pytest.approx(first.outlier_share, rel=1e-4, abs=1e-9)
