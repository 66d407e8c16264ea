"""Public functions take a result's folder or what was loaded from it, a model or its name: with the same outcome."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interventions.conftest import known_dictionary
from planted_fixtures import PLANTED
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.features.describe import features
from suture.features.settings import FeatureSettings
from suture.features.table import FeatureTable
from suture.interventions.causal import Causal, causal
from suture.interventions.settings import CausalSettings, SpliceSettings, SteerSettings
from suture.interventions.splice import splice
from suture.interventions.steer.steer import steer
from suture.lm.load import load_model
from suture.lm.models import as_models
from suture.matching.match import match
from suture.pipeline import artifact
from suture.planted.store import planted_store
from suture.report.gather import gather
from suture.training.settings import TrainSettings
from suture.training.train import train

NAMES = ("tinystories-1l", "tinystories-2l")
TEXTS = [f"Once upon a time there was a {animal} who liked to play in the big park with {name} and a red ball. The end."
         for animal in ("dog", "cat", "bird", "fish") for name in ("Tom", "Lily", "Ben")]  # fmt: skip


def what_and_from(folder: Path) -> tuple[Any, Any]:
    """Settings and parents of a result, which say all that it was made of."""
    manifest = artifact.open_artifact(folder)
    return manifest.settings, [parent.manifest_sha256 for parent in manifest.parents]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return planted_store(tmp_path / "store", PLANTED, 10_000)


@pytest.fixture
def dictionary(store: Store, tmp_path: Path) -> Dictionary:
    design = Design(n_features=48, sparsity=Sparsity(k=3))
    return train(tmp_path / "dictionary", store, TrainSettings(design=design, n_rows=4096, batch_size=512, heldout=0.3))


def test_described_and_matched_from_what_is_in_memory(dictionary: Dictionary, store: Store, tmp_path: Path) -> None:
    assert dictionary.path is not None
    settings = FeatureSettings(n_rows=1000)
    table = features(tmp_path / "opened", dictionary, store, settings)
    features(tmp_path / "named", str(dictionary.path), str(store.path), settings)
    assert what_and_from(tmp_path / "opened") == what_and_from(tmp_path / "named")
    assert table.path == tmp_path / "opened"
    matching = match(tmp_path / "matching", dictionary, dictionary.path, store)
    assert matching.path == tmp_path / "matching"
    gathered = gather([store, dictionary, table, matching.path])
    assert [a.folder for a in gathered.artifacts] == [store.path, dictionary.path, table.path, matching.path]


def test_what_was_changed_since_it_was_loaded_is_not_taken_for_what_lies_there(
    dictionary: Dictionary, store: Store, tmp_path: Path
) -> None:
    with torch.no_grad():
        dictionary.W_dec[0, 0] += 1.0
    with pytest.raises(UserError, match="has other weights on disk than in memory; save it under another name"):
        features(tmp_path / "table", dictionary, store)
    assert not (tmp_path / "table").exists()
    dictionary.path = None
    with pytest.raises(UserError, match="lies in no folder; save it"):
        features(tmp_path / "table", dictionary, store)


def test_hands_take_what_is_in_memory_and_models_by_name(tmp_path: Path) -> None:
    lms = [load_model(name, device="cpu") for name in NAMES]
    known_dictionary(lms).save(tmp_path / "dictionary")
    dictionary = Dictionary.load(tmp_path / "dictionary")
    n = dictionary.n_features
    table = FeatureTable(
        models=NAMES, labels=("shared",) * n, reasons=("",) * n, examples=[], logits=[], summary={},
        columns={"n_active": torch.arange(n).double(), "q999": torch.ones(n).double()},
    )  # fmt: skip
    with artifact.create(
        tmp_path / "table", stage="features", settings={}, parents=(tmp_path / "dictionary",)
    ) as draft:
        table.write(draft.folder)
    table = FeatureTable.load(tmp_path / "table")
    short = CausalSettings(block=24, n_draws=50)
    found = causal(tmp_path / "opened", dictionary, table, NAMES, TEXTS, chosen=[0], settings=short)
    named = causal(tmp_path / "named", tmp_path / "dictionary", tmp_path / "table", lms, TEXTS, chosen=[0],
                   settings=short)  # fmt: skip
    assert found == named == Causal.load(tmp_path / "opened")
    assert found.path == tmp_path / "opened"
    spliced = splice(tmp_path / "spliced", dictionary, NAMES, TEXTS, SpliceSettings(block=24))
    assert spliced.path == tmp_path / "spliced"
    steering = SteerSettings(strengths=(1.0,), max_new_tokens=4, n_draws=50)
    (effect,) = steer(tmp_path / "steered", dictionary, table, [1], lms=NAMES, prompts=TEXTS[:4], neutral=TEXTS[4:8],
                      settings=steering)  # fmt: skip
    assert effect.path == tmp_path / "steered" / "feature-1"
    assert [a.folder for a in gather([found, spliced, effect]).artifacts] == [found.path, spliced.path, effect.path]


def test_a_model_named_twice_is_loaded_once() -> None:
    one, same, other = as_models([NAMES[0], NAMES[0], load_model(NAMES[1], device="cpu")])
    assert one is same
    assert other.name == NAMES[1]
    assert as_models([None]) == (None,)
