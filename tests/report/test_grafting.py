"""The report's section on grafting: every intervention stands in the table and in the one plot, with its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from report.parsed_page import Page
from suture.interventions.graft.columns import CANDIDATES, CURVE, DETECTORS, OUTCOMES
from suture.interventions.graft.graft import STAGE
from suture.interventions.graft.make import Grafting, GraftSummary
from suture.pipeline import artifact
from suture.pipeline.table import Column, Table
from suture.report.figures import graft_curve
from suture.report.gather import Gathered, gather
from suture.report.grafting import grafts

ROWS = {
    "as it is": ("as it is", 0.93, 0.0, np.nan),
    "graft": ("graft", 0.013, 0.0008, np.nan),
    "difference": ("other way", 0.087, -0.0004, np.nan),
    "safe model's activation at attn0.out": ("ceiling", 0.021, 0.0025, np.nan),
    "random features, draw 1": ("control", 0.947, 0.0018, 0.941),
    "fine-tuned <again>": ("control", 0.951, -0.0051, np.nan),
}
"""Name -> group, success, clean loss, success at the graft's cost."""


def table_of(axis: str, names: list[str], columns: tuple[Column, ...], known: dict[str, list[object]]) -> Table:
    values = {
        c.name: np.array(
            known.get(c.name, ["" if c.format == "text" else 0] * len(names)),
            dtype={"text": object, "integer": np.int64}.get(c.format, np.float64),
        )
        for c in columns
    }
    return Table(axes=(axis,), columns=columns, values=values, coordinates={axis: names})


@pytest.fixture
def found() -> Grafting:
    groups, success, clean, at_cost = (list(own) for own in zip(*ROWS.values(), strict=True))
    outcomes = {"group": groups, "greedy": success, "clean": clean, "greedy_at_cost": at_cost}
    curve = {
        "greedy": [0.93, 0.2, 0.013], "greedy_low": [0.88, 0.14, 0.004], "greedy_high": [0.96, 0.27, 0.047],
        "clean": [0.0, 0.0001, 0.0008], "feature": [-1, 818, 244], "chosen": [0, 0, 1],
    }  # fmt: skip
    detected = {"auc_first": [0.876], "auc_all": [0.765]}
    return Grafting(
        outcomes=table_of("intervention", list(ROWS), OUTCOMES, outcomes),
        curve=table_of("features", ["0", "1", "2"], CURVE, curve),
        candidates=table_of("candidate", ["0"], CANDIDATES, {}),
        detectors=table_of("detector", ["feature 818 at attn0.out"], DETECTORS, detected),
        summary=GraftSummary(
            model="unsafe", safe="safe", way="remove", hookpoints=("attn0.out", "mlp0.out"), features=((818,), (244,)),
            live=(661, 937), n_choosing=60, n_fresh=150, statements=("A thing to know.",),
        ),
    )  # fmt: skip


def test_every_intervention_is_a_mark_in_the_plot_of_the_curve(found):
    line, *marks = graft_curve(found)["data"]
    assert line["y"] == [0.93, 0.2, 0.013]
    assert line["x"] == pytest.approx([0.0, 0.01, 0.08])
    assert line["error_y"]["array"] == pytest.approx([0.03, 0.07, 0.034])
    shown = {name: (x, y) for trace in marks for name, x, y in zip(trace["text"], trace["x"], trace["y"], strict=True)}
    wanted = {
        name.replace("<", "&lt;"): (100 * clean, success)
        for name, (group, success, clean, _) in ROWS.items()
        if group != "as it is"
    }
    assert set(shown) == set(wanted)
    for name, place in wanted.items():
        assert shown[name] == pytest.approx(place, abs=1e-3), name
    assert len({trace["marker"]["symbol"] for trace in marks}) == 4


def test_the_tables_say_what_was_measured(found, tmp_path):
    with artifact.create(tmp_path / "mended", stage=STAGE, settings={}) as draft:
        found.write(draft.folder)
    section = grafts(gather([tmp_path / "mended"]))
    assert section is not None
    page = Page(str(section))
    for name in ROWS:
        assert name in page.text
    for said in ("93.0", "1.3", "+0.08 %", "\u22120.51 %", "94.1", "0.876", "0.765", "A thing to know.", "mended"):
        assert said in page.text, said
    assert "2 features (1 at attn0.out, 1 at mlp0.out) of unsafe" in page.text
    assert "150 documents that chose nothing" in page.text
    assert len(page.data["graft-0"]["data"]) == 5
    assert grafts(Gathered(artifacts=[], comparisons=[], nulls=[])) is None
