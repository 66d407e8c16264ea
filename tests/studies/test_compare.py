"""The whole study, small: its contract with the report, finished cells kept, other settings refused, three models."""

import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suture.activations.settings import CollectSettings
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.pipeline import artifact
from suture.pipeline.settings import from_flat
from suture.planted.settings import PlantedSettings
from suture.studies.cells import NUMBERS
from suture.studies.compare import DesignStudy, StudyResult, planted_study, study_designs, text_recipe
from suture.studies.designs import Recipe
from suture.studies.grounds import LanguageGround, PlantedGround

RECIPE = Recipe(n_features=24, k=3, n_rows=8_192, batch_size=256, described_rows=600)
TINY = DesignStudy(
    ground=PlantedGround(planted=PlantedSettings(widths=(12, 12), n_concepts=16, mean_active=1.5), n_stored=2_048),
    recipe=RECIPE,
)
ONLY = ("separate", "separate-split", "pooled", "pooled-padded", "crosscoder")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, dict[str, Any]]:
    """A study and what it wrote, before other tests measure parts of it again."""
    out = tmp_path_factory.mktemp("study") / "out"
    result = study_designs(out, TINY, only=ONLY, n_seeds=2, command="suture study")
    return result, content(result)


@pytest.fixture(scope="module")
def made(first: tuple[StudyResult, dict[str, Any]]) -> StudyResult:
    return first[0]


def content(made: StudyResult) -> dict[str, Any]:
    artifact.verify(made.out / "study")
    return json.loads((made.out / "study" / "study.json").read_text(encoding="utf-8"))


def without_times(study: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "seconds": 0, "numbers": {**row["numbers"], "seconds": 0}} for row in study["rows"]]


def test_it_leaves_what_the_report_reads(first: tuple[StudyResult, dict[str, Any]]) -> None:
    made, study = first
    assert study == artifact.as_json(made.study)
    assert artifact.open_artifact(made.out / "study").stage == "study"
    assert (study["kind"], study["truth"], study["models"]) == ("designs", "planted", ["planted-A", "planted-B"])
    assert study["seeds"] == [0, 1]
    assert study["matched"] == {"n_rows": 8_192, "n_features": 24, "l0": 3, "parameters": 24 * 2 * 24}
    assert [d["name"] for d in study["designs"]] == list(ONLY)
    assert [d["name"] for d in study["designs"] if d["skipped"]] == ["pooled-padded"]
    assert all(d["settings"] or d["skipped"] for d in study["designs"])
    keys = [c["key"] for c in study["columns"]]
    assert {"macro_f1", "auroc", "fvu_A", "price_B", "null_rate", "ceiling", "silhouette", "seconds"} <= set(keys)
    assert "ce_clean_A" not in keys
    for row in study["rows"]:
        assert set(row) == {
            "design", "seed", "numbers", "confusion", "r2", "entropy_histogram", "share_histogram", "seconds",
        }  # fmt: skip
        assert all(v is None or isinstance(v, int | float) for v in row["numbers"].values())
        assert sum(map(sum, row["confusion"]["counts"])) == 16
        assert len(row["entropy_histogram"]) == len(row["share_histogram"]) == 20
        assert (row["r2"] is None) == row["design"].startswith("separate")
    assert [(r["design"], r["seed"]) for r in study["rows"]] == [
        (name, seed) for seed in (0, 1) for name in ONLY if name != "pooled-padded"
    ]
    assert any("pooled-padded needs models of different widths" in note for note in study["notes"])
    assert made.report.is_file()
    assert "crosscoder" in made.text()


