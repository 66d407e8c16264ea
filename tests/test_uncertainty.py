"""The bootstrap against theory and simulation, Benjamini-Hochberg against scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suture.uncertainty import (
    Draws,
    Ratio,
    auroc_interval,
    by_unit,
    correlation,
    deal_groups,
    discoveries,
    ends,
    hashed_rank,
    interval,
    mean_interval,
    p_below,
    ratio_interval,
)


def test_groups_keep_documents_whole_and_are_equal() -> None:
    documents = torch.arange(103).repeat_interleave(3) * 7
    group = deal_groups(documents, 10)
    assert all(len(torch.unique(group[documents == d])) == 1 for d in documents.unique())
    sizes = torch.bincount(group[::3], minlength=10)
    assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(torch.sort(group[::3]).values, group[::3])  # neighbours are not dealt to neighbours


def test_the_order_of_documents_depends_on_their_numbers_alone() -> None:
    few, many = torch.tensor([3, 9, 50]), torch.arange(60)
    assert torch.equal(torch.argsort(hashed_rank(few)), torch.argsort(hashed_rank(many)[few]))


def test_the_spread_of_a_mean_is_its_standard_error() -> None:
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    assert torch.allclose(Ratio(x, torch.ones_like(x)).spread, x.std(0) / 40**0.5)


def test_draws_of_groups_spread_as_the_linearised_ratio_does() -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.rand(50, 100, generator=generator, dtype=torch.float64) + 0.5
    x = w * 2 + 0.3 * torch.randn(50, 100, generator=generator, dtype=torch.float64)
    draws = Draws.make(50, 4000, 0)
    drawn = draws.sums(x) / draws.sums(w)
    assert float((drawn.mean(0) / Ratio(x, w).value - 1).abs().max()) < 0.01
    assert float((drawn.std(0) / Ratio(x, w).spread - 1).abs().max()) < 0.08


@pytest.mark.parametrize("n_fired", [5, 15, 50])
def test_p_values_of_true_nulls_are_uniform_even_with_few_groups(n_fired: int) -> None:
    """The normal in place of Student's t has 3 % of them below 0.005 at five groups."""
    generator = torch.Generator().manual_seed(2)
    n_groups, n_features = 50, 20_000
    fired = torch.rand(n_groups, n_features, generator=generator).argsort(0) < n_fired
    w = fired.double() * (torch.rand(n_groups, n_features, generator=generator, dtype=torch.float64) + 0.5)
    x = w.sqrt() * torch.randn(n_groups, n_features, generator=generator, dtype=torch.float64)
    p = p_below(Ratio(x, w))
    assert float((p < 0.05).double().mean()) == pytest.approx(0.05, abs=0.006)
    assert float((p < 0.005).double().mean()) == pytest.approx(0.005, abs=0.002)
    assert float((p > 0.95).double().mean()) == pytest.approx(0.05, abs=0.006)


def test_p_is_one_without_evidence() -> None:
    nothing = torch.zeros(10, 3, dtype=torch.float64)
    one_group = nothing.clone()
    one_group[4] = -1.0
    assert p_below(Ratio(nothing, nothing)).tolist() == [1, 1, 1]
    assert p_below(Ratio(one_group, one_group.abs())).tolist() == [1, 1, 1]


def test_draws_are_fixed_by_their_seed() -> None:
    assert torch.equal(Draws.make(9, 30, 4).counts, Draws.make(9, 30, 4).counts)
    assert not torch.equal(Draws.make(9, 30, 4).counts, Draws.make(9, 30, 5).counts)
    assert Draws.make(9, 30, 4).counts.sum(1).tolist() == [9.0] * 30


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([0.01, 0.05, 0.3]), st.integers(0, 10**6))
def test_discoveries_are_scipys(p: list[float], q: float, seed: int) -> None:
    among = np.random.default_rng(seed).random(len(p)) < 0.7
    values = np.array(p) ** 3  # more small ones
    expected = np.zeros(len(p), dtype=bool)
    if among.any():
        adjusted = stats.false_discovery_control(values[among])
        if (abs(adjusted - q) < 1e-9).any():
            return
        expected[among] = adjusted <= q
    found = discoveries(torch.from_numpy(values), torch.from_numpy(among), q)
    assert found.tolist() == expected.tolist()


