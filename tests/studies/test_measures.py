"""The numbers of a study against the truth itself, against sklearn, and on findings made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from suture.dictionary.codes import Codes
from suture.planted.generator import PlantedModels
from suture.planted.scores import found_columns, true_labels
from suture.planted.settings import PlantedSettings
from suture.studies.columns import columns_for, headline
from suture.studies.measures import (
    Findings,
    exclusive_rate,
    fit_numbers,
    histogram,
    label_numbers,
    prices,
    share_histogram,
    shared_rate,
    truth_numbers,
)

PAIR = PlantedSettings(n_concepts=60)
THREE = PlantedSettings(widths=(48, 48, 32), n_concepts=60, exclusive=0.1, pairwise=0.1, embedding="affine")


def the_truth(settings: PlantedSettings) -> tuple[PlantedModels, Findings]:
    """What a design that found everything would have found."""
    models = PlantedModels(settings)
    n_models = settings.n_models
    scales = tuple(1.0 + m for m in range(n_models))
    rows = torch.arange(500, 900)
    codes = models.rows(500, 900).codes
    clusters = {"private_share": 0.1, "shared_energy": 0.8, "silhouette": None, "entropy_histogram": [0] * 20}
    found = Findings(
        labels=tuple(models.labels()),
        directions=tuple(models.directions(m) * scales[m] for m in range(n_models)),
        scales=scales,
        active=codes,
        rows=rows,
        shares=models.presence.double() / models.presence.sum(1, keepdim=True),
        fvu=[0.1 * (m + 1) for m in range(n_models)],
        l0=6.0,
        dead=0.25,
        r2=[[0.9, 0.5, 0.3], [0.1, 0.8, 0.4], [0.2, 0.6, 0.7], [0.95] * 3][: n_models + 1],
        clusters=clusters,
    )
    return models, found


@pytest.mark.parametrize("settings", [PAIR, THREE])
def test_the_truth_itself_scores_perfectly(settings: PlantedSettings) -> None:
    models, found = the_truth(settings)
    numbers, counts = truth_numbers(found, models)
    assert all(value == pytest.approx(1.0) for value in numbers.values()), numbers
    names = true_labels(settings.n_models)
    assert counts == [
        [models.labels().count(a) if a == b else 0 for b in found_columns(settings.n_models)] for a in names
    ]


@pytest.mark.parametrize("settings", [PAIR, THREE])
def test_labels_that_are_often_wrong_score_what_sklearn_says(settings: PlantedSettings) -> None:
    models, found = the_truth(settings)
    rng = np.random.default_rng(0)
    names = true_labels(settings.n_models)
    truth = models.labels()
    others = [*names, "ambiguous"]
    labels = [t if rng.random() < 0.6 else str(rng.choice(others)) for t in truth]
    draw = torch.Generator().manual_seed(0)
    half = torch.rand(60, 1, generator=draw) < 0.5
    noisy = tuple(d + 0.05 * half * torch.randn(d.shape, generator=draw) for d in found.directions)
    lost = torch.zeros(60, dtype=torch.bool)
    lost[::7] = True  # these point elsewhere, so their concepts are missed
    noisy = tuple(torch.where(lost[:, None], d.roll(1, dims=1), d) for d in noisy)
    numbers, counts = truth_numbers(replace(found, labels=tuple(labels), directions=noisy), models)
    called = ["missed" if gone else name for name, gone in zip(labels, lost.tolist(), strict=True)]
    expected = f1_score(truth, called, labels=list(names), average="macro", zero_division=0)
    assert numbers["macro_f1"] == pytest.approx(expected)
    columns = found_columns(settings.n_models)
    assert counts == confusion_matrix(truth, called, labels=list(columns))[: len(names)].tolist()
    norms = torch.stack([d.norm(dim=1) for d in noisy], dim=1)[~lost]
    lacks = 1 - settings.n_models * (norms / norms.sum(1, keepdim=True)).amin(1)
    positive = [name != "shared" for name, gone in zip(truth, lost.tolist(), strict=True) if not gone]
    assert numbers["auroc"] == pytest.approx(roc_auc_score(positive, lacks.numpy()))
    assert numbers["recovery_80"] == pytest.approx(1 - float(lost.double().mean()))


def test_a_dictionary_with_private_halves_finds_directions_but_not_concepts() -> None:
    models, found = the_truth(PlantedSettings(n_concepts=60, exclusive=0.0))
    a, b = found.directions
    halves = (torch.cat([a, torch.zeros_like(a)]), torch.cat([torch.zeros_like(b), b]))
    codes = Codes.from_pairs(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]), n_rows=400, n_features=120)
    numbers, _ = truth_numbers(
        replace(
            found,
            directions=halves,
            scales=(1.0, 1.0),
            labels=("A",) * 60 + ("B",) * 60,
            active=codes,
            shares=torch.zeros(120, 2).double(),
        ),
        models,
    )
    assert numbers["directions_80"] == 1.0
    assert numbers["recovery_80"] == numbers["macro_f1"] == numbers["detection_f1"] == 0.0
    assert numbers["recovery_80_exclusive"] is not None
    assert np.isnan(numbers["recovery_80_exclusive"])


def test_detection_counts_the_rows_where_a_feature_is_active() -> None:
    models, found = the_truth(PAIR)
    kept = found.active.feature != 0  # the feature of concept 0 never fires
    silent = found.active.kept(kept)
    numbers, _ = truth_numbers(replace(found, active=silent), models)
    assert numbers["detection_f1"] == pytest.approx(59 / 60)


def test_fit_and_labels_of_findings_made_by_hand() -> None:
    _, found = the_truth(THREE)
    numbers = fit_numbers(found)
    assert [numbers[f"fvu_{m}"] for m in "ABC"] == pytest.approx([0.1, 0.2, 0.3])
    assert numbers["r2_missing"] == pytest.approx((0.5 + 0.3 + 0.1 + 0.4 + 0.2 + 0.6) / 6)
    assert fit_numbers(replace(found, r2=None))["r2_missing"] is None
    labels = ("A", "AB", "shared", "shared", "ambiguous", "dead")
    counts = label_numbers(replace(found, labels=labels))
    assert {name: counts[f"n_{name}"] for name in ("A", "B", "AB", "shared", "one-sided", "drifted", "ambiguous")} == {
        "A": 1, "B": 0, "AB": 1, "shared": 2, "one-sided": 0, "drifted": 0, "ambiguous": 1,
    }  # fmt: skip
    assert counts["exclusive_rate"] == exclusive_rate(labels) == 0.4
    assert shared_rate(labels) == 0.4
    assert exclusive_rate(["dead"]) is None


def test_histograms_cover_what_is_alive() -> None:
    _, found = the_truth(PAIR)
    bins = share_histogram(found)
    assert sum(bins) == 60
    assert (bins[0], bins[10], bins[19]) == (6, 48, 6)
    assert sum(share_histogram(replace(found, labels=("dead",) * 60))) == 0
    assert histogram(torch.tensor([0.04, 0.06, 1.0]))[:2] == [1, 1]


def test_prices_are_differences() -> None:
    row: dict[str, Any] = {"fvu_A": 0.3, "fvu_B": 0.2}
    found = prices(row, {"fvu_A": 0.25, "fvu_B": 0.3}, 2, "price")
    assert found == {"price_A": pytest.approx(0.05), "price_B": pytest.approx(-0.1)}
    assert prices(row, {}, 2, "price") == {"price_A": None, "price_B": None}


@pytest.mark.parametrize("n_models", [2, 3])
def test_columns_are_told_apart_and_explained(n_models: int) -> None:
    columns = columns_for(n_models)
    keys = [column.key for column in columns]
    assert len(keys) == len(set(keys))
    assert set(headline(n_models)) <= set(keys)
    for column in columns:
        assert column.help.endswith(".")
        assert column.title
