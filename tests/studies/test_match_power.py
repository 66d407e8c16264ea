"""The control of a matching, whole: pairs that are the same are called so, hard ones and strangers are not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suture.activations.store import Store
from suture.cli.app import run
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.pipeline.settings import from_flat
from suture.planted.related import RelatedStore, add_related
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
    assert "0 that are not the same were called so." in result.sentence
    assert result.touched >= 4, "both shared ones and some of the hard ones"
    assert result.true_pairs == result.touched
    assert result.sentence.endswith(
        f"Of {result.touched} pairs with r of 0.3 or more that touch a known feature {result.touched} are true."
    )
    assert MatchPower.load(tmp_path / "power") == result
    assert sorted(p.name for p in tmp_path.iterdir()) == ["power"], "the rows with known pairs are gone"


def test_the_command_says_it_and_refuses_what_does_not_go_together(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "power", str(store), "--out", str(tmp_path / "p")]
    assert run([*command, "--pairs", "3"]) == 2
    assert "pairs = 3: is for known pairs of features; add --matching" in capsys.readouterr().err
    assert run([*command, "--second-seeds"]) == 2
    assert "second-seeds = True: is for a matching" in capsys.readouterr().err
    small = ["--features", "32", "--k", "3", "--rows", "4000", "--batch-size", "256", "--related-rate", "0.02"]
    assert run([*command, "--matching", "--second-seeds", "--pairs", "1", *small, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["called"]) == {"shared", "half", "super", "split", "exclusive"}
    assert "Of known pairs" in told["sentence"]
    assert told["second_seeds"]


def test_a_partner_that_stands_for_something_else_is_no_true_pair(store: Path, tmp_path: Path) -> None:
    known = add_related(tmp_path / "known", Store.open(store), RelatedSettings(n_pairs=2, related_rate=0.02))
    a, b = (truth(known, m) for m in (0, 1))
    n = len(known.pairs)
    right, r = np.arange(n).astype(float), np.full(n, 0.5)
    first = [i for i, pair in enumerate(known.pairs) if pair.partners]
    assert known.pairs_that_touch(a, b, right, r, 0.3) == (n, len(first)), "an exclusive one has no true partner"
    assert known.pairs_that_touch(a, b, np.roll(right, 1), r, 0.3) == (n, 0)
    r[first[0]] = 0.2
    assert known.pairs_that_touch(a, b, right, r, 0.3) == (n - 1, len(first) - 1)


def truth(known: RelatedStore, model: int) -> Dictionary:
    """A dictionary whose rows are the known directions of one model."""
    space = replace(known.store.spaces[model], mean=None)
    n = len(known.pairs)
    dictionary = Dictionary([space], Design(kind="sae", n_features=n, sparsity=Sparsity(kind="topk", k=2)))
    rows = [p.direction if model == 0 else p.partners[0] if p.partners else torch.randn(24) for p in known.pairs]
    dictionary.W_dec.data.copy_(torch.stack(rows))
    return dictionary


def test_a_store_of_one_space_is_refused(tmp_path: Path) -> None:
    planted_store(tmp_path / "three", PlantedSettings(widths=(8, 8, 8), n_concepts=16, mean_active=2.0), 500)
    with pytest.raises(UserError, match="has 3 spaces"):
        match_power(tmp_path / "no", tmp_path / "three", TrainSettings())
    assert not (tmp_path / "no").exists()
