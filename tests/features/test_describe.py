"""The whole step on planted pairs: labels are right for what training found, and a null shows no difference."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from features.conftest import random_dictionary
from suture.activations.null import self_pair
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.rows import matching_view, whole_documents
from suture.errors import ArtifactError, UserError
from suture.features.describe import (
    FeatureSettings,
    chosen_rows,
    features,
)
from suture.features.table import FeatureTable
from suture.pipeline import artifact
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.training.settings import TrainSettings
from suture.training.train import train

PAIR = PlantedSettings(widths=(64, 64), n_concepts=200, exclusive=0.1, seed=1)
TRAINING = TrainSettings(
    design=Design(kind="crosscoder", n_features=256, sparsity=Sparsity(kind="topk", k=6)),
    n_rows=400_000,
    batch_size=500,
    learning_rate=3e-3,
    k_start=4.0,  # exclusive concepts carry half the energy: many active features at first let them be found
    k_anneal=0.5,
    validate_every=800,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted_store(tmp_path_factory.mktemp("pair") / "store", PAIR, 40_000)


def test_planted_concepts_get_their_labels(pair: Store, tmp_path: Path) -> None:
    dictionary = train(tmp_path / "dictionary", pair, TRAINING)
    table = features(tmp_path / "features", tmp_path / "dictionary", pair)
    models = PlantedModels(PAIR)
    truth = torch.cat([models.directions(m).float() * s.scale for m, s in enumerate(dictionary.spaces)], dim=-1)
    live = torch.tensor([name != "dead" for name in table.labels])
    unit = torch.nn.functional.normalize(dictionary.W_dec.detach(), dim=-1) * live.unsqueeze(1)
    cosine, best = (torch.nn.functional.normalize(truth, dim=-1) @ unit.T).max(dim=1)
    found = [(name, table.labels[int(best[c])]) for c, name in enumerate(models.labels()) if cosine[c] > 0.8]
    confusion = Counter(found)
    decided = {pair: n for pair, n in confusion.items() if pair[1] != "ambiguous"}
    right = sum(n for (planted, label), n in decided.items() if planted == label)
    assert len(found) > 150, confusion
    assert sum(decided.values()) > 0.8 * len(found), confusion
    assert right > 0.97 * sum(decided.values()), confusion
    assert decided.get(("A", "A"), 0) + decided.get(("B", "B"), 0) > 20, confusion
    assert table.summary["null"] is False
    assert "false_positive_rate" not in table.summary
    assert table.summary["r2"] == artifact.read_json(tmp_path / "dictionary" / "evaluation.json")["r2"]
    manifest = artifact.verify(tmp_path / "features")
    assert [Path(p.path).name for p in manifest.parents] == ["dictionary", "store"]
    assert FeatureTable.load(tmp_path / "features").labels == table.labels


@pytest.mark.parametrize("rotation_seed", [None, 7])
def test_a_model_against_itself_shows_no_difference(pair: Store, tmp_path: Path, rotation_seed: int | None) -> None:
    view = self_pair(pair, 0, rotation_seed=rotation_seed)
    train(tmp_path / "dictionary", view, replace(TRAINING, n_rows=120_000))
    table = features(tmp_path / "features", tmp_path / "dictionary", view)
    assert table.summary["null"] is True
    assert table.summary["false_positive_rate"] <= 0.02
    assert table.counts["shared"] > 100
    assert artifact.open_artifact(tmp_path / "features").settings["null"] is True


def test_models_shown_different_texts_share_nothing(tmp_path: Path) -> None:
    """Every row pairs unrelated positions. A crosscoder still makes features with a direction in both models, which
    decoder and refit shares call shared; that the codes from each model alone never agree says that they drifted apart.
    """
    unrelated = replace(PAIR, misaligned=1.0)
    store = planted_store(tmp_path / "store", unrelated, 40_000)
    train(tmp_path / "dictionary", store, replace(TRAINING, n_rows=120_000))
    table = features(tmp_path / "features", tmp_path / "dictionary", store)
    live = table.n_features - table.counts["dead"]
    in_both = (table.column("refit_share") > 0.15) & (table.column("refit_share") < 0.85)
    assert int(in_both.sum()) > 0.1 * live
    assert table.counts["shared"] <= 0.01 * live
    assert table.counts["drifted"] > 0.05 * live


def test_spaces_are_found_by_name(planted: Store) -> None:
    dictionary = random_dictionary(planted.select([1]), "sae")
    assert matching_view(dictionary, planted).spaces == (planted.spaces[1],)
    both = random_dictionary(planted)
    assert matching_view(both, planted) is planted
    copies = self_pair(planted, 0, rotation_seed=0, n_copies=2)  # two spaces of one name, each found once
    assert matching_view(random_dictionary(copies), copies) is copies
    swapped = matching_view(both, planted.select([1, 0]))
    rows = torch.tensor([5, 700])
    assert all(torch.equal(a, b) for a, b in zip(swapped.read(rows), planted.read(rows), strict=True))
    with pytest.raises(UserError, match="has no space planted-A"):
        matching_view(both, planted.select([1]))


def test_rows_are_those_that_training_kept_back(planted: Store) -> None:
    heldout, discovery = chosen_rows(planted, {"heldout": 0.3, "seed": 5}, 10_000, crossed=False)
    assert discovery is not None
    assert not set(planted.documents[heldout].tolist()) & set(planted.documents[discovery].tolist())
    other, _ = chosen_rows(planted, {"heldout": 0.3, "seed": 1, "data_seed": 5}, 10_000, crossed=False)
    assert torch.equal(other, heldout)  # the split follows the data's own seed
    few, as_few = chosen_rows(planted, {"heldout": 0.3, "seed": 5}, 100, crossed=False)
    assert as_few is not None
    assert set(few.tolist()) < set(heldout.tolist())
    assert 60 < len(few) <= 100
    assert len(as_few) <= len(few)
    for rows in (few, as_few):
        counts = torch.bincount(planted.documents[rows].long())
        assert set(counts[counts > 0].tolist()) <= {17, 4}  # whole documents; the last has 4 rows
    with pytest.raises(UserError, match="heldout"):
        chosen_rows(planted, {"heldout": 0}, 10, crossed=False)


def test_crossed_every_document_is_judged(planted: Store) -> None:
    everything, discovery = chosen_rows(planted, {"heldout": 0}, 10_000, crossed=True)
    assert discovery is None
    assert torch.equal(everything, torch.arange(len(planted)))
    few, _ = chosen_rows(planted, {}, 100, crossed=True)
    assert 60 < len(few) <= 100


def test_one_document_is_kept_however_large(planted: Store) -> None:
    assert len(whole_documents(planted.documents, torch.arange(1500), 3)) in (17, 4)


def test_a_failure_leaves_nothing(planted: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        features(tmp_path / "out", tmp_path / "missing", planted)
    random_dictionary(planted).save(tmp_path / "dictionary", settings={"heldout": 0.3, "seed": 0})
    with pytest.raises(UserError, match="models"):
        features(tmp_path / "out", tmp_path / "dictionary", planted, lms=[])
    assert [p.name for p in tmp_path.iterdir()] == ["dictionary"]
    with pytest.raises(UserError, match="rows = 0"):
        FeatureSettings(n_rows=0)


def test_a_dictionary_without_an_evaluation_is_evaluated(planted: Store, tmp_path: Path) -> None:
    random_dictionary(planted).save(tmp_path / "dictionary", settings={"heldout": 0.3, "seed": 0})
    table = features(tmp_path / "out", tmp_path / "dictionary", planted)
    assert len(table.summary["r2"]) == 3
    assert len(table.summary["fvu"]) == 2
    assert table.logits == []
