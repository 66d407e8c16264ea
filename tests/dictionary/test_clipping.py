"""Outlier rows: a dictionary encodes those of any text as its training saw them."""

from pathlib import Path

import pytest
import torch

from suture.activations.settings import View
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.activations.view import seen
from suture.dictionary.clipping import Clipping
from suture.dictionary.dictionary import CLIPPING, Dictionary
from suture.dictionary.parts import take
from suture.dictionary.refit import copied
from suture.interventions.edits import solo_codes
from suture.pipeline.settings import from_flat
from suture.training.settings import TrainSettings
from suture.training.train import train

SINKS = torch.tensor([3, 77, 501])
VIEWS = {
    "both": View(),
    "turned": View(spaces=(1, 0)),
    "null": View(spaces=(0,), null=True, rotation_seed=0),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two spaces with an offset, three rows of the second, and one of the first, a hundred times as far out."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(800, width, generator=draw) + 2 for width in (6, 9)]
    rows[1][SINKS] += 300
    rows[0][SINKS[:1]] -= 200
    path = tmp_path_factory.mktemp("clipping") / "store"
    return write_store(path, rows, names=[("a", "x"), ("b", "x")], documents=torch.arange(800) // 8)


def trained(out: Path, store: Store, view: View, **options: object) -> Dictionary:
    flat = {"features": 24, "k": 3, "rows": 512, "batch_size": 64, **options}
    settings = from_flat(TrainSettings, flat)
    train(out, store, TrainSettings(**{**vars(settings), "view": view}))
    return Dictionary.load(out)


@pytest.mark.parametrize("name", VIEWS)
def test_raw_rows_are_drawn_in_as_the_view_of_training_draws_them_in(name: str, store: Store, tmp_path: Path) -> None:
    dictionary = trained(tmp_path / "dictionary", store, VIEWS[name])
    own = seen(store, VIEWS[name])
    untouched = seen(store, View(**{**vars(VIEWS[name]), "outliers": "keep"}))
    some = torch.arange(600)
    for m, space in enumerate(dictionary.spaces):
        raw, drawn_in = untouched.read_space(some, m), own.read_space(some, m)
        assert torch.allclose(dictionary.clipping.rows(raw, m), drawn_in, atol=1e-3)
        assert torch.allclose(dictionary.clipping.rows(drawn_in, m), drawn_in, atol=1e-4), "twice is once"
        far = (raw - drawn_in).norm(dim=1) > 1
        assert set(far.nonzero().flatten().tolist()) in ({3}, {3, 77, 501})
        codes = solo_codes(dictionary, m, raw, torch.arange(24))
        alone = torch.zeros(600, sum(dictionary.widths))
        alone[:, dictionary.columns(m)] = drawn_in * space.scale
        assert torch.allclose(codes, dictionary.encode_alone(alone, m).dense(), atol=1e-3)
    raws = untouched.read(some)
    assert dictionary.clipping.out(raws).nonzero().flatten().tolist() == ([3] if name == "null" else SINKS.tolist())
    assert torch.allclose(dictionary.scaled(raws), dictionary.scaled(own.read(some)), atol=1e-3)


def test_the_bounds_go_with_what_is_made_of_a_dictionary(store: Store, tmp_path: Path) -> None:
    dictionary = trained(tmp_path / "dictionary", store, View())
    raw = store.read(torch.arange(600))
    expected = dictionary.encode_raw(raw).dense()
    for made in (dictionary.fold(), copied(dictionary), take(dictionary, torch.arange(24))):
        assert torch.allclose(made.encode_raw(raw).dense(), expected, atol=1e-3)
    dictionary.clipping = Clipping.none(2)
    assert not torch.allclose(dictionary.encode_raw(raw).dense(), expected, atol=1)


def test_nothing_is_kept_where_nothing_was_drawn_in(store: Store, tmp_path: Path) -> None:
    trained(tmp_path / "clip", store, View())
    kept = trained(tmp_path / "keep", store, View(outliers="keep"))
    assert (tmp_path / "clip" / CLIPPING).is_file()
    assert not (tmp_path / "keep" / CLIPPING).exists()
    assert not kept.clipping
    raw = store.read_space(SINKS, 1)
    assert torch.equal(kept.clipping.rows(raw, 1), raw)
