"""Rank correlations against scipy, intervals that cover, groups that know matched from mismatched."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from suture import seeds
from suture.interventions.responses.columns import COLUMNS, SCORES
from suture.interventions.responses.relate import ALL, groups, predictions, spearman
from suture.pipeline.table import Table

NAMES = tuple(column.name for column in SCORES)


def table_of(n: int, **own: np.ndarray) -> Table:
    values = {c.name: np.full((n, 2) if c.axes else n, np.nan) for c in COLUMNS}
    values["label"] = np.array(["shared"] * n, dtype=object)
    return Table(axes=("feature",), columns=COLUMNS, values=values | own, coordinates={"model": ["one", "two"]})


def made(n: int, slope: float, seed: int = 0) -> Table:
    draw = seeds.numpy_generator("a test", seed)
    r = draw.random(n)
    agreement = slope * r + 0.3 * draw.standard_normal(n)
    return table_of(
        n, r=r, agreement=agreement, correlation=agreement, mismatched=0.05 * draw.standard_normal(n),
        agreement_low=agreement - 0.2,
    )  # fmt: skip


def test_spearman_is_scipys_with_ties():
    draw = seeds.numpy_generator("a test", 1)
    x, y = draw.integers(4, size=40).astype(float), draw.integers(6, size=40).astype(float)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(spearman(x, np.ones(40)))


@pytest.mark.parametrize(("slope", "sure"), [(1.0, True), (0.0, False)])
def test_a_score_that_predicts_is_told_from_one_that_does_not(slope, sure):
    (found,) = predictions(made(60, slope), NAMES, n_draws=400, seed=0)
    assert found.score == "r"
    assert found.n == 60
    assert (found.interval[0] > 0) == sure
    assert found.interval[0] < found.rho < found.interval[1]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    big = predictions(made(4000, 0.4, seed=99), NAMES, n_draws=20, seed=0)[0].rho
    inside = 0
    for seed in range(60):
        (one,) = predictions(made(40, 0.4, seed=seed), NAMES, n_draws=200, seed=seed)
        inside += one.interval[0] <= big <= one.interval[1]
    assert 51 <= inside <= 60


def test_what_is_not_known_counts_for_nothing():
    table = made(30, 1.0)
    table.values["r"][:20] = np.nan
    (found,) = predictions(table, NAMES, n_draws=50, seed=0)
    assert found.n == 10
    table.values["r"][:] = np.nan
    assert predictions(table, NAMES, n_draws=50, seed=0) == ()


def test_groups_are_labels_and_all_and_say_whether_matched_pairs_lie_above():
    table = made(40, 1.0)
    table.values["label"][:10] = "A"
    table.values["correlation"][:10] = table["mismatched"][:10]
    table.values["agreement_low"][:10] = -0.1
    found = {group.label: group for group in groups(table, n_draws=300, seed=0)}
    assert list(found) == ["A", "shared", ALL]
    assert (found["A"].n, found["shared"].n, found[ALL].n) == (10, 30, 40)
    assert found["shared"].apart
    assert not found["A"].apart
    assert found["A"].n_agree == 0
    assert found["shared"].n_agree == int((table["agreement_low"][10:] > 0).sum())
    assert found["shared"].correlation == pytest.approx(float(np.median(table["correlation"][10:])))