def test_means_and_prices_are_those_of_the_rows(made: StudyResult) -> None:
    study = content(made)
    at = {(row["design"], row["seed"]): row["numbers"] for row in study["rows"]}
    mean = study["summary"]["crosscoder"]["fvu_A"]
    values = [at["crosscoder", seed]["fvu_A"] for seed in (0, 1)]
    assert mean["mean"] == pytest.approx(sum(values) / 2)
    assert mean["low"] <= min(values) <= max(values) <= mean["high"]
    assert mean["n"] == 2
    for seed in (0, 1):
        joint, alone, split = (at[name, seed] for name in ("crosscoder", "separate", "separate-split"))
        assert joint["price_A"] == pytest.approx(joint["fvu_A"] - alone["fvu_A"])
        # k / 2 is not a whole number here, so no separate dictionary has as many active features in all
        assert joint.get("price_in_all_A") is None
        assert at["pooled", seed]["price_in_all_B"] == pytest.approx(at["pooled", seed]["fvu_B"] - alone["fvu_B"])
        assert alone["price_A"] == 0
        # a threshold found in training keeps k on average, nearly, on other rows
        assert alone["l0"] <= 6 * 1.1
        assert split["l0"] <= 4 * 1.1


def test_l1_is_as_sparse_as_the_others_and_says_how_it_came_there(made: StudyResult) -> None:
    found = study_designs(made.out, TINY, only=("crosscoder-l1",), n_seeds=1)
    cell = made.out / "cells" / "crosscoder-l1-seed0"
    trials = artifact.read_json(cell / "penalty.json")
    numbers = artifact.read_json(cell / NUMBERS)
    assert numbers["trials"] == trials
    assert numbers["options"]["l1"] == trials[-1]["l1"]
    assert Dictionary.load(cell / "dictionary").sparsity.kind == "relu+l1"
    reached = numbers["numbers"]["l0"]
    missed = [note for note in found.study["notes"] if note.startswith("crosscoder-l1 was to have 3")]
    assert abs(reached - 3) <= 0.15 or missed
    study_designs(made.out, TINY, only=ONLY, n_seeds=2, command="suture study")


def test_a_second_run_keeps_every_cell_and_makes_only_what_is_gone(made: StudyResult) -> None:
    before = {f: f.stat().st_mtime_ns for f in made.out.rglob(NUMBERS)}
    gone = made.out / "cells" / "pooled-seed1" / NUMBERS
    old = artifact.read_json(gone)
    gone.unlink()
    steps: list[str] = []
    again = study_designs(made.out, TINY, only=ONLY, n_seeds=2, on_step=lambda *step: steps.append(step[0]))
    after = {f: f.stat().st_mtime_ns for f in made.out.rglob(NUMBERS)}
    assert {f for f in after if after[f] != before[f]} == {gone}
    assert {**artifact.read_json(gone), "seconds": 0} == {**old, "seconds": 0}
    assert not [what for what in steps if "crosscoder" in what]
    assert without_times(again.study) == without_times(made.study)


def test_more_seeds_or_other_designs_do_not_change_the_study(made: StudyResult) -> None:
    fewer = study_designs(made.out, TINY, only=("crosscoder", "separate"), n_seeds=1)
    assert [(r["design"], r["seed"]) for r in fewer.study["rows"]] == [("separate", 0), ("crosscoder", 0)]
    assert fewer.study["summary"]["crosscoder"]["fvu_A"]["low"] is None
    study_designs(made.out, TINY, only=ONLY, n_seeds=2, command="suture study")


