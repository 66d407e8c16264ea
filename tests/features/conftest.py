"""A small planted pair with a hand-made dictionary, described once, and the same codes as dense float64 matrices."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.features.settings import StatsSettings
from suture.features.stats import FeatureStats, describe
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

WIDTHS = (6, 10)
N_FEATURES = 24


@dataclass(frozen=True)
class Case:
    store: Store
    dictionary: Dictionary
    rows: Tensor
    discovery: Tensor
    stats: FeatureStats

    def dense(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        """x, mean, residual [row, D], codes [row, feature] and solo codes, float64."""
        x = scaled(self.store, rows)
        codes = self.dictionary.encode(x)
        solo = [self.dictionary.encode_alone(x, m).dense().double() for m in range(2)]
        mean = torch.cat([s.known_mean.float() * s.scale for s in self.store.spaces])
        f = codes.dense().double()
        rebuilt = f @ self.dictionary.W_dec.detach().double() + self.dictionary.b_dec.detach().double()
        return x.double(), mean.double(), x.double() - rebuilt, f, solo


def scaled(store: Store, rows: Tensor) -> Tensor:
    """The spaces side by side in scaled units."""
    return torch.cat([a * s.scale for a, s in zip(store.read(rows), store.spaces, strict=True)], dim=-1)


def random_dictionary(store: Store, kind: str = "crosscoder", *, n_features: int = N_FEATURES) -> Dictionary:
    """Random directions, every weight in use."""
    design = Design(kind=kind, n_features=n_features, sparsity=Sparsity(kind="topk", k=3))  # pyright: ignore[reportArgumentType]
    dictionary = Dictionary(store.spaces, design)
    generator = torch.Generator().manual_seed(5)
    D = dictionary.width
    W = torch.randn(n_features, D, generator=generator)
    dictionary.W_enc.data.copy_(W / W.norm(dim=-1, keepdim=True))
    dictionary.W_dec.data.copy_(W / W.norm(dim=-1, keepdim=True) + 0.1 * torch.randn(W.shape, generator=generator))
    dictionary.b_enc.data.copy_(0.2 * torch.randn(n_features, generator=generator))
    dictionary.b_dec.data.copy_(0.1 * torch.randn(D, generator=generator))
    dictionary.center.copy_(0.1 * torch.randn(D, generator=generator))
    return dictionary.requires_grad_(requires_grad=False)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("features")
    settings = PlantedSettings(widths=WIDTHS, n_concepts=20, mean_active=2.0, rows_per_document=17, seed=3)
    return planted_store(folder / "store", settings, 1500)


@pytest.fixture(scope="session")
def case(planted: Store) -> Case:
    dictionary = random_dictionary(planted)
    rows = torch.arange(680, 1500)
    discovery = torch.arange(680)
    settings = StatsSettings(n_groups=12, batch_rows=100, n_top=4, missing="zero")
    stats = describe(dictionary, planted, rows.flip(0), discovery_rows=discovery, settings=settings)
    return Case(planted, dictionary, rows, discovery, stats)
