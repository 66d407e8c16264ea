"""How many rows from scratch a started run is worth: read between the runs that were made, never beyond them."""

import math

import pytest

import bridges

RUNS = [
    {"begun": bridges.SCRATCH, "n_rows": n, "mean_fvu": fvu}
    for n, fvu in ((100_000, 0.2), (25_000, 0.4), (50_000, 0.3))
]


def test_rows_are_read_between_the_runs_from_scratch() -> None:
    assert bridges.rows_from_scratch(0.3, RUNS) == pytest.approx(50_000)
    assert bridges.rows_from_scratch(0.35, RUNS) == pytest.approx(math.sqrt(25_000 * 50_000))
    assert bridges.rows_from_scratch(0.2, RUNS) == pytest.approx(100_000)
    assert bridges.rows_from_scratch(0.19, RUNS) == math.inf
    assert bridges.rows_from_scratch(0.41, RUNS) == 0


def test_it_is_said_what_is_known_and_no_more() -> None:
    begun = [{"begun": bridges.GENTLY, "n_rows": 10_000, "mean_fvu": fvu} for fvu in (0.3, 0.1, 0.5)]
    told = bridges.sentence([*RUNS, *begun])
    assert "10,000 rows from two single ones, gently: as good as 50,000 from scratch (5.0 times as many)" in told
    assert "better than 100,000 from scratch" in told
    assert "worse than 25,000 from scratch" in told