def test_an_interrupted_cell_is_gone_on_with(made: StudyResult, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(what: str, done: int, total: int, note: str) -> None:
        if "seed 0 null" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_designs(out, TINY, only=("separate",), n_seeds=1, on_step=stop)
    assert not list(out.rglob(NUMBERS))
    assert not (out / "study").exists()
    finished = out / "cells" / "separate-seed0" / "sae-A" / "manifest.json"
    before = finished.stat().st_mtime_ns
    again = study_designs(out, TINY, only=("separate",), n_seeds=1)
    assert finished.stat().st_mtime_ns == before
    assert again.study["rows"][0]["numbers"]["fvu_A"] == content(made)["rows"][0]["numbers"]["fvu_A"]


def stop_at_once(*_: object) -> None:
    raise KeyboardInterrupt


def test_mistakes_are_refused_in_one_line(made: StudyResult, tmp_path: Path) -> None:
    other = replace(TINY, recipe=replace(RECIPE, k=4))
    with pytest.raises(UserError, match=r"holds a study of other settings \(recipe.k 3, now 4\)"):
        study_designs(made.out, other)
    with pytest.raises(UserError, match="only = pool: is no design"):
        study_designs(tmp_path / "new", TINY, only=("pool",))
    with pytest.raises(UserError, match="seeds = 0: is less than 1"):
        study_designs(tmp_path / "new", TINY, n_seeds=0)
    with pytest.raises(UserError, match="workers = 0: is less than 1"):
        study_designs(tmp_path / "new", TINY, workers=0)
    with pytest.raises(UserError, match="k = 20: exceeds the 10 features"):
        study_designs(tmp_path / "new", replace(TINY, recipe=replace(RECIPE, n_features=10, k=10)))
    assert not (tmp_path / "new").exists()
    (tmp_path / "slip").mkdir()
    artifact.write_json(tmp_path / "slip" / "settings.json", artifact.read_json(made.out / "settings.json"))
    with pytest.raises(KeyboardInterrupt):  # a first try that ended before anything was made may be changed
        study_designs(tmp_path / "slip", other, on_step=stop_at_once)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and was not made by suture study"):
        study_designs(tmp_path, TINY)
    with pytest.raises(UserError, match="is a file"):
        study_designs(tmp_path / "thesis.txt", TINY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlantedGround(planted=PlantedSettings(widths=(8,), exclusive=0.0)), "is one model"),
        (lambda: PlantedGround(planted=PlantedSettings().as_null("same")), "null = same: is what the study makes"),
        (lambda: PlantedGround(planted=PlantedSettings(), n_stored=9), "stored = 9: is too few rows"),
        (LanguageGround, "store = None: is not the one source of rows"),
        (
            lambda: LanguageGround(
                collect=from_flat(CollectSettings, {"model": ["a"], "at": ["x"], "corpus": "c", "tokens": 1})
            ),
            "model = .*: is one model",
        ),
    ],
)
def test_a_ground_without_meaning_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_three_models_of_three_widths_in_two_processes(tmp_path: Path) -> None:
    planted = PlantedSettings(widths=(16, 12, 8), n_concepts=20, mean_active=2.0, pairwise=0.1)
    study = replace(TINY, ground=PlantedGround(planted=planted, n_stored=2_048))
    only = ("separate", "pooled-padded", "tied", "crosscoder-3k")
    found = study_designs(tmp_path / "out", study, only=only, n_seeds=1, workers=2).study
    assert found["models"] == ["planted-A", "planted-B", "planted-C"]
    assert [d["skipped"] for d in found["designs"] if d["name"] == "tied"] == [
        "tied needs models of one width, these have 16 and 12 and 8"
    ]
    names = ["A", "B", "C", "AB", "AC", "BC", "shared"]
    for row in found["rows"]:
        assert row["confusion"]["rows"] == names
        assert {f"n_{name}" for name in names} | {"fvu_C"} <= set(row["numbers"])
        assert len(row["confusion"]["counts"]) == 7
    padded = Dictionary.load(tmp_path / "out" / "cells" / "pooled-padded-seed0" / "dictionary")
    assert padded.design.pad == "zeros"
    null = Dictionary.load(tmp_path / "out" / "cells" / "crosscoder-3k-seed0" / "null" / "dictionary")
    assert null.widths == (16, 16, 16)
    assert null.design.sparsity.k == 9


def test_the_presets_can_be_trained_and_quick_is_quicker() -> None:
    for quick in (False, True):
        assert planted_study(quick=quick).recipe.n_rows >= 50_000
        assert text_recipe(quick=quick).n_features >= 256
    assert planted_study(quick=True).recipe.n_rows < planted_study().recipe.n_rows


def test_a_mistake_found_in_another_process_arrives_as_what_it_was() -> None:
    error = copy(UserError("k", 9, "is too many", "lower it"))
    assert isinstance(error, UserError)
    assert str(error) == "k = 9: is too many; lower it"
