"""The ladder of sizes on planted rows: small rungs lack what larger ones have, and what is done is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from suture.cli.app import run
from suture.errors import UserError
from suture.pipeline.settings import from_flat
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.stitching.settings import LadderSettings
from suture.studies.stitching import StitchingStudy, stitching_study
from suture.training.settings import TrainSettings

PLANTED = PlantedSettings(widths=(24,), n_concepts=48, exclusive=0.0, mean_active=2.0, rows_per_document=10)
LADDER = LadderSettings(ladder=(12, 24, 48))


def settings() -> TrainSettings:
    return from_flat(TrainSettings, {"k": 3, "rows": 40_000, "batch_size": 256})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StitchingStudy]:
    folder = tmp_path_factory.mktemp("ladder")
    planted_store(folder / "store", PLANTED, 8_000)
    return folder, stitching_study(folder / "out", folder / "store", settings(), LADDER)


def test_small_rungs_lack_what_larger_ones_have(made: tuple[Path, StitchingStudy]) -> None:
    _, study = made
    assert study.pairs.coordinates["pair"] == ["12 to 24", "24 to 48"]
    assert study.pairs["auc"].shape == (2, 5)
    assert (study.pairs["fvu_large"] < study.pairs["fvu_small"]).all()
    assert (study.pairs["novel_share"] > 0).all()
    assert np.nanmax(study.pairs["auc"]) > 0.6
    frankenstein, native, longer = study.fits["fvu"]
    assert study.fits["n_features"].tolist() == [24, 24, 24]
    assert study.fits["n_rows"].tolist() == [120_000, 40_000, 120_000]
    assert longer <= native + 0.05
    assert frankenstein < study.pairs["fvu_small"][0], "better than the smallest, which it began as"
    assert np.abs(study.fits["l0"] - 3).max() < 0.5, "compared at one L0"
    assert len(study.sentences) == 4


def test_it_is_read_back_and_a_second_run_makes_nothing_again(made: tuple[Path, StitchingStudy]) -> None:
    folder, study = made
    again = StitchingStudy.load(folder / "out" / "study")
    assert again.to_json() == study.to_json()
    before = {p: p.stat().st_mtime_ns for p in folder.glob("out/*/manifest.json") if p.parent.name != "study"}
    assert len(before) == 6
    stitching_study(folder / "out", folder / "store", settings(), LADDER)
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_the_command_says_it_and_refuses_what_is_no_ladder(
    made: tuple[Path, StitchingStudy], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = made
    command = ["study", "stitching", str(folder / "store"), "--out", str(folder / "out"), "--k", "3", "--json"]
    sizes = ["--rung", "12", "--rung", "24", "--rung", "48", "--rows", "40000", "--batch-size", "256"]
    assert run([*command, *sizes]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == list(study.sentences)
    assert run([*command, "--rung", "12", "--rung", "24"]) == 2
    assert "rung = (12, 24): is no rising ladder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no rising ladder"):
        LadderSettings(ladder=(12, 24, 24))
