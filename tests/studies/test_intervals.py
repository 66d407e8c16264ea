"""Intervals over seeds are Student's t."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from suture.studies.intervals import mean_interval


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_the_interval_is_scipys(values: list[float]) -> None:
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
