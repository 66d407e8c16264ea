"""The ladder of sizes on planted rows: small rungs lack what larger ones have, and what is done is kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suture.cli.app import run
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.pipeline import artifact
from suture.pipeline.settings import from_flat
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.report.page import report
from suture.stitching.ladder import COSTLY, FRANKENSTEIN, NATIVE, TUNED, LadderFit, StitchingStudy, fits_table
from suture.stitching.settings import LadderSettings
from suture.stitching.stitch import Stitching
from suture.studies.stitching import stitching_study
from suture.training.settings import TrainSettings

PLANTED = PlantedSettings(widths=(24,), n_concepts=48, exclusive=0.0, mean_active=2.0, rows_per_document=10)
LADDER = LadderSettings(ladder=(12, 24, 48), finetune_rows=10_000)


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
    for name, column in (("auc", "roc_auc"), ("auc_low", "roc_low"), ("auc_high", "roc_high")):
        own = [Stitching.load(made[0] / "out" / f"stitched-{pair}").proxies[column] for pair in ("12-24", "24-48")]
        assert np.array_equal(study.pairs[name], np.stack(own), equal_nan=True)
    assert (study.pairs["fvu_large"] < study.pairs["fvu_small"]).all()
    assert (study.pairs["novel_share"] > 0).all()
    assert np.nanmax(study.pairs["auc"]) > 0.6
    frankenstein, tuned, native, longer = study.fits["fvu"]
    assert study.fits.coordinates["dictionary"] == [FRANKENSTEIN, TUNED, NATIVE, COSTLY]
    assert study.fits["n_features"].tolist() == [24] * 4
    assert study.fits["n_rows"].tolist() == [120_000, 130_000, 40_000, 130_000]
    assert longer <= native + 0.05
    assert frankenstein < study.pairs["fvu_small"][0], "better than the smallest, which it began as"
    assert tuned < frankenstein, "training on helps"
    assert np.abs(study.fits["l0"] - 3).max() < 0.5, "compared at one L0"


def test_it_says_by_how_much_it_is_better_or_worse(made: tuple[Path, StitchingStudy]) -> None:
    _, study = made
    assert len(study.sentences) == 5
    _, tuned, _, longer = study.fits["fvu"]
    said = study.sentences[-1]
    assert said.startswith(TUNED)
    assert (f"worse by {tuned - longer:.3f}" if tuned > longer else f"no worse ({longer - tuned:.3f} lower)") in said
    few = ((FRANKENSTEIN, 0.25), (NATIVE, 0.3), (COSTLY, 0.125))
    fits = [LadderFit(name=name, n_features=1, n_rows=1, l0=1.0, fvu=fvu) for name, fvu in few]
    cheap = replace(study, fits=fits_table(fits))
    assert cheap.sentences[-1].startswith(f"{FRANKENSTEIN}: FVU worse by 0.125")


def test_it_is_trained_on_from_what_was_stitched(made: tuple[Path, StitchingStudy]) -> None:
    folder, _ = made
    manifest = artifact.open_artifact(folder / "out" / "frankenstein-trained")
    assert {Path(p.path).name for p in manifest.parents} == {"store", "frankenstein"}
    own = manifest.settings
    assert (own["n_rows"], own["k_start"], own["heldout"], own["design"]["sparsity"]["k"]) == (10_000, 1.0, 0.3, 3)
    assert own["learning_rate"] is None, "the usual one"
    before, after = (Dictionary.load(folder / "out" / n) for n in ("frankenstein", "frankenstein-trained"))
    cosine = torch.nn.functional.cosine_similarity(before.W_dec, after.W_dec, dim=1)
    assert float(cosine.median()) > 0.8, "its features are still the same"


def test_it_is_read_back_and_a_second_run_makes_nothing_again(made: tuple[Path, StitchingStudy]) -> None:
    folder, study = made
    again = StitchingStudy.load(folder / "out" / "study")
    assert again.to_json() == study.to_json()
    before = {p: p.stat().st_mtime_ns for p in folder.glob("out/*/manifest.json") if p.parent.name != "study"}
    assert len(before) == 8
    stitching_study(folder / "out", folder / "store", settings(), LADDER)
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_the_command_says_it_and_refuses_what_is_no_ladder(
    made: tuple[Path, StitchingStudy], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, study = made
    command = ["study", "stitching", str(folder / "store"), "--out", str(folder / "out"), "--k", "3", "--json"]
    sizes = ["--rung", "12", "--rung", "24", "--rung", "48", "--rows", "40000", "--batch-size", "256"]
    sizes += ["--finetune-rows", "10000"]
    assert run([*command, *sizes]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == list(study.sentences)
    assert run([*command, *sizes, "--finetune-rows", "-1"]) == 2
    assert "finetune-rows = -1" in capsys.readouterr().err
    assert run([*command, "--rung", "12", "--rung", "24"]) == 2
    assert "rung = (12, 24): is no rising ladder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no rising ladder"):
        LadderSettings(ladder=(12, 24, 24))


def test_the_report_shows_pairs_and_fits(made: tuple[Path, StitchingStudy], tmp_path: Path) -> None:
    folder, study = made
    shown = [folder / "store", folder / "out" / "study", folder / "out" / "stitched-12-24"]
    page = report(tmp_path / "page.html", shown).read_text("utf-8")
    assert 'id="ladder"' in page
    assert 'href="#ladder"' in page
    for sentence in study.sentences:
        assert sentence in page
    auc, low, high = (study.pairs[name][1, 0] for name in ("auc", "auc_low", "auc_high"))
    assert f"{auc:.3f} ({low:.3f} to {high:.3f})" in page
    for fvu in study.fits["fvu"]:
        assert f"<td>{fvu:.3f}</td>" in page
    assert 'id="ladder"' not in report(tmp_path / "none.html", [folder / "store"]).read_text("utf-8")
