"""The two-clusters numbers on cases with known answers."""

import pytest
import torch
from scipy.stats import entropy

from suture.features.clusters import two_clusters, usage_entropy


def test_usage_entropy_is_scipys() -> None:
    counts = torch.randint(0, 50, (40, 3), generator=torch.Generator().manual_seed(0)) + 1
    expected = entropy(counts.numpy(), axis=1) / entropy([1, 1, 1])
    assert usage_entropy(counts).numpy() == pytest.approx(expected)
    assert usage_entropy(torch.tensor([[0, 0]])).isnan().all()
    assert usage_entropy(torch.tensor([[7], [0]])).nan_to_num(nan=-1).tolist() == [0.0, -1.0]


def test_two_private_halves_are_two_clusters() -> None:
    generator = torch.Generator().manual_seed(1)
    counts = torch.tensor([[100, 0]] * 30 + [[0, 80]] * 30)
    centre = torch.cat([torch.ones(30, 8), -torch.ones(30, 8)])
    decoder = centre + 0.05 * torch.randn(60, 8, generator=generator)
    found = two_clusters(counts, torch.ones(60).double(), decoder, ["A"] * 30 + ["B"] * 30)
    assert found.private_share == 1
    assert found.shared_energy == 0
    assert found.entropy_histogram == [60] + [0] * 19
    assert found.silhouette is not None
    assert found.silhouette > 0.9


def test_one_common_cloud_is_none() -> None:
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(40, 60, (60, 2), generator=generator)
    energy = torch.tensor([3.0] * 20 + [1.0] * 40).double()
    labels = ["shared"] * 20 + ["ambiguous"] * 40
    found = two_clusters(counts, energy, torch.randn(60, 8, generator=generator), labels)
    assert found.private_share == 0
    assert found.shared_energy == pytest.approx(0.6)
    assert found.entropy_histogram == [0] * 19 + [60]
    assert found.silhouette is not None
    assert abs(found.silhouette) < 0.1


def test_nothing_live_says_nothing() -> None:
    found = two_clusters(torch.zeros(5, 2).long(), torch.zeros(5).double(), torch.ones(5, 3), ["dead"] * 5)
    assert (found.private_share, found.shared_energy, found.silhouette) == (None, None, None)
    assert sum(found.entropy_histogram) == 0
