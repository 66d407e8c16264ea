"""Layers of planted models: those that correspond are found, chance is not, and twins are not told apart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import suture
from suture.activations.null import random_rotation
from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.cli.app import run
from suture.errors import UserError
from suture.matching.layers import Layers, chosen_rows, layers
from suture.matching.settings import LayerSettings
from suture.report.page import report

N_DOCUMENTS, PER = 60, 6
SMALL = LayerSettings(measures=("cka", "mutual_knn"), n_rows=240, per_document=4, n_draws=19, n_halves=12)


def draw(width: int, seed: int) -> Tensor:
    """Rows of a document resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(N_DOCUMENTS * PER, width, generator=generator)
    return own + torch.randn(N_DOCUMENTS, width, generator=generator).repeat_interleave(PER, dim=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two layers of model b, the last, are a's first one under noise, turned and not; all others stand alone."""
    first, second = draw(12, 1), draw(10, 2)
    turned = first @ random_rotation(12, seed=0) + 0.3 * draw(12, 3)
    spaces = [first, second, draw(12, 4), turned, first + 0.3 * draw(12, 5)]
    names = [
        ("a", "resid0.post"),
        ("a", "resid1.post"),
        ("b", "resid0.post"),
        ("b", "resid1.post"),
        ("b", "resid2.post"),
    ]
    documents = torch.arange(N_DOCUMENTS).repeat_interleave(PER)
    return write_store(tmp_path_factory.mktemp("layers") / "s", spaces, names=names, documents=documents)


def test_what_corresponds_is_found_and_its_twin_is_not_told_apart(store: Store, tmp_path: Path) -> None:
    found = layers(tmp_path / "l", store, SMALL)
    for best in found.best:
        assert best.one == "resid0.post"
        assert {best.other, *(other for _, other in best.not_told_apart)} == {"resid1.post", "resid2.post"}
        assert {one for one, _ in best.not_told_apart} == {"resid0.post"}
        assert best.value > best.bar
        assert best.random is None
        assert "1 of 5 other pairs are not told apart" in best.sentence
    table = found.table
    assert table.shape == (2, 3)
    assert (table["cka_p"][0, 1:] == 0.05).all()
    assert (table["cka"][1] < found.best[0].bar).all(), "the second layer of a is nothing of b's"
    assert found.n_rows == 240
    assert found.n_documents == 60


def test_it_is_saved_and_read_back_and_has_ways_out(store: Store, tmp_path: Path) -> None:
    found = suture.layers(tmp_path / "l", store.path, SMALL)
    again = Layers.load(tmp_path / "l")
    assert again.best == found.best
    assert again.sentences == found.sentences
    for name, values in found.table.values.items():
        assert np.array_equal(values, again.table[name], equal_nan=True)
    frame = again.to_pandas()
    assert list(frame["one"]) == ["resid0.post"] * 3 + ["resid1.post"] * 3
    assert "cka_calibrated" in frame
    assert "resid0.post" in repr(again)
    page = report(tmp_path / "r.html", [tmp_path / "l"]).read_text()
    assert 'id="layers"' in page
    assert page.count("\u2605") == 2, "one in each map"
    assert "mutual k-NN of every pair of layers" in page


def test_random_weights_stand_beside(store: Store, tmp_path: Path) -> None:
    """Here a store in whose second model nothing is left."""
    width = [space.width for space in store.spaces]
    rows = torch.arange(len(store))
    spaces = [store.read_space(rows, m) if m < 2 else draw(width[m], 50 + m) for m in range(5)]
    names = [(space.model, space.hookpoint) for space in store.spaces]
    random = write_store(tmp_path / "random", spaces, names=names, documents=store.documents.long())
    found = layers(tmp_path / "l", store, SMALL, random=random)
    for best in found.best:
        assert best.random is not None
        assert best.random < best.bar * 1.5
        assert best.random < best.value / 2
    assert "cka_random" in found.table.values
    assert "random weights" in found.best[0].sentence


def test_rows_are_as_many_of_every_document_and_documents_spread() -> None:
    documents = torch.tensor([0] * 3 + [1] * 9 + [2] * 8 + [n for n in range(3, 103) for _ in range(8)])
    rows = chosen_rows(documents, LayerSettings(n_rows=320, per_document=8))
    chosen, counts = documents[rows].unique(return_counts=True)
    assert counts.tolist() == [8] * 40
    assert chosen[0] == 1
    assert chosen[-1] == 102


def test_mistakes_are_refused_in_one_line(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="holds 1 model"):
        layers(tmp_path / "l", store, LayerSettings(space=(0, 1)))
    with pytest.raises(UserError, match="per-document = 7: 0 documents have so many rows"):
        layers(tmp_path / "l", store, LayerSettings(per_document=7))
    with pytest.raises(UserError, match="measure"):
        LayerSettings(measures=("cka", "cka"))
    assert not (tmp_path / "l").exists()
    command = ["study", "layers", str(store.path), "--out", str(tmp_path / "l")]
    assert run([*command, "--measure", "cosine"]) == 2
    assert "measure" in capsys.readouterr().err
    assert run([*command, "--measure", "cka", "--rows", "240", "--per-document", "4", "--draws", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"][0]["other"] in ("resid1.post", "resid2.post")
    assert len(told["cells"]) == 6