def test_the_interval_of_a_mean_is_scipys_bootstrap() -> None:
    draws = Draws.make(40, 4000, 0)
    values = torch.randn(40, generator=torch.Generator().manual_seed(0)).double() + 2
    found = ratio_interval(values, torch.ones(40), draws)
    reference = stats.bootstrap((values.numpy(),), np.mean, method="percentile", n_resamples=4000, rng=1)
    assert found == pytest.approx(tuple(reference.confidence_interval), abs=0.03)
    assert ratio_interval(values[:1], torch.ones(1), Draws.make(1, 10, 0)) is None
    assert float(Draws.whole(40).sums(values)) == pytest.approx(float(values.sum()))


def test_draws_without_a_number_are_left_out_of_an_interval() -> None:
    drawn = torch.tensor([[1.0, torch.nan], [3.0, torch.nan], [torch.nan, torch.nan]]).double()
    low, high = ends(drawn)
    assert (float(low[0]), float(high[0])) == pytest.approx((1.05, 2.95))
    assert bool(low[1].isnan())
    assert interval(drawn[:, 0]) == pytest.approx((1.05, 2.95))


def test_sums_by_unit_are_added_up_row_by_row() -> None:
    values = torch.arange(8.0).view(4, 2)
    assert by_unit(values, torch.tensor([2, 0, 2, 0]), 3).tolist() == [[8.0, 10.0], [0.0, 0.0], [4.0, 6.0]]


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3), st.integers(3, 30))
def test_the_correlation_is_numpys(seed: int, offset: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n)) + offset
    weight = rng.integers(0, 4, n) + (np.arange(n) < 3)
    sums = [torch.tensor((weight * v).sum(), dtype=torch.float64) for v in (np.ones(n), x, y, x * x, y * y, x * y)]
    expected = np.corrcoef(np.repeat(x, weight), np.repeat(y, weight))[0, 1]
    assert float(correlation(*sums)) == pytest.approx(expected, abs=1e-5)


def test_a_constant_has_no_correlation() -> None:
    x, y = np.full(7, 0.1), np.arange(7.0)
    sums = [torch.tensor(v.sum(), dtype=torch.float64) for v in (np.ones(7), x, y, x * x, y * y, x * y)]
    assert bool(correlation(*sums).isnan())


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_an_interval_over_seeds_is_students(values: list[float]) -> None:
    found = mean_interval(values)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=max(stats.sem(values), 1e-300))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_one_seed_has_no_interval_and_what_is_no_number_is_left_out() -> None:
    one = mean_interval([float("nan"), 2.0, None])
    assert one is not None
    assert (one.mean, one.low, one.high, one.n) == (2.0, None, None, 1)
    assert mean_interval([None, float("nan")]) is None


@pytest.mark.parametrize(("true", "n_positive", "n_negative"), [(0.6, 40, 60), (0.9, 20, 80), (0.97, 60, 30)])
def test_the_interval_of_a_roc_auc_holds_the_true_one(true: float, n_positive: int, n_negative: int) -> None:
    draw = np.random.default_rng(0)
    apart = np.sqrt(2) * stats.norm.ppf(true)
    held, n_draws = 0, 400
    for _ in range(n_draws):
        positive, negative = draw.normal(apart, size=n_positive), draw.normal(size=n_negative)
        auc = stats.mannwhitneyu(positive, negative).statistic / (n_positive * n_negative)
        low, high = auroc_interval(float(auc), n_positive, n_negative)
        assert 0 <= low <= auc <= high <= 1
        held += low <= true <= high
    assert 0.92 <= held / n_draws <= 0.99


def test_the_interval_of_a_roc_auc_at_its_ends_and_of_nothing() -> None:
    low, high = auroc_interval(1.0, 30, 30)
    assert high == 1
    assert 0.9 < low < 0.95, "thirty of either kind told apart are not all there are"
    assert auroc_interval(0.0, 30, 30) == pytest.approx((0, 1 - low))
    assert np.isnan(auroc_interval(float("nan"), 0, 5)).all()
    narrow, wide = (auroc_interval(0.8, n, n) for n in (1000, 10))
    assert narrow[1] - narrow[0] < 0.25 * (wide[1] - wide[0])
