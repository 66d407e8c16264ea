"""A table on disk is the table in memory; its files have the shapes that the report reads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from features.conftest import Case
from forged import forge
from suture.errors import ArtifactError
from suture.features.classify import classify
from suture.features.columns import Evidence, measured
from suture.features.examples import examples
from suture.features.table import FeatureTable


@pytest.fixture(scope="module")
def table(case: Case) -> FeatureTable:
    labels = classify(case.stats)
    specs, columns = measured(Evidence(stats=case.stats, labels=labels, dictionary=case.dictionary))
    return FeatureTable(
        models=case.stats.models,
        labels=labels.label,
        reasons=labels.reason,
        columns=columns,
        specs=specs,
        examples=examples(case.stats, case.store),
        logits=[[{"promoted": [[" a", 1.5]], "suppressed": []}] * 2] * case.stats.n_features,
        summary={"counts": labels.counts, "null": False},
    )


def test_save_and_load_is_the_identity(table: FeatureTable, tmp_path: Path) -> None:
    table.save(tmp_path / "features", settings={"anything": 1})
    again = FeatureTable.load(tmp_path / "features")
    assert (again.models, again.labels, again.reasons) == (table.models, table.labels, table.reasons)
    assert list(again.columns) == list(table.columns)
    for name, column in table.columns.items():
        assert torch.equal(again.column(name).nan_to_num(nan=-7), column.nan_to_num(nan=-7)), name
    assert again.examples == table.examples
    assert again.logits == table.logits
    assert again.summary == table.summary
    assert again.counts == table.counts
    assert again.described == table.described


def test_a_file_that_does_not_describe_its_columns_is_read(table: FeatureTable, tmp_path: Path) -> None:
    plain = replace(table, specs=())
    assert plain.described == table.described  # looked up by name
    plain.save(tmp_path / "features")
    file = tmp_path / "features" / "columns.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    del written["described"]  # as format version 1
    forge(tmp_path / "features", "columns.json", json.dumps(written).encode())
    assert FeatureTable.load(tmp_path / "features").described == table.described


def test_a_table_says_what_a_person_wants(table: FeatureTable) -> None:
    said = repr(table)
    assert said.startswith("FeatureTable(24 features of planted-A @ planted x planted-B @ planted: ")
    assert f"; {len(table.columns)} columns)" in said
    assert len(said) < 200
    frame = table.to_pandas()
    assert list(frame.columns) == ["label", "reason", *table.columns]
    assert frame["label"].tolist() == list(table.labels)
    assert frame["refit_share"].to_numpy() == pytest.approx(table.column("refit_share").numpy(), nan_ok=True)
    assert "<th title=" in table._repr_html_()


def test_the_columns_file_is_what_the_report_reads(table: FeatureTable, tmp_path: Path) -> None:
    table.save(tmp_path / "features")
    written = json.loads((tmp_path / "features" / "columns.json").read_text(encoding="utf-8"))
    n = table.n_features
    assert written["n_features"] == n
    assert written["models"] == list(table.models)
    promised = (
        "index label rate mean_active q50 q90 q99 q999 decoder_share attribution cofire_correlation cofire_jaccard"
    )
    promised += " nu_eps nu_r refit_share refit_share_low refit_share_high raw_share p_exclusive reason"
    assert set(promised.split()) <= set(written["columns"])
    assert all(len(values) == n for values in written["columns"].values())
    assert written["columns"]["index"] == list(range(n))
    dead = table.labels.index("dead")
    assert written["columns"]["rate"][dead] == 0
    assert written["columns"]["mean_active"][dead] is None


def test_columns_say_what_they_are_called(case: Case, table: FeatureTable) -> None:
    norms = case.dictionary.decoder_norms().double() / torch.tensor([6.0, 10.0]).double().sqrt()
    assert torch.allclose(table.column("decoder_share"), norms[:, 1] / norms.sum(1))
    assert torch.allclose(table.column("rate"), case.stats.firing.counts.double() / 820)
    assert float(table.column("energy_share").sum()) == pytest.approx(1)
    scaling = case.stats.scaling
    assert scaling is not None
    i = int((norms[:, 0] - norms[:, 1]).where(scaling.amount_eps.isfinite().all(1), -torch.inf).argmax())
    expected = float(scaling.amount_eps[i, 1] / scaling.amount_eps[i, 0])
    assert norms[i, 0] > norms[i, 1]
    assert float(table.column("nu_eps")[i]) == pytest.approx(expected)
    assert "decoder_cosine" not in table.columns  # widths differ


def test_refusals(table: FeatureTable, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        FeatureTable.load(tmp_path / "nowhere")
    table.save(tmp_path / "features")
    with pytest.raises(ArtifactError, match="finished already"):
        table.save(tmp_path / "features")
    for content, said in ((b"{", "cannot be read"), (b"[]", "cannot be read")):
        forge(tmp_path / "features", "columns.json", content)
        with pytest.raises(ArtifactError, match=said):
            FeatureTable.load(tmp_path / "features")
    (tmp_path / "features" / "columns.json").write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=r"columns.json is damaged \(checksum differs\)"):
        FeatureTable.load(tmp_path / "features")
