"""The report: what is in the folders is on the page, as text, and nothing on the page reaches outside."""

import re
from collections import Counter
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest

from report.made_artifacts import (
    LABELS,
    MODELS,
    NASTY,
    SPACES,
    make_all,
    make_dictionary,
    make_features,
    make_store,
    make_table,
)
from report.parsed_page import Page
from suture.errors import ArtifactError, UserError
from suture.features.settings import FeatureSettings
from suture.pipeline import artifact
from suture.report.gather import gather, short_names
from suture.report.page import SCRIPTS, find_artifacts, report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def html(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    written = report(out, find_artifacts(folder), title="A < B & C", commands=["suture demo --out 'x y'"])
    assert written == out
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_is_there(page: Page) -> None:
    sections = {str(a["id"]) for tag, a in page.elements if tag == "section"}
    assert sections == {"compared", "designs", "missing", "shares", "features", "steering", "provenance"}


def test_nothing_is_fetched(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attributes or tag == "img", (tag, attributes)
        href = attributes.get("href")
        assert href is None or href.startswith(("#", "data:")), (tag, attributes)
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_texts_stay_texts(html: str, page: Page) -> None:
    # Were one text taken for markup, there would be more scripts, an image, or a bold word.
    scripts = [a for tag, a in page.elements if tag == "script" and a.get("type") is None]
    assert len(scripts) == 1
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert NASTY[0] in page.text
    assert "stories <b>.txt" in page.text
    assert "A < B & C" in page.text
    blocks = re.findall(r'<script type="(?:application/json|text/plain)"[^>]*>(.*?)</script>', html, flags=re.DOTALL)
    assert len(blocks) == len(page.data) + len(page.pieces)
    assert not any("<" in block for block in blocks)


def test_answer_stands_first_with_null_and_fvu(folder: Path, html: str) -> None:
    summary = artifact.read_json(folder / "features-crosscoder" / "summary.json")
    answer = html[html.index('id="answer"') : html.index('id="compared"')]
    text = Page(answer).text.replace("\xa0", " ")
    live = sum(n for label, n in summary["counts"].items() if label != "dead")
    assert f"Of {live} live features of the crosscoder, {summary['counts']['shared']} are shared" in text
    for label in ("A", "B"):
        assert f"{summary['counts'][label]} only in {label}" in text
    assert "1.2 %" in text  # the null's false-positive rate, given as 0.0123
    assert "0.120" in text
    assert "0.140" in text
    assert "explains 88.0 % of A's and 86.0 % of B's variance" in text
    assert "Known features were not added to these rows" in text
    assert "1 feature was steered in every model" in text
    assert "change alike, beyond what mismatched features do, for 1 of 1" in text
    assert all(model in text for model in MODELS)


def test_figures_are_valid_plotly(page: Page) -> None:
    from plotly import graph_objects

    figures = {name: spec for name, spec in page.data.items() if name != "tables"}
    assert {"share-0-refit_share", "share-0-decoder_share", "share-1-usage_share", "effect-0-kl_neutral"} <= set(
        figures
    )
    for spec in figures.values():
        graph_objects.Figure(data=spec["data"], layout=spec["layout"])  # raises on an unknown property
        assert spec["alt"]


def test_histogram_holds_every_live_feature_once(folder: Path, page: Page) -> None:
    written = artifact.read_json(folder / "features-crosscoder" / "columns.json")["columns"]
    by_label = {trace["meta"]["role"]: trace["x"] for trace in page.data["share-0-refit_share"]["data"]}
    for label in LABELS[:4]:
        own = [v for v, x in zip(written["refit_share"], written["label"], strict=True) if x == label]
        assert by_label.get(label, []) == pytest.approx(own, abs=1e-4)


def test_effect_curves_have_their_control_and_intervals(page: Page) -> None:
    traces = page.data["effect-0-kl_neutral"]["data"]
    assert [t["meta"].get("control", False) for t in traces] == [False, True, False, True]
    assert traces[0]["y"] == pytest.approx([0.005, 0.02, 0.08, 0.32])
    assert traces[0]["error_y"]["array"] == pytest.approx([0.1 * v for v in traces[0]["y"]], rel=1e-3)
    assert "error_y" in page.data["effect-0-target_effect"]["data"][1]  # the random directions' spread


def test_links_lead_somewhere(page: Page) -> None:
    targets = [str(a["href"])[1:] for tag, a in page.elements if tag == "a" and str(a.get("href")).startswith("#")]
    assert targets
    assert set(targets) <= page.ids
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_provenance_names_commands_and_checksums(folder: Path, page: Page) -> None:
    assert "suture demo --out 'x y'" in page.text
    assert "suture collect store" in page.text
    for path in find_artifacts(folder):
        assert artifact.sha256_of(path / "manifest.json") in page.text


def test_a_null_is_set_beside_its_own_design_only(folder: Path) -> None:
    gathered = gather(find_artifacts(folder))
    assert [c.design for c in gathered.comparisons] == ["crosscoder", "pooled"]
    crosscoder, pooled = gathered.comparisons
    assert crosscoder.null is not None
    assert crosscoder.null.exclusive_share == 0.0123
    assert pooled.null is None
    assert [c.name for c in gathered.nulls] == ["null"]


def test_a_null_is_seen_without_features(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    make_dictionary(tmp_path / "dict", tmp_path / "store", design="crosscoder", n_features=9, null=True)
    gathered = gather([tmp_path / "dict", tmp_path / "store"])
    assert not gathered.comparisons
    assert gathered.nulls[0].is_null


def test_a_comparison_has_its_own_null_or_none(tmp_path: Path) -> None:
    """Nulls of another size, k, seed, store or labelling stand there too, and first: none of them is borrowed."""
    make_store(tmp_path / "store")
    make_store(tmp_path / "store-2", seed=1)
    made = {
        "a-small": {"n_features": 30},
        "b-sparser": {"n_features": 60, "k": 3},
        "c-seed": {"n_features": 60, "seed": 2},
        "d-elsewhere": {"n_features": 60, "store": "store-2"},
        "e-otherwise": {"n_features": 60},
        "f-own": {"n_features": 60},
    }
    for number, (name, how) in enumerate(made.items()):
        store = how.pop("store", "store")
        make_dictionary(tmp_path / name, tmp_path / store, design="crosscoder", null=True, **how)
        make_features(
            tmp_path / f"{name}-features",
            tmp_path,
            dictionary=name,
            n_features=how["n_features"],
            n_examples=1,
            null=True,
            store=store,
            settings=FeatureSettings(n_rows=77 if name == "e-otherwise" else 200_000),
            rate=(number + 1) / 100,
        )
    for name, size in (("x-60", 60), ("y-90", 90)):
        make_dictionary(tmp_path / name, tmp_path / "store", design="crosscoder", n_features=size)
        make_features(tmp_path / f"{name}-features", tmp_path, dictionary=name, n_features=size, n_examples=1)
    gathered = gather(find_artifacts(tmp_path))
    assert len(gathered.nulls) == len(made)
    real = {c.name: c for c in gathered.comparisons}
    own = real["x-60"].null
    assert own is not None
    assert own.name == "f-own"
    assert own.exclusive_share == 0.06
    assert real["y-90"].null is None
    html = report(tmp_path / "r.html", [tmp_path / n for n in ("y-90", "y-90-features", "f-own", "f-own-features")])
    text = Page(html.read_text(encoding="utf-8")).text
    assert "No model was compared with a copy of itself on these rows with these settings" in text
    assert "no null of its own" in text


def test_a_null_of_a_space_that_is_not_compared_is_not_its_own(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    other = [replace(space, model=f"other-{m}") for m, space in enumerate(SPACES)]
    for name, null, spaces in (("real", False, SPACES), ("null", True, other)):
        make_dictionary(
            tmp_path / name, tmp_path / "store", design="crosscoder", n_features=9, null=null, spaces=spaces
        )
        make_features(tmp_path / f"{name}-features", tmp_path, dictionary=name, n_features=9, n_examples=1, null=null)
    (real,) = gather(find_artifacts(tmp_path)).comparisons
    assert real.null is None


@pytest.mark.parametrize(
    ("kept", "sections"),
    [
        (["store"], {"compared", "provenance"}),
        (["crosscoder"], {"compared", "designs", "missing", "provenance"}),
        (["features-crosscoder"], {"compared", "designs", "missing", "shares", "features", "provenance"}),
        (["steering/feature-3"], {"steering", "provenance"}),
    ],
)
def test_what_is_missing_leaves_its_section_out(
    folder: Path, tmp_path: Path, kept: list[str], sections: set[str]
) -> None:
    out = report(tmp_path / "r.html", [folder / name for name in kept], title="part", commands=[])
    page = Page(out.read_text(encoding="utf-8"))
    assert {str(a["id"]) for tag, a in page.elements if tag == "section"} == sections


def test_unfinished_folders_are_left_alone(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    half = tmp_path / "features.partial"
    half.mkdir()
    (half / "manifest.json").write_text("{}")
    assert find_artifacts(tmp_path) == [tmp_path / "store"]


def test_wrong_input_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        find_artifacts(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no finished artifact"):
        find_artifacts(tmp_path)
    with pytest.raises(UserError, match="nothing to report on"):
        report(tmp_path / "r.html", [], title="none", commands=[])
    with pytest.raises(ArtifactError, match="does not exist"):
        report(tmp_path / "r.html", [tmp_path / "gone"], title="gone", commands=[])
    with pytest.raises(UserError, match="cannot be written"):
        report(folder / "store" / "store.json" / "r.html", [folder / "store"], title="x", commands=[])
    assert not (tmp_path / "r.html").exists()


def test_broken_json_is_named(tmp_path: Path) -> None:
    with artifact.create(tmp_path / "features", stage="features", settings={}) as draft:
        (draft.folder / "columns.json").write_text("{ half")
    with pytest.raises(ArtifactError, match="cannot be read"):
        report(tmp_path / "r.html", [tmp_path / "features"], title="x", commands=[])


def test_short_names() -> None:
    names = short_names([Path("/d/store"), Path("/d/steering/feature-3")])
    assert names == ["store", "steering/feature-3"]
    assert short_names([Path("/d/store")]) == ["store"]
    assert short_names([Path("/d"), Path("/d/store")]) == ["d", "d/store"]


def test_the_detection_limit_is_that_of_the_store_and_design(tmp_path: Path) -> None:
    """A limit on other rows or another design is none; one of another size says so."""
    for name, seed in (("store", 0), ("store-2", 1)):
        make_store(tmp_path / name, seed=seed)
    make_dictionary(tmp_path / "x", tmp_path / "store", design="crosscoder", n_features=60)
    make_features(tmp_path / "x-features", tmp_path, dictionary="x", n_features=60, n_examples=1)

    def text_of(*folders: str) -> str:
        html = report(tmp_path / "r.html", [tmp_path / f for f in ("store", "x", "x-features", *folders)])
        return Page(html.read_text(encoding="utf-8")).text

    def make_power(name: str, store: str, kind: str, n_features: int) -> None:
        train = artifact.open_artifact(tmp_path / "x").settings
        settings = {"train": {**train, "design": {**train["design"], "kind": kind, "n_features": n_features}}}
        with artifact.create(tmp_path / name, stage="power", settings=settings, parents=(tmp_path / store,)) as draft:
            artifact.write_json(draft.folder / "power.json", {"sentence": f"Half from 0.3 on, says {name} <b>."})

    make_power("elsewhere", "store-2", "crosscoder", 60)
    make_power("otherwise", "store", "pooled", 60)
    assert "Known features were not added" in text_of("elsewhere", "otherwise")
    make_power("larger", "store", "crosscoder", 90)
    assert "says larger <b>. This is of 90 features." in text_of("larger", "elsewhere")
    make_power("own", "store", "crosscoder", 60)
    text = text_of("larger", "own")
    assert "says own <b>." in text
    assert "This is of" not in text


def test_reconstruction_without_outlier_rows_is_said(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    make_dictionary(tmp_path / "x", tmp_path / "store", design="crosscoder", n_features=60)
    make_features(tmp_path / "f", tmp_path, dictionary="x", n_features=60, n_examples=1)
    summary = artifact.read_json(tmp_path / "f" / "summary.json")
    columns = artifact.read_json(tmp_path / "f" / "columns.json")["columns"]
    table = make_table(MODELS, columns, [], [], summary | {"fvu_typical": [0.12, 0.41]})
    with artifact.create(
        tmp_path / "g", stage="features", settings=asdict(FeatureSettings()), seed=0, parents=(tmp_path / "x",)
    ) as draft:
        table.write(draft.folder)
    html = report(tmp_path / "r.html", [tmp_path / "store", tmp_path / "x", tmp_path / "g"])
    text = Page(html.read_text(encoding="utf-8")).text.replace("\xa0", " ")
    assert "Without outlier rows and the ten largest coordinates it is 88.0 % of A's and 59.0 % of B's" in text
    assert "better or worse than it is on most text" in text


def test_scripts_share_a_scope_in_which_every_name_is_one_thing() -> None:
    folder = resources.files("suture.report")
    scripts = [folder.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    names = re.findall(r"^(?:async )?(?:function|const|let) (\w+)", "\n".join(scripts), flags=re.MULTILINE)
    assert len(names) > 60
    assert [name for name, n in Counter(names).items() if n > 1] == []
