"""Features of every label steered in both models, from end to end; refusals; what is finished is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions.conftest import FEATURES, PROMPTS, SENTENCES, known_dictionary
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable
from suture.interventions.responses.choose import chosen_features
from suture.interventions.responses.responses import Responses, responses
from suture.interventions.settings import ResponseSettings, SteerSettings
from suture.interventions.steer.effect import Effect
from suture.pipeline import artifact

STEERING = SteerSettings(
    strengths=(0.5, 1.0), n_controls=1, n_random=0, n_draws=60, max_new_tokens=4, n_targets=3, n_mismatched=3
)
SETTINGS = ResponseSettings(each_label=3)


def table_of(labels: tuple[str, ...]) -> FeatureTable:
    n = len(labels)
    r = torch.linspace(0, 1, n).double()
    share = torch.tensor([{"A": 0.05, "B": 0.95}.get(label, 0.5) for label in labels]).double()
    return FeatureTable(
        models=("one", "two"), labels=labels, reasons=("",) * n, examples=[], logits=[], summary={},
        columns={
            "n_active": torch.full((n,), 50.0).double(), "rate": torch.full((n,), 0.01).double(),
            "q999": torch.full((n,), 0.15).double(), "cofire_correlation": r, "cofire_jaccard": r / 2,
            "refit_share": share,
        },
    )  # fmt: skip


LABELS = ("shared",) * 12 + ("A",) * 6 + ("dead",) * 6


@pytest.fixture
def inputs(models, tmp_path: Path) -> dict:
    dictionary = known_dictionary(models)
    with torch.no_grad():
        for i in range(12, 18):  # exclusive ones write in the first model alone
            dictionary.W_dec[i, dictionary.columns(1)] *= 1e-3
    dictionary.save(tmp_path / "dictionary")
    parents = (tmp_path / "dictionary",)
    with artifact.create(tmp_path / "table", stage="features", settings={}, parents=parents) as draft:
        table_of(LABELS).write(draft.folder)
    return {
        "dictionary": tmp_path / "dictionary", "table": tmp_path / "table", "lms": models, "prompts": PROMPTS,
        "neutral": SENTENCES, "steering": STEERING, "settings": SETTINGS,
    }  # fmt: skip


def test_features_are_chosen_over_the_whole_range_of_every_label():
    table = table_of(LABELS)
    assert chosen_features(table, 3) == [0, 6, 11, 12, 14, 17] or chosen_features(table, 3) == [0, 5, 11, 12, 14, 17]
    assert chosen_features(table, 100) == list(range(18))
    assert len(chosen_features(table, 1)) == 2
    table.columns["rate"][0] = 0.5
    table.columns["n_active"][11] = 3
    table.columns["q999"][12] = 0
    assert not {0, 11, 12} & set(chosen_features(table, 100))


def test_the_table_holds_what_the_effects_say(inputs, tmp_path):
    found = responses(tmp_path / "out", **inputs)
    chosen = [int(i) for i in found.responses["number"]]
    effects = [Effect.load(tmp_path / "out" / "effects" / f"feature-{i}") for i in chosen]
    assert found.responses["agreement"] == pytest.approx([e.agreement.value for e in effects])
    assert found.responses["mismatched"] == pytest.approx([e.agreement.mismatched for e in effects])
    for m in (0, 1):
        assert found.responses["collateral"][:, m] == pytest.approx([e.models[m].collateral[1] for e in effects])
    assert found.responses["evenness"] == pytest.approx([1.0 if c < 12 else 0.1 for c in chosen])
    assert np.isnan(found.responses["r_ctx"]).all()  # no store
    assert np.isfinite(found.responses["surprise"]).any()
    assert {g.label: g.n for g in found.summary.groups} == {"A": 3, "shared": 3, "all": 6}
    assert found.summary.groups[-1].n == 6
    assert [p.score for p in found.summary.predictions] == ["r", "jaccard", "evenness"]
    again = Responses.load(tmp_path / "out" / "responses")
    assert again.summary == found.summary
    assert again.sentences == found.sentences
    assert "shared: 3 features" in found.sentences[1]
    assert json.dumps(found.to_json())


def test_what_is_finished_is_kept_and_other_settings_are_refused(inputs, tmp_path):
    first = responses(tmp_path / "out", **inputs)
    seen = []
    again = responses(tmp_path / "out", on_progress=seen.append, **inputs)
    assert not seen
    assert again.summary == first.summary
    with pytest.raises(ArtifactError, match="other settings, inputs or texts"):
        responses(tmp_path / "out", **{**inputs, "steering": replace(STEERING, seed=3)})


def test_the_causal_check_is_set_beside(inputs, tmp_path):
    inputs["settings"] = replace(SETTINGS, each_label=1, causal=True)
    found = responses(tmp_path / "out", **inputs)
    assert (tmp_path / "out" / "causal" / "causal.json").is_file()
    assert len(found.responses["causal"]) == 2


def test_a_table_without_two_models_is_refused(inputs, tmp_path):
    table = table_of(LABELS)
    columns = {name: own for name, own in table.columns.items() if name != "cofire_correlation"}
    with pytest.raises(UserError, match="no co-firing of two models"):
        chosen_features(replace(table, columns=columns), 3)
    with pytest.raises(UserError, match="fire enough"):
        chosen_features(replace(table, labels=("dead",) * FEATURES), 3)
    with artifact.create(
        tmp_path / "alone", stage="features", settings={}, parents=(tmp_path / "dictionary",)
    ) as draft:
        replace(table, models=("one",)).write(draft.folder)
    with pytest.raises(UserError, match="is of one model"):
        responses(tmp_path / "out", **{**inputs, "table": tmp_path / "alone"})
    assert not (tmp_path / "out").exists()
