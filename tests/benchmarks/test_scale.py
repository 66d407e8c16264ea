"""Slopes and bends, and what is grown."""

import math

import pytest
import scale
from hypothesis import given
from hypothesis import strategies as st
from scale import Point


def points(slope: float, constant: float = 3.0, factor: float = 1.0) -> list[Point]:
    """On a line, but for the last, which lies off it."""
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    return [Point(size=s, ms=constant * s**slope * (factor if s == 16 else 1.0), peak_mb=0) for s in sizes]


@given(st.floats(-1, 2), st.floats(0.01, 1e4))
def test_a_power_law_is_found_and_has_no_bends(slope: float, constant: float) -> None:
    on_it = points(slope, constant)
    line = scale.fit(on_it)
    assert line.slope == pytest.approx(slope, abs=1e-9)
    assert line.at(32.0) == pytest.approx(constant * 32.0**slope)
    assert scale.bends(on_it, line) == []


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_point_far_off_is_a_bend_in_either_direction(factor: float) -> None:
    off = points(1.0, factor=factor)
    found = scale.bends(off, scale.fit(off))
    assert off[-1] in found
    # least squares: the residual of an end point among five is 0.4 of what it was moved by
    assert off[-1].ms / scale.fit(off).at(16.0) == pytest.approx(math.exp(0.4 * math.log(factor)))


@pytest.mark.parametrize("curve", scale.CURVES)
def test_growing_one_thing_leaves_the_others(curve: str) -> None:
    grown = scale.grown(curve, 2.0)
    assert scale.size(curve, grown) == 2 * scale.size(curve, scale.MIDDLE)
    for other in set(scale.CURVES) - {curve}:
        assert scale.size(other, grown) == scale.size(other, scale.MIDDLE)


def test_there_is_always_one_model_left() -> None:
    assert scale.grown("models", 0.25).widths == scale.MIDDLE.widths[:1]


def test_the_table_names_slope_and_bends_once() -> None:
    rows = scale.curve_rows("k", points(1.0, factor=3.0))
    assert rows[0][0] == "k"
    assert "16 (1.55 of the line)" in rows[0][5]
    assert all(row[4:] == ["", ""] for row in rows[1:])
