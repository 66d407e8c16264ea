"""A column stands in one place: its files, the report, --json, pandas and the documentation follow."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from features.conftest import Case, random_dictionary
from suture.activations.store import Store
from suture.features import columns
from suture.features.classify import classify
from suture.features.columns import ABOUT, MEASURES, Evidence, Measure, column_called, documented, measured
from suture.features.describe import features
from suture.features.table import FeatureTable
from suture.pipeline.table import Column, explained
from suture.report.page import find_artifacts, report
from suture.report.pieces import unpacked

ROOT = Path(__file__).resolve().parents[2]


def test_a_new_column_is_one_edit(planted: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    column = Column(name="threes", title="Threes of {}", sentence="Three for {} and <b>.", format="share", group="New")
    new = Measure(column=column, of=lambda e: torch.full((e.stats.n_features, e.n_models), 0.3), per="share")
    monkeypatch.setattr(columns, "MEASURES", (*MEASURES, new))
    random_dictionary(planted).save(tmp_path / "dictionary", settings={"heldout": 0.3, "seed": 0})
    features(tmp_path / "features", tmp_path / "dictionary", planted)
    table = FeatureTable.load(tmp_path / "features")
    page = report(tmp_path / "r.html", find_artifacts(tmp_path)).read_text(encoding="utf-8")
    said = {"title": "Threes of B", "help": "Three for B and <b>.", "kind": "share", "group": "New"}
    (index,) = re.findall(r'<script type="text/plain" id="t0">([^<]*)</script>', page)
    assert unpacked(index)["meta"]["threes"] == said  # the report
    assert table.table.summary()["threes"]["median"] == pytest.approx(0.3)  # --json
    assert table.table.summary()["threes"]["title"] == "Threes of B"
    assert table.to_pandas()["threes"].tolist() == pytest.approx([0.3] * table.n_features)  # pandas
    assert "| `threes` | Threes of B | Three for B and <b>. |" in explained(documented(), ABOUT)  # the documentation


def test_the_documentation_is_as_it_would_be_written() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "column_docs.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0, "run scripts/column_docs.py"


def test_every_column_has_a_sentence_and_a_name_of_its_own() -> None:
    names = [column.name for column in documented()]
    assert len(set(names)) == len(names)
    for column in documented():
        assert column.sentence.endswith("."), column.name
        assert "{}" not in column.title + column.sentence, column.name


def test_columns_are_known_by_name(case: Case) -> None:
    specs, values = measured(Evidence(stats=case.stats, labels=classify(case.stats), dictionary=case.dictionary))
    assert [spec.name for spec in specs] == list(values)
    assert tuple(column_called(name) for name in values) == specs
    assert column_called("refit_share_C").title == "Refit share of C"
    assert column_called("usage_share_low_B").title == "Usage share of B, low"
    assert column_called("mapped_cosine_AC").name == "mapped_cosine_AC"
    assert column_called("beta_eps_C").title == "β error, C"
    assert column_called("of_a_later_version").sentence == ""
