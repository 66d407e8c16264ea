"""The demo tells the whole story, keeps what is finished, and never touches a folder that is not its own."""

import json
from pathlib import Path

import pytest
import torch

from suture.errors import UserError
from suture.features.table import FeatureTable
from suture.pipeline import artifact
from suture.studies.demo import DemoResult, DemoSettings, demo, features_to_steer, reproduce

TINY = DemoSettings(
    n_stories=96, story_tokens=120, n_rows=10_000, n_features=96, k=8, n_training_rows=150_000, null_rows=30_000,
    n_steered=1, n_neutral=3, n_prompts=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return demo(tmp_path_factory.mktemp("demo") / "demo", settings=TINY)


def test_it_makes_every_folder_and_the_report(made: DemoResult) -> None:
    steps = {
        "store": "store",
        "crosscoder": "dictionary", "pooled": "dictionary", "null": "dictionary",
        "features-crosscoder": "features", "features-pooled": "features", "features-null": "features",
    }  # fmt: skip
    for folder, step in steps.items():
        assert artifact.verify(made.out / folder).stage == step
    page = made.report.read_text(encoding="utf-8")
    assert "tinystories-1l" in page
    assert "tinystories-2l" in page
    assert not list(made.out.rglob("*.partial"))


def test_both_models_wrote_the_corpus_in_equal_parts(made: DemoResult) -> None:
    stories = (made.out / "corpus.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    assert len(stories) == TINY.n_stories
    assert len(set(stories)) == TINY.n_stories
    assert sum(len(s.split()) for s in stories) > 30 * TINY.n_stories


def test_the_numbers_stand_beside_their_null_and_ceiling(made: DemoResult) -> None:
    summary = json.loads((made.out / "summary.json").read_text(encoding="utf-8"))
    assert summary["dictionaries"]["null"]["null"] is True
    assert 0 <= summary["dictionaries"]["null"]["false_positive_rate"] <= 0.1
    assert summary["dictionaries"]["crosscoder"]["null"] is False
    for name in ("crosscoder", "pooled"):
        part = summary["dictionaries"][name]
        assert sum(part["counts"].values()) == TINY.n_features
        assert all(0 < v < 0.9 for v in part["fvu"])
        assert len(part["r2"]) == 3
    text = made.text()
    assert "falsely exclusive" in text
    assert "the ceiling" in text
    assert str(made.report.resolve()) in text


def test_steered_features_are_shared_ones(made: DemoResult) -> None:
    table = FeatureTable.load(made.out / "features-crosscoder")
    steered = [e["feature"] for e in made.summary["steering"]]
    assert steered == features_to_steer(table, 1)
    assert all(table.labels[i] == "shared" for i in steered)
    rate = table.column("rate")
    best = max(
        (i for i, label in enumerate(table.labels) if label == "shared" and 0.001 < rate[i] < 0.05),
        key=lambda i: float(torch.nan_to_num(table.column("cofire_correlation")[i], -1.0)),
    )
    assert steered == [best]


def test_a_second_run_keeps_what_is_finished(made: DemoResult) -> None:
    before = {f: f.stat().st_mtime_ns for f in made.out.rglob("manifest.json")}
    again = demo(made.out, settings=TINY)
    assert {f: f.stat().st_mtime_ns for f in made.out.rglob("manifest.json")} == before
    assert {**again.summary, "seconds": 0} == {**made.summary, "seconds": 0}


def test_other_settings_or_other_peoples_folders_are_refused(made: DemoResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a demo of other settings"):
        demo(made.out, quick=True)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and was not made by the demo"):
        demo(tmp_path, quick=True, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_report_names_the_commands_that_do_the_same(made: DemoResult) -> None:
    page = made.report.read_text(encoding="utf-8")
    for command in reproduce(TINY):
        assert command.split(" --")[0] in page
