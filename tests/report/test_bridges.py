"""The report's section on bridges: the numbers of both tables are those that were written."""

from pathlib import Path

import pytest

from bridge_worlds import SOME_ALONE, concepts
from suture.bridges.bridge import Bridge, bridge
from suture.bridges.crossing import Carried, carry
from suture.bridges.settings import BridgeSettings
from suture.planted.generator import PlantedModels
from suture.planted.store import planted_store
from suture.report.page import report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bridges")
    planted, store = PlantedModels(SOME_ALONE), planted_store(folder / "store", SOME_ALONE, 3000)
    bridge(folder / "bridge", store, BridgeSettings(kinds=("ridge", "procrustes"), heldout=0.3, draws=50))
    saes = [concepts(folder / f"sae{m}", store, planted, m, range(SOME_ALONE.n_concepts)) for m in range(2)]
    carry(folder / "carried", folder / "bridge", saes[0], native=saes[1])
    return folder


def test_both_tables_stand_in_the_page(folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "all.html", [folder / n for n in ("store", "bridge", "carried")]).read_text("utf-8")
    assert 'id="bridges"' in page
    assert 'href="#bridges"' in page
    scores, s = Bridge.load(folder / "bridge").scores, Carried.load(folder / "carried").summary
    for value in (*scores["r2"].ravel(), s.zero_shot.fvu, s.refitted.fvu, s.at_home.fvu):
        assert f"{value:.3f}" in page
    assert s.gap_closed is not None
    assert f"{100 * s.gap_closed:.1f}" in page
    assert "planted-A @ planted to planted-B @ planted" in page


def test_a_bridge_alone_has_no_table_of_dictionaries(folder: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "one.html", [folder / "store", folder / "bridge"]).read_text("utf-8")
    assert "Maps of bridge" in page
    assert "Dictionaries carried over" not in page
    page = report(tmp_path / "none.html", [folder / "store"]).read_text("utf-8")
    assert 'id="bridges"' not in page
