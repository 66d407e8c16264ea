"""The stage: each feature is saved when it is known, a stopped run goes on, and a bridge adds the carried vector."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions.conftest import FEATURES, PROMPTS, SENTENCES, known_dictionary, steer_effect
from suture.activations.moments import AffineMap
from suture.activations.space import Copy
from suture.bridges.bridge import Bridge, BridgeSummary
from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable
from suture.interventions.settings import SteerSettings
from suture.interventions.steer import steer as stage
from suture.interventions.steer.steer import steer
from suture.pipeline import artifact
from suture.pipeline.table import Column, Table

SETTINGS = SteerSettings(strengths=(0.5, 1.0), n_controls=1, n_draws=20, max_new_tokens=3, n_targets=3)
SCALES = torch.full((FEATURES,), 0.15)
CHOSEN = [0, 1, 2]


@pytest.fixture
def inputs(models, tmp_path: Path) -> dict:
    known_dictionary(models).save(tmp_path / "dictionary")
    table = FeatureTable(
        models=("one", "two"), labels=("shared",) * FEATURES, reasons=("",) * FEATURES, examples=[], logits=[],
        summary={}, columns={"q999": SCALES.double()},
    )  # fmt: skip
    parents = (tmp_path / "dictionary",)
    with artifact.create(tmp_path / "table", stage="features", settings={}, parents=parents) as draft:
        table.write(draft.folder)
    return {
        "dictionary": tmp_path / "dictionary", "table": tmp_path / "table", "lms": models, "prompts": PROMPTS,
        "neutral": SENTENCES, "settings": SETTINGS,
    }  # fmt: skip


def test_a_null_is_refused(inputs, tmp_path):
    """Its second model is a rotated copy, which no language model computes."""
    dictionary = Dictionary.load(inputs["dictionary"])
    copy = Copy(original=dictionary.spaces[0].label, rotated=True, seed=0)
    spaces = (dictionary.spaces[0], replace(dictionary.spaces[0], copy_of=copy))
    null = Dictionary(spaces, dictionary.design)
    null.save(tmp_path / "null")
    table = FeatureTable.load(inputs["table"])
    with artifact.create(tmp_path / "its", stage="features", settings={}, parents=(tmp_path / "null",)) as draft:
        table.write(draft.folder)
    with pytest.raises(UserError, match="a model and a copy of it"):
        steer(tmp_path / "out", **(inputs | {"dictionary": tmp_path / "null", "table": tmp_path / "its"}), chosen=[0])
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_keeps_what_is_done_and_goes_on_to_the_same(inputs, tmp_path, monkeypatch):
    whole = steer(tmp_path / "whole", chosen=CHOSEN, **inputs)
    saved = []

    class Stopping(stage.Effect):
        def save(self, *args, **kwargs):
            if len(saved) == 1:
                raise KeyboardInterrupt
            saved.append(self.feature)
            super().save(*args, **kwargs)

    original = stage.steered

    def steered(*args, **kwargs):
        for effect in original(*args, **kwargs):
            yield Stopping(**vars(effect))

    monkeypatch.setattr(stage, "steered", steered)
    with pytest.raises(KeyboardInterrupt):
        steer(tmp_path / "stopped", chosen=CHOSEN, **inputs)
    monkeypatch.setattr(stage, "steered", original)
    assert sorted(f.name for f in (tmp_path / "stopped").iterdir()) == ["feature-0"]
    with pytest.raises(ArtifactError, match="is there already"):
        steer(tmp_path / "stopped", chosen=CHOSEN, **inputs)
    first = (tmp_path / "stopped" / "feature-0" / "manifest.json").read_bytes()
    found = steer(tmp_path / "stopped", chosen=CHOSEN, resume=True, **inputs)
    assert (tmp_path / "stopped" / "feature-0" / "manifest.json").read_bytes() == first
    assert found == whole
    again = []
    assert steer(tmp_path / "stopped", chosen=CHOSEN, resume=True, on_progress=again.append, **inputs) == whole
    assert not again


@pytest.mark.parametrize("change", ["settings", "unit", "prompts", "neutral", "lms", "others"])
def test_what_was_made_otherwise_is_not_taken_for_done(inputs, tmp_path, change):
    steer(tmp_path / "out", chosen=[0], **inputs)
    steer(tmp_path / "out", chosen=[0], resume=True, **inputs)
    other = {"settings": replace(SETTINGS, seed=1), "prompts": PROMPTS[1:], "neutral": SENTENCES[1:],
             "lms": [inputs["lms"][0], None]}  # fmt: skip
    changed = {change: other[change]} if change in other else {}
    if change == "unit":
        changed = {"settings": replace(SETTINGS, unit="norm")}
    chosen = [0, 7] if change == "others" else [0]  # which is compared with another feature then
    with pytest.raises(ArtifactError, match="other settings, inputs or texts"):
        steer(tmp_path / "out", chosen=chosen, resume=True, **{**inputs, **changed})
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["feature-0"]


def test_an_effect_from_before_there_were_units_is_still_of_these_settings(inputs, tmp_path):
    steer(tmp_path / "out", chosen=[0], **inputs)
    made = artifact.open_artifact(tmp_path / "out" / "feature-0").settings
    assert "unit" not in made
    assert made["scale"] == pytest.approx(0.15)
    steer(tmp_path / "norm", chosen=[0], **{**inputs, "settings": replace(SETTINGS, unit="norm")})
    with pytest.raises(ArtifactError, match="other settings, inputs or texts"):
        steer(tmp_path / "norm", chosen=[0], resume=True, **inputs)


def bridge_between(dictionary, *, exact: bool) -> Bridge:
    """Maps under which every decoder row of one space becomes that of the other, or something else."""
    rows = [dictionary.decoder(m) for m in range(2)]
    maps = []
    for source in (0, 1):
        matrix = torch.linalg.pinv(rows[source]) @ rows[1 - source]
        if not exact:
            matrix = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(source))
        maps.append(
            AffineMap(
                matrix=matrix, source_mean=torch.ones(matrix.shape[0]), target_mean=torch.full((matrix.shape[1],), 2.0)
            )
        )
    summary = BridgeSummary(spaces=(), n_fit=1, n_check=1, n_judge=1, n_documents=1, null=False)
    column = Column(name="r2", title="R2", sentence="Not looked at.", axes=("kind",))
    scores = Table(axes=("kind",), columns=(column,), values={"r2": np.ones(1)}, coordinates={"kind": ["ridge"]})
    return Bridge(
        spaces=(dictionary.spaces[0], dictionary.spaces[1]), maps={"ridge": (maps[0], maps[1])}, scores=scores,
        summary=summary,
    )  # fmt: skip


def test_a_perfect_bridge_carries_the_vector_that_the_model_has_itself(models, dictionary):
    texts = {"scales": SCALES, "neutral": SENTENCES, "prompts": PROMPTS, "settings": SETTINGS}
    exact, poor = (
        steer_effect(dictionary, models, 1, bridge=bridge_between(dictionary, exact=e), **texts) for e in (True, False)
    )
    for own, worse in zip(exact.models, poor.models, strict=True):
        carried = own.control("carried")
        assert carried.n_directions == 1
        assert carried.target_effect == pytest.approx(own.target_effect, rel=1e-3)
        assert carried.kl_neutral == pytest.approx(own.kl_neutral, rel=1e-3)
        assert abs(worse.control("carried").target_effect[1]) < 0.7 * own.target_effect[1]
    without = steer_effect(dictionary, models, 1, **texts)
    assert all(m.control("carried") is None for m in without.models)


def test_a_bridge_between_other_places_is_refused(models, dictionary):
    bridge = bridge_between(dictionary, exact=True)
    other = replace(bridge, spaces=(bridge.spaces[0], replace(bridge.spaces[1], hookpoint="mlp0.out")))
    with pytest.raises(UserError, match="which the dictionary does not have"):
        steer_effect(
            dictionary, models, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=SETTINGS, bridge=other
        )
