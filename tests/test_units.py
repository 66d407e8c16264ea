"""How numbers are written for a reader."""

import pytest

from suture import units


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0, "0"), (0.12345, "0.123"), (23.456, "23.5"), (12345.6, "12,346"), (0.00012, "1.20 × 10⁻⁴"),
     (float("nan"), "–"), (-0.5, "-0.500"), (2.5e7, "2.50 × 10⁷")],
)  # fmt: skip
def test_number(value: float | None, written: str) -> None:
    assert units.number(value).replace("\xa0", " ") == written


def test_seconds() -> None:
    assert [units.seconds(s) for s in (0.25, 59.9, 61, 3700)] == ["0.2 s", "59.9 s", "1 min 1 s", "1 h 1 min"]
