"""The report's section on responses: medians, rank correlations and marks are those of the table."""

from pathlib import Path

import numpy as np
import pytest

from report.parsed_page import Page
from suture.interventions.responses.columns import COLUMNS, SCORES
from suture.interventions.responses.relate import groups, predictions
from suture.interventions.responses.responses import SUMMARY, TABLE, Responses, ResponseSummary
from suture.pipeline import artifact
from suture.pipeline.table import Table
from suture.report.page import report
from suture.report.responses import agreement_scatter, responses_section


@pytest.fixture
def found() -> Responses:
    n = 12
    values = {c.name: np.full((n, 2) if c.axes else n, np.nan) for c in COLUMNS}
    values["number"] = np.arange(n) + 100.0
    values["label"] = np.array(["A"] * 4 + ["shared"] * 8, dtype=object)
    values["r"] = np.linspace(0.05, 0.95, n)
    values["correlation"] = np.linspace(0.1, 0.8, n)
    values["mismatched"] = np.full(n, 0.07)
    values["agreement"] = values["correlation"] - 0.07
    values["agreement_low"] = values["agreement"] - 0.3
    values["effect"] = np.tile([1.5, 2.5], (n, 1))
    values["transfer"] = np.tile([0.62, np.nan], (n, 1))
    table = Table(axes=("feature",), columns=COLUMNS, values=values, coordinates={"model": ["one", "two"]})
    summary = ResponseSummary(
        models=("one @ mlp0.out", "two @ mlp0.out"), reference=1.0, dose="strength", kl=0.1, n_texts=321,
        predictions=predictions(table, tuple(c.name for c in SCORES), n_draws=50, seed=0),
        groups=groups(table, n_draws=50, seed=0),
    )  # fmt: skip
    return Responses(responses=table, summary=summary)


def test_marks_are_the_features_and_their_mismatched_pairs(found: Responses) -> None:
    figure = agreement_scatter(found, "r")
    assert [trace["name"] for trace in figure["data"]] == ["A", "A, mismatched", "shared", "shared, mismatched"]
    assert figure["data"][0]["x"] == pytest.approx(found.responses["r"][:4], abs=1e-4)
    assert figure["data"][2]["y"] == pytest.approx(found.responses["correlation"][4:], abs=1e-4)
    assert figure["data"][3]["y"] == [0.07] * 8
    assert figure["data"][0]["text"][0] == "feature 100, A"
    assert figure["data"][0]["marker"]["symbol"] != figure["data"][2]["marker"]["symbol"]


def test_the_tables_say_what_was_found(found: Responses) -> None:
    section = responses_section([("study", found)])
    assert section is not None
    page = Page(str(section))
    shared = next(g for g in found.summary.groups if g.label == "shared")
    assert f"{shared.correlation:.2f}" in page.text
    assert f"{shared.n_agree} of 8" in page.text
    assert f"{found.summary.predictions[0].rho:.2f}" in page.text
    assert "62.0" in page.text
    assert "responses-0-r" in page.data
    assert "responses-0-r_ctx" not in page.data  # nobody has it
    assert responses_section([]) is None


def test_a_page_shows_what_was_saved(found: Responses, tmp_path: Path) -> None:
    with artifact.create(tmp_path / "responses", stage="responses", settings={}) as draft:
        found.responses.save(draft.folder / TABLE)
        artifact.write_json(draft.folder / SUMMARY, artifact.as_json(found.summary.__dict__ | {
            "predictions": [vars(p) for p in found.summary.predictions],
            "groups": [vars(g) for g in found.summary.groups],
        }))  # fmt: skip
    assert Responses.load(tmp_path / "responses").summary == found.summary
    page = report(tmp_path / "page.html", [tmp_path / "responses"]).read_text("utf-8")
    assert 'href="#responses"' in page
    assert "Do the models respond alike?" in page
