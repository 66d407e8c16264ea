"""The arithmetic of the comparison, and the rows that it is made on."""

from pathlib import Path

import numpy
import pytest
import train
from peers import Measured
from train import Comparison, Pair, Shape


def measured(*ms: float, peak_mb: float = 1.0) -> Measured:
    return Measured(wall_ms=list(ms), cpu_ms=[2 * m for m in ms], peak_mb=peak_mb)


def test_a_ratio_is_of_one_rounds_medians() -> None:
    pair = Pair(own=[measured(1, 2, 90), measured(4)], other=[measured(6, 5, 7), measured(8)])
    assert pair.ratios("wall") == [3.0, 2.0]
    assert pair.ratios("cpu") == [3.0, 2.0]
    assert train.typical(pair.own, "wall") == 3.0
    assert train.typical(pair.own, "cpu") == 6.0


def test_the_table_puts_the_peer_over_suture_and_suture_over_the_product() -> None:
    pairs = {
        "product float32": Pair(own=[measured(10)], other=[measured(5)]),
        "slow": Pair(own=[measured(10, peak_mb=3)], other=[measured(40, peak_mb=7)]),
    }
    found = Comparison(name="W1", dead=0.0, precision="", pairs=pairs, reasons={"gone": "why"}, notes={})
    line = train.tables([found], ["product float32"], ["slow", "gone"], "wall").splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["W1", "10 ms, 3 MB", "2.0 (2.0-2.0); 5 ms", "**4.0 (4.0-4.0)**; 40 ms, 7 MB", "-"]


def test_shapes_are_taken_at_other_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SHAPES", dict(train.SHAPES))
    assert train.at_batch_sizes(["W3"], []) == ["W3"]
    assert train.at_batch_sizes(["W3", "quick"], [1024, 4096]) == [
        "W3 at 1024", "W3 at 4096", "quick at 1024", "quick at 4096",
    ]  # fmt: skip
    assert str(train.SHAPES["W3 at 1024"]) == "crosscoder 2 x 128 -> 2048, k 16, batch 1024"


def test_rows_are_the_same_for_a_seed_and_sparser_than_their_noise(tmp_path: Path) -> None:
    shape = Shape(widths=(64, 64), n_features=64, k=4, batch_size=32)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.write_rows(tmp_path / f"{name}.npy", shape, 2000, seed=seed)
    a, b, c = (numpy.load(tmp_path / f"{name}.npy") for name in "abc")
    assert a.shape == (2000, 128)
    assert a.dtype == numpy.float32
    assert (a == b).all()
    assert not (a == c).all()
    values = numpy.linalg.eigvalsh(numpy.cov(a.T))[::-1]
    assert values[:16].sum() > 0.8 * values.sum()  # n_features / 4 directions hold nearly everything
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "b.npy", "c.npy"]


@pytest.mark.parametrize("name", train.SHAPES)
def test_every_shape_can_be_grouped_for_selection(name: str) -> None:
    shape = train.SHAPES[name]
    assert shape.n_features % 8 == 0
    assert shape.k < shape.n_features
