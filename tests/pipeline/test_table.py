"""Laws of tables: saving and loading is identity, all ways out have the same numbers, HTML is escaped."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from suture.errors import ArtifactError, UserError
from suture.pipeline import table as tables
from suture.pipeline.table import Column, Table, explained

NASTY = "<script>alert('x')</script> & \"y\""


@pytest.fixture
def table() -> Table:
    columns = (
        Column(name="rate", title="Rate", sentence="How often it fires.", format="percent", axes=("feature",)),
        Column(name="count", title="Rows", sentence="On how many rows.", unit="rows", format="integer"),
        Column(name="share", title="Share", sentence="Of the model.", format="share", axes=("feature", "space")),
        Column(name="why", title=NASTY, sentence=NASTY, format="text"),
    )
    values = {
        "rate": np.array([0.25, np.nan, 0.5]),
        "count": np.array([4, 0, 8]),
        "share": np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]),
        "why": np.array(["", NASTY, "سلام\n🧵"], dtype=object),
    }
    return Table(axes=("feature",), columns=columns, values=values, coordinates={"space": ("A", "B")})


@pytest.fixture
def layers() -> Table:
    """A layer of one model and a layer of another."""
    column = Column(name="cka", title="CKA", sentence="How alike.", format="correlation", better="high")
    places = {"layer of A": ("mlp0.out", "mlp1.out"), "layer of B": ("mlp0.out", "mlp1.out", "mlp2.out")}
    return Table(
        axes=tuple(places), columns=(column,), values={"cka": np.arange(6.0).reshape(2, 3) / 10}, coordinates=places
    )


def test_save_and_load_is_the_identity(table: Table, layers: Table, tmp_path: Path) -> None:
    for one in (table, layers):
        one.save(tmp_path / "t.safetensors")
        again = Table.load(tmp_path / "t.safetensors")
        assert (again.axes, again.columns, repr(again)) == (one.axes, one.columns, repr(one))
        assert {a: list(n) for a, n in again.coordinates.items()} == {a: list(n) for a, n in one.coordinates.items()}
        for name, values in one.values.items():
            assert again[name].dtype == values.dtype
            assert np.array_equal(again[name], values, equal_nan=values.dtype.kind == "f"), name


def test_rows_are_laid_flat(table: Table, layers: Table) -> None:
    assert [name for name, _ in table.flat()] == ["rate", "count", "share_A", "share_B", "why"]
    assert table.to_pandas()["share_B"].tolist() == [0.5, 0.75, 0.0]
    frame = layers.to_pandas()
    assert list(frame.columns) == ["layer of A", "layer of B", "cka"]
    assert frame.iloc[4].tolist() == ["mlp1.out", "mlp1.out", 0.4]
    assert (len(layers), layers.shape) == (6, (2, 3))
    assert frame.attrs["columns"] == {"cka": "How alike."}


def test_every_way_out_has_the_same_numbers(table: Table, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rate"] for row in rows] == ["0.25", "", "0.5"]
    assert [row["why"] for row in rows] == table["why"].tolist()
    table.to_parquet(tmp_path / "t.parquet")
    pandas = pytest.importorskip("pandas")
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "t.parquet"), table.to_pandas())
    assert table.summary()["rate"] == {
        "title": "Rate", "sentence": "How often it fires.", "unit": "", "n": 2, "min": 0.25, "median": 0.375, "max": 0.5
    }  # fmt: skip
    assert "why" not in table.summary()
    cut = replace(table, values={**table.values, "why": np.array(["half \ud83d", "", ""], dtype=object)})
    assert cut.to_pandas()["why"][0] == "half \ufffd"
    assert table.summary()["share_A"]["title"] == "Share, A"


def test_a_notebook_shows_the_first_rows_escaped(table: Table) -> None:
    shown = table._repr_html_()
    assert "<script>" not in shown
    assert shown.count("<tr>") == 4
    assert "25.0\xa0%" in shown
    assert 'data-v=""' in shown  # what has no number is sorted last
    many = replace(table, values={name: np.repeat(values, 40, axis=0) for name, values in table.values.items()})
    shown = many._repr_html_()
    assert shown.count("<tr>") == 51
    assert "First 50 rows of 120." in shown
    assert repr(many) == "Table(120 feature; 4 columns: rate, count, share, why)"


def test_columns_are_explained(table: Table) -> None:
    columns = [replace(column, group="Numbers") for column in table.columns[:2]]
    said = explained(columns, {"Numbers": "All measured."})
    assert said.startswith("### Numbers\n\nAll measured.\n\n| column |")
    assert said.endswith("| `count` | Rows | On how many rows. |\n")


def test_what_is_no_table_is_refused(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").write_bytes(b"nothing")
    for path in (tmp_path / "t", tmp_path / "missing"):
        with pytest.raises(ArtifactError, match="cannot be read"):
            Table.load(path)
    with pytest.raises(AssertionError, match="has 2 of feature"):
        replace(table, values={**table.values, "count": np.array([1, 2])})

    def missing(_: str) -> None:
        raise ImportError

    monkeypatch.setattr(tables.importlib, "import_module", missing)
    with pytest.raises(UserError, match="pip install pandas"):
        table.to_pandas()
