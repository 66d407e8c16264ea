"""The report on a study: what was measured is on the page, and nothing is claimed that the intervals do not support."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from report.made_artifacts import DESIGNS, NASTY, THREE, make_all, make_study, make_three_models
from report.parsed_page import Page
from suture.pipeline import artifact
from suture.report.page import find_artifacts, report
from suture.report.study_answer import study_answer
from suture.report.study_numbers import Study
from suture.report.words import label_words

MEASURED = [name for name, _, quality in DESIGNS if quality is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_study(folder / "study")
    return folder


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    return artifact.read_json(folder / "study" / "study.json")


@pytest.fixture(scope="module")
def html(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return report(out, find_artifacts(folder)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def sections(page: Page) -> set[str]:
    return {str(a["id"]) for tag, a in page.elements if tag == "section"}


def said(study: Study) -> str:
    return Page(study_answer(study)).text.replace("\xa0", " ")


def with_intervals(low_high: dict[str, tuple[float | None, float | None, float]]) -> Study:
    """A study of one column, Macro-F1, with these (low, high, mean) by design."""
    ends = {
        d: {"macro_f1": {"mean": m, "low": lo, "high": hi, "n": 3 if lo else 1}} for d, (lo, hi, m) in low_high.items()
    }
    return Study.from_json(
        {
            "truth": "planted",
            "designs": [{"name": d, "group": ""} for d in low_high],
            "columns": [{"key": "macro_f1", "title": "Macro-F1", "better": "high", "format": "share"}],
            "summary": ends,
        }
    )


def test_a_study_alone_is_a_complete_report(page: Page, content: dict[str, Any]) -> None:
    assert sections(page) == {"study", "provenance"}
    assert f"suture report{content['title']}" in page.text
    assert "suture study designs" in page.text
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for tag, a in page.elements if tag == "a" and str(a.get("href")).startswith("#")]
    assert set(targets) <= page.ids


def test_texts_stay_texts(html: str, page: Page) -> None:
    assert len([a for tag, a in page.elements if tag == "script" and a.get("type") is None]) == 1
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert NASTY[0] in page.text
    assert NASTY[1] in page.text
    assert "skipped: tied features need equal widths <b>" in page.text
    names = str([trace.get("text") for trace in page.data["study-0-dots-0"]["data"]])
    assert NASTY[0] not in names
    assert "&lt;script&gt;" in names  # Plotly would read markup in a name


def test_figures_are_valid_plotly(page: Page) -> None:
    from plotly import graph_objects

    assert {"study-0-dots-0", "study-0-against-0", "study-0-null", "study-0-clusters"} <= set(page.data)
    for spec in page.data.values():
        graph_objects.Figure(data=spec["data"], layout=spec["layout"])
        assert spec["alt"]


def test_every_number_is_in_the_table(html: str, content: dict[str, Any]) -> None:
    study = Study.from_json(content)
    body = html[html.index('class="designs numeric"') : html.index('class="seeds"')]
    cells = re.findall(r'data-value="([^"]+)"', body)
    assert len(cells) == sum(len(study.estimates[d]) for d in MEASURED)
    written = {
        c.write(study.estimates[d][c.key].mean) for d in MEASURED for c in study.columns if c.key in study.estimates[d]
    }
    text = Page(f"<table {body}").text
    assert all(number in text for number in written)


def test_the_null_rate_stands_beside_every_exclusive_count(html: str, content: dict[str, Any]) -> None:
    n_counts = len([c for c in Study.from_json(content).columns if c.key in ("n_A", "n_B")])
    assert html.count('class="null">null ') == n_counts * len(MEASURED) == 2 * len(MEASURED)


def test_marks_are_the_standing(html: str, content: dict[str, Any]) -> None:
    study = Study.from_json(content)
    standings = [s for c in study.columns if (s := study.standing(c.key)) is not None]
    start = html.index('class="designs numeric"')
    rows = html[html.index("<tbody>", start) : html.index("</tbody>", start)]
    assert rows.count('class="standing best"') == sum(1 + len(s.level) for s in standings)
    assert rows.count('class="standing tied"') == sum(len(s.tied) for s in standings if s.certain)


def test_every_design_stands_somewhere(content: dict[str, Any]) -> None:
    study = Study.from_json(content)
    for column in study.columns:
        standing = study.standing(column.key)
        if standing is None:
            assert column.better is None
            continue
        top = study.estimates[standing.best][column.key]
        known = {d for d in study.measured if column.key in study.estimates[d]}
        assert {standing.best, *standing.level, *standing.tied, *standing.behind} == known
        for design in known:
            mean = study.estimates[design][column.key].mean
            assert mean <= top.mean if column.better == "high" else mean >= top.mean
        assert all(study.estimates[d][column.key].overlaps(top) for d in standing.tied)


def test_the_answer_claims_what_the_intervals_support() -> None:
    apart = with_intervals({"x": (0.9, 0.92, 0.91), "y": (0.7, 0.8, 0.75)})
    assert "x is best in Macro-F1: 0.910 (95 %: 0.900 to 0.920; 3 seeds)" in said(apart)
    assert "next is y (0.750)" in said(apart)
    near = with_intervals({"x": (0.9, 0.92, 0.91), "y": (0.88, 0.905, 0.89), "z": (0.1, 0.2, 0.15)})
    assert "is best" not in said(near)
    assert "Not told apart by the intervals: y (0.890)." in said(near)
    assert "z" not in said(near).replace("Macro", "")
    same = with_intervals({"x": (0.9, 0.92, 0.91), "y": (0.88, 0.905, 0.89)})
    assert "no design is told apart" in said(same)
    one = with_intervals({"x": (None, None, 0.91), "y": (None, None, 0.2)})
    assert "is best" not in said(one)
    assert "x measured the highest Macro-F1: 0.910." in said(one)
    assert "tell no two designs apart" in said(one)
    assert "x alone has a number" in said(with_intervals({"x": (0.9, 0.92, 0.91)}))
    assert "?" not in said(with_intervals({}))


def test_designs_with_one_number_share_the_first_place() -> None:
    one = (None, None, 1.0)
    study = with_intervals({"x": one, "y": one, "z": (None, None, 0.2)})
    standing = study.standing("macro_f1")
    assert standing is not None
    assert (standing.best, standing.level) == ("x", ("y",))
    assert "x and y both have the highest Macro-F1: 1.000." in said(study)
    many = said(with_intervals({f"d{i}": one for i in range(9)}))
    assert "d0, d1, d2, d3, d4 and 4 more all have the highest Macro-F1" in many
    level = with_intervals(
        {"x": (0.99, 1.0, 1.0), "y": (1.0, 1.0, 1.0), "z": (0.98, 1.0, 0.995), "u": (0.1, 0.2, 0.15)}
    )
    assert "x and y both have the highest Macro-F1: 1.000 (95 %: 0.990 to 1.000; 3 seeds)" in said(level)
    assert "Not told apart by the intervals: z (0.995)." in said(level)


def test_touching_intervals_are_not_told_apart() -> None:
    standing = with_intervals({"x": (0.9, 0.92, 0.91), "y": (0.85, 0.9, 0.87)}).standing("macro_f1")
    assert standing is not None
    assert standing.tied == ("y",)


def test_the_answer_stands_first_of_language_models_too(tmp_path: Path) -> None:
    content = make_study(tmp_path / "study", truth="language models", seeds=(0,))
    text = said(Study.from_json(content))
    for question in ("Who leaves least unexplained?", "Who finds most in common?", "Who keeps the models working?"):
        assert question in text
    assert "is best" not in text
    shared = max(content["summary"][d]["n_shared"]["mean"] for d in MEASURED)
    assert f"features labelled shared: {shared:.0f}" in text
    page = Page(report(tmp_path / "r.html", [tmp_path / "study"]).read_text(encoding="utf-8"))
    assert "Planted against found" not in page.text
    assert "Every seed" not in page.text


def test_confusions_are_summed_over_seeds(html: str, content: dict[str, Any]) -> None:
    found = [r["confusion"]["counts"] for r in content["rows"] if r["design"] == "pooled"]
    start = html.index('aria-label="Planted against found: pooled"')
    cells = re.findall(r"<td style[^>]*><(?:b|span)>([\d,]+)<", html[start : html.index("</table>", start)])
    assert [int(c.replace(",", "")) for c in cells] == [
        sum(one[i][j] for one in found) for i in range(3) for j in range(6)
    ]


def test_dots_hold_every_seed_and_every_interval(page: Page, content: dict[str, Any]) -> None:
    spec = page.data["study-0-dots-0"]
    assert spec["alt"].startswith("Macro-F1")
    seeds, *means = spec["data"]
    assert sorted(seeds["x"]) == pytest.approx(sorted(r["numbers"]["macro_f1"] for r in content["rows"]), rel=1e-4)
    drawn = {
        trace["y"][i]: (trace["x"][i], trace["error_x"]["array"][i]) for trace in means for i in range(len(trace["y"]))
    }
    for i, design in enumerate(MEASURED):
        one = content["summary"][design]["macro_f1"]
        assert drawn[i] == pytest.approx((one["mean"], one["high"] - one["mean"]), rel=1e-3)


def test_the_runs_of_a_study_are_left_out(folder: Path, tmp_path: Path) -> None:
    make_study(tmp_path / "out" / "study")
    make_study(tmp_path / "out" / "cells" / "pooled-seed0" / "inner")
    make_study(tmp_path / "cells" / "other")
    assert find_artifacts(tmp_path) == [tmp_path / "cells" / "other", tmp_path / "out" / "study"]
    assert find_artifacts(tmp_path / "out" / "cells" / "pooled-seed0")


def test_studies_stand_beside_comparisons(tmp_path: Path) -> None:
    make_all(tmp_path)
    make_study(tmp_path / "study")
    make_study(tmp_path / "study-lm", truth="language models", seeds=(0, 1))
    page = Page(report(tmp_path / "r.html", find_artifacts(tmp_path)).read_text(encoding="utf-8"))
    assert {"designs", "features", "study", "study-1"} <= sections(page)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert "live features of the crosscoder" in page.text
    assert page.text.count("Whose labels are right?") == 1
    assert "What two language models share" in page.text


def test_what_a_study_lacks_is_left_out(content: dict[str, Any], tmp_path: Path) -> None:
    bare = copy.deepcopy(content)
    for row in bare["rows"]:
        for key in ("confusion", "r2", "entropy_histogram", "share_histogram", "seconds"):
            row[key] = None
        row["numbers"] = {"macro_f1": row["numbers"]["macro_f1"]}
    bare["summary"] = {d: {"macro_f1": one["macro_f1"], "l0": None} for d, one in bare["summary"].items()}
    bare |= {"notes": [], "matched": {}, "models": []}
    bare["summary"]["pooled"]["macro_f1"] = {"mean": float("nan"), "low": None, "high": None, "n": 1}
    with artifact.create(tmp_path / "study", stage="study", settings={}) as draft:
        (draft.folder / "study.json").write_text(json.dumps(bare))
    page = Page(report(tmp_path / "r.html", [tmp_path / "study"]).read_text(encoding="utf-8"))
    assert sections(page) == {"study", "provenance"}
    for title in ("Planted against found", "Two private halves?", "Differences beside the null", "reconstructed from"):
        assert title not in page.text
    assert len([name for name in page.data if name.startswith("study-0-dots")]) == 1


def test_a_study_without_its_file_is_only_provenance(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "study", stage="study", settings={}):
        pass
    page = Page(report(tmp_path / "r.html", [tmp_path / "study"]).read_text(encoding="utf-8"))
    assert sections(page) == {"provenance"}


# ---- more than two models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    folder = make_three_models(tmp_path_factory.mktemp("three"))
    return folder, Page(report(folder / "r.html", find_artifacts(folder)).read_text(encoding="utf-8"))


def test_a_study_of_three_models(content: dict[str, Any], tmp_path: Path) -> None:
    wide = copy.deepcopy(content)
    wide["models"] = THREE
    wide["columns"] += [
        {"key": "fvu_C", "title": "FVU C", "help": "", "better": "low", "format": "number", "group": "fit"},
        {"key": "n_AC", "title": "Only AC", "help": "", "better": None, "format": "count", "group": "labels"},
    ]
    for one in wide["summary"].values():
        one |= {"fvu_C": one["fvu_A"], "n_AC": one["n_A"]}
    for row in wide["rows"]:
        row["r2"] = [[0.8, 0.3, 0.2], [0.4, 0.7, 0.1], [0.2, 0.3, 0.9], [0.9, 0.9, -0.1]]
        names = ["A", "AC", "shared"]
        row["confusion"] = {"rows": names, "columns": [*names, "missed"], "counts": [[3, 1, 0, 2]] * 3}
    with artifact.create(tmp_path / "study", stage="study", settings={}) as draft:
        (draft.folder / "study.json").write_text(json.dumps(wide))
    html = report(tmp_path / "r.html", [tmp_path / "study"]).read_text(encoding="utf-8")
    text = Page(html).text
    assert "is best in FVU C" in text
    assert "Macro-F1 against FVU C" in text
    assert html.count('class="null">null ') == 3 * len(MEASURED)
    for words in ("from C", "of C", "−0.10", "the share of its largest owner"):
        assert words in text


def test_three_models_have_a_share_each(three: tuple[Path, Page]) -> None:
    folder, page = three
    columns = artifact.read_json(folder / "features" / "columns.json")["columns"]
    for m in range(3):
        assert f"FVU of {'ABC'[m]}" in page.text
        assert THREE[m] in page.text
        spec = page.data[f"share-0-refit_share_{'ABC'[m]}"]
        drawn = sorted(v for trace in spec["data"] for v in trace["x"])
        known = sorted(v for v in columns[f"refit_share_{'ABC'[m]}"] if v is not None)
        assert drawn == pytest.approx(known, abs=1e-4)
    assert "only in A and B" in page.text
    assert "What three language models share" in page.text


def test_the_triangle_holds_every_live_feature_once(three: tuple[Path, Page]) -> None:
    folder, page = three
    labels = artifact.read_json(folder / "features" / "columns.json")["columns"]["label"]
    traces = page.data["simplex-0"]["data"]
    drawn = {int(feature): t["meta"]["role"] for t in traces for feature in t["text"]}
    assert drawn == {i: label for i, label in enumerate(labels) if label != "dead"}
    for trace in traces:
        sums = [a + b + c for a, b, c in zip(trace["a"], trace["b"], trace["c"], strict=True)]
        assert sums == pytest.approx([1.0] * len(sums), abs=1e-3)


def test_usage_shares_make_a_triangle_too(tmp_path: Path) -> None:
    make_three_models(tmp_path, kind="usage")
    page = Page(report(tmp_path / "r.html", find_artifacts(tmp_path)).read_text(encoding="utf-8"))
    assert page.data["simplex-0"]["alt"].startswith("Every feature in a triangle by its")


def test_words_of_more_models() -> None:
    assert [label_words(x) for x in ("C", "AB", "ABC", "shared")] == [
        "only C",
        "only A and B",
        "only A, B and C",
        "shared",
    ]


def test_a_study_is_a_table(content: dict[str, Any]) -> None:
    study = Study.from_json(content)
    frame = study.to_pandas()
    assert len(frame) == len(study.measured) * len(study.seeds)
    assert list(frame.columns[:2]) == ["design", "seed"]
    row = content["rows"][4]
    own = frame[(frame["design"] == row["design"]) & (frame["seed"] == str(row["seed"]))]
    assert own["macro_f1"].item() == row["numbers"]["macro_f1"]
    assert frame.attrs["columns"]["macro_f1"] == "What Macro-F1 is."
    assert repr(study).startswith("Study(Which joint design finds out?: 9 designs, 3 seeds, ")
