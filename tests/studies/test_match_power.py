"""The control of a matching, whole: pairs that are the same are called so, hard ones and strangers are not."""

import json
from pathlib import Path

import pytest

from suture.cli.app import run
from suture.errors import UserError
from suture.pipeline.settings import from_flat
from suture.planted.settings import PlantedSettings
from suture.planted.spike_settings import RelatedSettings
from suture.planted.store import planted_store
from suture.studies.match_power import MatchPower, match_power
from suture.training.settings import TrainSettings

PLANTED = PlantedSettings(widths=(24, 24), n_concepts=24, mean_active=2.0, rows_per_document=10)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("power") / "store"
    planted_store(path, PLANTED, 10_000)
    return path


def test_the_same_are_called_the_same_and_the_hard_ones_are_not(store: Path, tmp_path: Path) -> None:
    related = RelatedSettings(n_pairs=2, related_rate=0.02, related_strength=1.5)
    settings = from_flat(TrainSettings, {"features": 48, "k": 4, "rows": 150_000, "batch_size": 256})
    result = match_power(tmp_path / "power", store, settings, related)
    assert {r: sum(said.values()) for r, said in result.called.items()} == dict.fromkeys(related.relations, 2)
    assert result.right("shared") == (2, 2)
    assert result.right("exclusive") == (2, 2)
    for relation in ("half", "super", "exclusive"):
        assert "same" not in result.called[relation]
    assert result.sentence.startswith("Of known pairs, 2 of 2 in both models, called the same; ")
    assert result.sentence.endswith("0 that are not the same were called so.")
    assert MatchPower.load(tmp_path / "power") == result
    assert sorted(p.name for p in tmp_path.iterdir()) == ["power"], "the rows with known pairs are gone"


def test_the_command_says_it_and_refuses_what_does_not_go_together(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "power", str(store), "--out", str(tmp_path / "p")]
    assert run([*command, "--pairs", "3"]) == 2
    assert "pairs = 3: is for known pairs of features; add --matching" in capsys.readouterr().err
    small = ["--features", "32", "--k", "3", "--rows", "4000", "--batch-size", "256", "--related-rate", "0.02"]
    assert run([*command, "--matching", "--pairs", "1", *small, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["called"]) == {"shared", "half", "super", "split", "exclusive"}
    assert "Of known pairs" in told["sentence"]


def test_a_store_of_one_space_is_refused(tmp_path: Path) -> None:
    planted_store(tmp_path / "three", PlantedSettings(widths=(8, 8, 8), n_concepts=16, mean_active=2.0), 500)
    with pytest.raises(UserError, match="has 3 spaces"):
        match_power(tmp_path / "no", tmp_path / "three", TrainSettings())
    assert not (tmp_path / "no").exists()
