"""Units: what a model's activations are measured in, or where their origin lies, changes nothing that is said of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from suture.activations.shards import write_store
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.features.classify import Labels, classify
from suture.features.stats import FeatureStats, describe
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings
from suture.training.settings import TrainSettings
from suture.training.train import train

PAIR = PlantedSettings(widths=(8, 12), n_concepts=16, exclusive=0.25, mean_active=2.0, noise=(0.05,), seed=3)
SETTINGS = TrainSettings(
    design=Design(kind="crosscoder", n_features=16, sparsity=Sparsity(kind="topk", k=3)),
    n_rows=20_000,
    batch_size=500,
    learning_rate=0.02,  # that of the default makes rounding grow
    k_start=2.0,
    precision="float32",
)
ROWS = torch.arange(4_000)


def _rows() -> list[Tensor]:
    """On a grid of 2^-10, so that a whole number can be added to them without rounding."""
    planted = PlantedModels(PAIR).rows(0, len(ROWS)).activations
    return [(x * 1024).round() / 1024 for x in planted]


CHANGES = {
    "shifted": (lambda a: a + 40.0),
    "far": (lambda a: a + torch.arange(a.shape[1]) * 16.0),
    "longer": (lambda a: a * 32.0),
    "both": (lambda a: a * 0.25 - 3.0),
}


def _run(folder: Path, rows: list[Tensor]) -> tuple[Store, Dictionary, FeatureStats, Labels]:
    store = write_store(folder / "store", rows, documents=ROWS // 40)
    dictionary = train(folder / "dictionary", store, SETTINGS)
    stats = describe(dictionary, store, ROWS)
    return store, dictionary, stats, classify(stats)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Dictionary, FeatureStats, Labels]:
    return _run(tmp_path_factory.mktemp("plain"), _rows())


@pytest.mark.parametrize("name", CHANGES)
def test_one_models_constant_or_unit_changes_no_code_share_or_label(name: str, plain, tmp_path: Path) -> None:
    rows = _rows()
    changed = [CHANGES[name](rows[0]), rows[1]]
    store, dictionary, _, labels = _run(tmp_path, changed)
    before = plain[1].encode_raw(rows).dense()
    after = dictionary.encode_raw(changed).dense()
    assert torch.allclose(after, before, atol=0.02 * float(before.max()))
    assert len(set(plain[3].label)) >= 2  # a law about labels that are all alike would say little
    assert labels.label == plain[3].label
    assert torch.allclose(labels.share, plain[3].share, atol=0.01, equal_nan=True)
    assert evaluate(dictionary, store, ROWS).fvu == pytest.approx(evaluate(plain[1], plain[0], ROWS).fvu, rel=0.01)


def test_a_dictionary_with_scales_of_its_own_is_measured_alike(plain) -> None:
    """An imported dictionary, or one of an older suture: the same functions of raw rows in other scaled units."""
    store, dictionary, _, labels = plain
    own = Dictionary(
        [replace(dictionary.spaces[0], scale=dictionary.spaces[0].scale / 4), dictionary.spaces[1]], dictionary.design
    )
    own.load_state_dict(dictionary.state_dict())
    with torch.no_grad():
        columns = own.columns(0)
        own.W_enc[:, columns] *= 4
        for weight in (own.W_dec[:, columns], own.b_dec[columns], own.center[columns]):
            weight /= 4
    found = classify(describe(own, store, ROWS))
    assert found.label == labels.label
    assert torch.allclose(found.share, labels.share, atol=1e-4, equal_nan=True)
    assert evaluate(own, store, ROWS).fvu == pytest.approx(evaluate(dictionary, store, ROWS).fvu, rel=1e-4)
