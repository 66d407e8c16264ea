"""The positive control, whole: a run's own recipe finds strong known features and not those far below the noise."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from suture.cli.app import run
from suture.pipeline.settings import from_flat
from suture.planted.settings import PlantedSettings
from suture.planted.spike_settings import SpikeSettings
from suture.planted.spikes import Found
from suture.planted.store import planted_store
from suture.studies.power import Power, limits, limits_by_kind, power
from suture.training.settings import TrainSettings

SPIKES = SpikeSettings(strengths=(0.02, 1.5), n_each=2, rate=0.02, kinds=("random",))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("power") / "store"
    planted_store(path, PlantedSettings(widths=(24, 24), n_concepts=24, mean_active=2.0, rows_per_document=10), 8_000)
    return path


def settings() -> TrainSettings:
    return from_flat(TrainSettings, {"features": 48, "k": 3, "rows": 120_000, "batch_size": 256, "seed": 1})


def test_strong_known_features_come_back_and_faint_ones_do_not(store: Path, tmp_path: Path) -> None:
    result = power(tmp_path / "power", store, settings(), SPIKES)
    strong = [one for one in result.found if one.strength == 1.5]
    faint = [one for one in result.found if one.strength == 0.02]
    assert len(strong) == len(faint) == 6
    assert all(one.feature is not None for one in strong)
    assert not any(one.label in "AB" for one in strong if one.owners == (0, 1)), "a shared one is nobody's own"
    assert not any(one.right for one in faint)
    assert 0.02 < result.shared.strength <= 1.5
    assert "Of known features on 2 % of the rows" in result.sentence
    written = json.loads((tmp_path / "power" / "power.json").read_text())
    assert written["sentence"] == result.sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == ["power"], "the spiked rows are gone"


def known(kind: str, *, exclusive: bool, right: bool, strength: float) -> Found:
    owners = (0,) if exclusive else (0, 1)
    at = {"strength": strength, "kind": kind, "owners": owners, "feature": 1, "cosine": 0.9}
    return Found(label="shared" if right != exclusive else "A", right=right, **at)  # pyright: ignore[reportArgumentType]


def test_a_kind_that_cannot_be_labelled_does_not_hide_in_the_limit_of_all() -> None:
    strengths = [s for s in (0.1, 0.3, 0.8) for _ in range(4)]
    found = [known("random", exclusive=e, right=s > 0.2, strength=s) for e in (True, False) for s in strengths]
    found += [
        known("documents", exclusive=e, right=not e and s > 0.2, strength=s) for e in (True, False) for s in strengths
    ]
    random, documents = limits_by_kind(found, ("random", "documents"), 2)
    assert 0.1 < random.exclusive.strength < 0.3
    assert documents.exclusive.strength == float("inf")
    assert 0.1 < documents.shared.strength < 0.3
    exclusive, shared = limits(found, 2)
    both = Power(exclusive=exclusive, shared=shared, kinds=(random, documents), rate=0.004, found=tuple(found))
    assert f"on any rows from {random.exclusive.strength:.2f} on" in both.sentence
    assert "in chosen documents not even half of the strongest" in both.sentence
    assert "on any rows" not in replace(both, kinds=(random,)).sentence, "one kind needs no telling apart"
    assert limits_by_kind(found, ("token",), 2) == ()
    early = tuple(replace(f, right=True) for f in found)
    exclusive, shared = limits(early, 2)
    said = replace(both, exclusive=exclusive, shared=shared, kinds=(), found=early).sentence
    assert "exclusive ones, half of the faintest tried already, 0.10 of the median norm (95 % interval 0.10" in said


def test_the_command_says_the_detection_limit(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--features",
        "32",
        "--k",
        "3",
        "--rows",
        "4000",
        "--batch-size",
        "256",
        "--strength",
        "1.5",
        "--n-each",
        "1",
        "--rate",
        "0.02",
    ]
    assert run(["study", "power", str(store), "--out", str(tmp_path / "power"), "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["sentence"].startswith("Of known features")
    assert run(["study", "power", str(store), "--out", str(tmp_path / "no"), "--rate", "0.9"]) == 2
    assert "rate = 0.9" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
