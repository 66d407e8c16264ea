"""On planted pairs the real trainer finds the concepts, and tells from decoder norms alone whose they are."""

from pathlib import Path

import pytest
import torch

from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.planted.generator import PlantedModels
from suture.planted.scores import PlantedScores, cosines, decoder_share, score_dictionary
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.training.settings import TrainSettings
from suture.training.train import train

pytestmark = pytest.mark.slow


def _crosscoder(folder: Path, settings: PlantedSettings, n_rows: int) -> Dictionary:
    store = planted_store(folder / "store", settings, 30_000)
    design = Design(kind="crosscoder", n_features=512, sparsity=Sparsity(kind="topk", k=8))
    training = TrainSettings(design=design, n_rows=n_rows, batch_size=1024, validate_every=10_000)
    return train(folder / "dictionary", store, training)


def _scores(models: PlantedModels, dictionary: Dictionary) -> PlantedScores:
    decoders = [dictionary.decoder(m) for m in range(2)]
    share = decoder_share(decoders[0], decoders[1])
    labels = ["A" if r < 0.15 else "B" if r > 0.85 else "shared" for r in share.tolist()]
    live = torch.ones(dictionary.n_features, dtype=torch.bool)
    concepts = [models.directions(m) for m in range(2)]
    scales = [space.scale for space in dictionary.spaces]
    return score_dictionary(concepts, decoders, scales, live, labels, models.labels())


def test_a_crosscoder_recovers_planted_concepts_and_whose_they_are(tmp_path: Path) -> None:
    settings = PlantedSettings(embedding="independent", seed=3)
    scores = _scores(PlantedModels(settings), _crosscoder(tmp_path, settings, 400_000))
    assert scores.recovery_90 >= 0.95
    assert scores.recovery_90_exclusive >= 0.85
    assert scores.macro_f1 >= 0.9
    assert scores.auroc >= 0.98


def test_hardly_trained_it_recovers_nothing(tmp_path: Path) -> None:
    settings = PlantedSettings(seed=3)
    assert _scores(PlantedModels(settings), _crosscoder(tmp_path, settings, 2048)).recovery_80 < 0.1


def test_a_model_against_its_rotated_copy_shares_everything_found(tmp_path: Path) -> None:
    settings = PlantedSettings(seed=3).as_null("rotated")
    models, dictionary = PlantedModels(settings), _crosscoder(tmp_path, settings, 400_000)
    scores = _scores(models, dictionary)
    assert scores.recovery_90 >= 0.95
    assert scores.confusion[2][:2] == [0, 0]
    # what it learnt of the rotation: decoder rows of B are those of A, turned
    best = cosines(models.directions(0), dictionary.decoder(0)).max(dim=1).indices
    turned = dictionary.decoder(0)[best] @ models.map(0, 1)
    agreement = torch.nn.functional.cosine_similarity(turned, dictionary.decoder(1)[best])
    assert float(agreement.median()) > 0.99
