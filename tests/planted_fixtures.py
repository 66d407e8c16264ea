"""Fixtures of planted stores, small enough to train on in seconds: for the tests of dictionaries and of training."""

from pathlib import Path

import pytest
import torch

from suture.activations.store import Store
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

PLANTED = PlantedSettings(widths=(16, 16), n_concepts=24, exclusive=0.125, mean_active=2.0, noise=(0.05,))
UNEQUAL = PlantedSettings(widths=(16, 10), n_concepts=20, exclusive=0.1, mean_active=2.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted_store(tmp_path_factory.mktemp("planted") / "store", PLANTED, 12_000)


@pytest.fixture(scope="session")
def unequal_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return planted_store(tmp_path_factory.mktemp("unequal") / "store", UNEQUAL, 6_000)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "dictionary"
