"""Anybody's decoders and labels, held against the truth of the rows that they were trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suture.errors import UserError
from suture.planted.benchmark import GROUNDS, score_entry, write_rows
from suture.planted.generator import PlantedModels


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("entry") / "rows", "affine", 20_000, seed=3)


@pytest.fixture(scope="module")
def truth() -> PlantedModels:
    return PlantedModels(replace(GROUNDS["affine"], seed=3))


def test_rows_are_those_of_the_ground_and_the_seed(rows: Path, truth: PlantedModels) -> None:
    for m in range(2):
        array = np.load(rows / f"model-{m}.npy")
        assert array.dtype == np.float32
        assert array.shape == (20_000, 64)
        later = truth.rows(17_000, 17_100).activations[m]
        np.testing.assert_array_equal(array[17_000:17_100], later.numpy())


def test_the_truth_itself_scores_full_marks_in_any_order_and_length(rows: Path, truth: PlantedModels) -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    length = torch.rand(200, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    decoders = [(truth.directions(m)[order] * length).numpy() for m in range(2)]
    labels = [truth.labels()[i] for i in order]
    scores = score_entry(rows, decoders, labels)
    assert scores.macro_f1 == 1.0
    assert scores.recovery_90 == scores.recovery_80_exclusive == 1.0
    assert scores.mcc == pytest.approx(1.0)
    assert scores.auroc == 1.0


def test_what_is_wrong_costs(rows: Path, truth: PlantedModels) -> None:
    decoders, labels = [truth.directions(m).numpy() for m in range(2)], truth.labels()
    swapped = [{"A": "B", "B": "A"}.get(label, label) for label in labels]
    assert score_entry(rows, decoders, swapped).macro_f1 == pytest.approx(1 / 3)
    without = score_entry(rows, decoders)
    assert without.recovery_90 == 1.0
    assert without.macro_f1 == 0.0
    half = np.arange(200) < 100
    assert score_entry(rows, decoders, labels, live=half).recovery_80 == pytest.approx(0.5, abs=0.05)
    # one model's directions turned: found in neither, since a feature stands for both
    turned = [decoders[0], decoders[1][::-1].copy()]
    assert score_entry(rows, turned, labels).recovery_90 < 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoders": [np.zeros((5, 64))]}, r"decoders = .* are not of the widths \(64, 64\)"),
        ({"decoders": [np.zeros((5, 64)), np.zeros((5, 32))]}, "decoders"),
        ({"labels": ["A"] * 4}, "labels = 4: has 4 entries for 5 features"),
        ({"labels": ["A", "B", "shared", "dead", "mine"]}, r"labels = \['mine'\]: are none of A, B, shared"),
    ],
)
def test_what_does_not_fit_is_said(rows: Path, change: dict, said: str) -> None:
    given = {"decoders": [np.zeros((5, 64))] * 2, "labels": ["A"] * 5} | change
    with pytest.raises(UserError, match=said):
        score_entry(rows, given["decoders"], given["labels"])


def test_an_unknown_ground_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ground = moon: is not known; give one of rotation"):
        write_rows(tmp_path / "rows", "moon", 10)
    assert not (tmp_path / "rows").exists()
