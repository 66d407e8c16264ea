"""The report on interventions: losses with a dictionary spliced in, and the causal check's verdicts."""

from pathlib import Path

import pytest

from report.made_artifacts import MODELS, NASTY, make_behaviour, make_causal
from report.parsed_page import Page
from suture.interventions.causal import Causal, Cause, PairShift
from suture.report.page import find_artifacts, report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = make_behaviour(tmp_path_factory.mktemp("behaviour"))
    return Page(report(folder / "r.html", find_artifacts(folder)).read_text(encoding="utf-8"))


def test_losses_stand_per_model(page: Page) -> None:
    text = page.text.replace("\xa0", " ")
    assert "behaviour" in page.ids
    for words in (*MODELS, "2.314± 0.021", "2.401± 0.023", "2.501", "4.020", "94.9 %", "89.0 %", "89.1 %", "−4.7 %"):
        assert words in text, words
    assert "dictionary · 97 % of its tokens replaced" in text


def test_verdicts_are_counted_and_every_feature_is_shown(page: Page) -> None:
    text = page.text.replace("\xa0", " ")
    assert "Of 4 features ablated in every model" in text
    assert "labels are 2 confirmed, 1 contradicted, 1 undecided" in text
    assert f"only {NASTY[0]}" in text
    for words in ("0.0213", "0.02 – 0.05", "0.61", "control −0.12; above it by 0.40 – 0.58"):
        assert words in text, words
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_of_three_models_pairs_are_named(tmp_path: Path) -> None:
    pairs = tuple(
        PairShift(models=pair, correlation=0.5, control=None, above=None) for pair in ((0, 1), (0, 2), (1, 2))
    )
    cause = Cause(
        feature=1,
        label="AB",
        n_positions=30,
        kl=(0.1, 0.2, 0.0),
        kl_control=(0.0, 0.0, 0.0),
        ratio=None,
        pairs=pairs,
        verdict="undecided",
    )
    made = Causal(models=("x", "y", "z"), features=(cause,))
    make_causal(tmp_path / "causal", made)
    assert Causal.load(tmp_path / "causal") == made
    assert repr(made) == "Causal(1 features of x x y x z: 1 undecided)"
    page = Page(report(tmp_path / "r.html", [tmp_path / "causal"]).read_text(encoding="utf-8"))
    assert "B and C: 0.50" in page.text
    assert "only A and B" in page.text
