"""Paired differences over seeds."""

from statistics import stdev

import precision
import pytest
from precision import Curve


def test_pairing_takes_the_seeds_out_of_the_difference() -> None:
    plain = [0.1, 0.5, 0.9]
    found = precision.paired(plain, [value + 0.01 for value in plain])
    assert found.difference == pytest.approx(0.01)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert found.between_seeds == stdev(plain)
    assert found.within


def test_a_difference_larger_than_between_seeds_is_named() -> None:
    assert not precision.paired([0.10, 0.11], [0.15, 0.16]).within
    assert not precision.paired([0.15, 0.16], [0.10, 0.11]).within


def test_the_standard_error_is_that_of_the_mean_difference() -> None:
    assert precision.paired([0.0, 0.0], [1.0, 3.0]).standard_error == pytest.approx(1.0)


def test_every_step_and_the_recovery_are_compared() -> None:
    curves = [Curve(fvu={10: 0.5, 20: value}, recovered=0.9, seconds=1.0) for value in (0.2, 0.3)]
    found = precision.differences({"float32": curves, "bfloat16": curves})
    assert list(found) == ["FVU after 10 steps", "FVU after 20 steps", "concepts recovered at cosine 0.9"]
    assert all(d.difference == 0 and d.within for d in found.values())
