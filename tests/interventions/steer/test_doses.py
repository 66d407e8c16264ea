"""Strength as a KL budget: the search on known curves, and in models against a pass at the strength it found."""

import math
from dataclasses import replace

import pytest
import torch

from interventions.conftest import FEATURES, PROMPTS, SENTENCES, steer_effect, steer_many
from suture.errors import UserError
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.doses import MOST, TOLERANCE, met, next_strength, settle
from suture.interventions.steer.effect import Effect

SCALES = torch.full((FEATURES,), 0.15)


def search(kl, budget):
    curve = {}
    while (strength := next_strength(curve, budget)) is not None:
        assert strength not in curve, "tried twice"
        curve[strength] = kl(strength)
        assert len(curve) < 60
    return *settle(curve, budget), curve


@pytest.mark.parametrize(
    ("kl", "most"),
    [
        (lambda s: 0.3 * s * s, 4),
        (lambda s: 1e-4 * s * s, 8),
        (lambda s: 5e4 * s * s, 8),
        (lambda s: 6 * (1 - math.exp(-s * s)), 9),
        (lambda s: 0.01 * s**4, 10),
        (lambda s: 6 * s / (1 + s), 10),
        (lambda s: 8 / (1 + math.exp(-20 * (s - 3))), 25),  # next to nothing, then all at once
    ],
    ids=["square", "weak", "strong", "saturating", "steep", "concave", "cliff"],
)
@pytest.mark.parametrize("budget", [0.03, 0.3, 2.0])
def test_the_strength_of_a_budget_is_found(kl, most, budget):
    strength, reached, curve = search(kl, budget)
    assert reached
    assert kl(strength) == pytest.approx(budget, rel=TOLERANCE)
    assert met(kl(strength), budget)
    assert len(curve) <= most


@pytest.mark.parametrize(
    ("kl", "nearest"),
    [
        (lambda _: 0.0, 0.0),  # a direction of no length
        (lambda s: 0.2 * (1 - math.exp(-s)), 0.2),  # saturates below
        (lambda s: 1e-8 * s * s, 1e-8 * MOST**2),
        (lambda s: 0.1 if s < 3 else 1.0, 0.1),  # jumps over
    ],
    ids=["nothing", "flat", "weak", "jump"],
)
def test_a_budget_out_of_reach_is_told_with_what_came_nearest(kl, nearest):
    strength, reached, curve = search(kl, 0.3)
    assert not reached
    assert strength <= MOST
    assert kl(strength) == pytest.approx(nearest, rel=1e-2)
    assert len(curve) < 40


# ---- in models -------------------------------------------------------------------------------------------------------

KL = SteerSettings(
    kl=(0.002, 0.005), n_controls=2, n_random=1, max_new_tokens=4, n_draws=50, n_targets=3, n_mismatched=2
)


@pytest.fixture(scope="module")
def effect(models_loaded, dictionary_made) -> Effect:
    return steer_effect(
        dictionary_made, models_loaded, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=KL
    )


def test_feature_and_controls_cost_the_same_in_both_models(effect):
    for model in effect.models:
        assert model.reached == (True, True)
        assert model.kl_neutral == pytest.approx(KL.kl, rel=TOLERANCE)
        assert model.strengths[0] < model.strengths[1]
        for control in model.controls:
            assert control.n_reached == (control.n_directions,) * 2
            assert control.kl_neutral == pytest.approx(KL.kl, rel=TOLERANCE)
    strengths = [m.strengths[1] for m in effect.models] + [c.strengths[1] for m in effect.models for c in m.controls]
    assert len({round(s, 3) for s in strengths}) > 5  # which takes another strength each


def test_what_is_measured_there_is_what_those_strengths_give(models, dictionary, effect):
    for space, lm in enumerate(models):
        found = effect.models[space]
        alone = [lm if m == space else None for m in range(2)]
        settings = SteerSettings(strengths=found.strengths, reference=found.strengths[0], n_controls=0, n_random=0,
            max_new_tokens=4, n_draws=50, n_targets=3)  # fmt: skip
        plain = steer_effect(
            dictionary, alone, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=settings
        ).models[0]
        assert found.kl_neutral == pytest.approx(plain.kl_neutral, rel=1e-4)
        assert found.delta_ce == pytest.approx(plain.delta_ce, rel=1e-3)
        assert found.targets == plain.targets
        assert found.target_effect == pytest.approx(plain.target_effect, rel=1e-4)
        assert [g.text for g in found.generations] == [g.text for g in plain.generations]
        assert [g.budget for g in found.generations] == [None, 0.002, 0.005]


def test_agreement_is_of_both_models_at_equal_kl(models, dictionary, effect):
    """The other features, too: each at the strength that costs the reference's KL, which is not strength 1."""
    assert effect.settings.reference_dose == 0  # 1 is none of the budgets: the first
    assert effect.models[0].strength_at_kl == effect.models[0].strengths[0]
    assert effect.models[0].effect_at_kl == effect.models[0].target_effect[0]
    at_strength_1 = steer_effect(
        dictionary, models, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS,
        settings=SteerSettings(strengths=(1.0,), n_controls=0, n_random=0, n_mismatched=2, n_generation_prompts=0),
    )  # fmt: skip
    assert effect.agreement.mismatched_features == at_strength_1.agreement.mismatched_features
    assert effect.agreement.correlation != pytest.approx(at_strength_1.agreement.correlation, abs=1e-4)


def test_mismatched_features_are_brought_to_the_same_kl(models, dictionary, effect):
    """Steered beside it, a partner has its strengths searched as a feature's are; alone it must come to the same."""
    partners = effect.agreement.mismatched_features
    settings = replace(KL, n_controls=0, n_random=0, n_generation_prompts=0)
    texts = {"scales": SCALES, "neutral": SENTENCES, "prompts": PROMPTS, "settings": settings, "mismatched": partners}
    together = steer_many(dictionary, models, [1, *partners], **texts)[0]
    assert together.agreement.mismatched_features == partners
    assert effect.agreement.mismatched == pytest.approx(together.agreement.mismatched, abs=1e-3)
    at_strength_1 = steer_many(dictionary, models, [1], **{**texts, "settings": replace(settings, kl=())})[0]
    assert effect.agreement.mismatched != pytest.approx(at_strength_1.agreement.mismatched, abs=5e-3)


def test_a_direction_of_no_length_reaches_no_budget_and_says_so(models, dictionary, tmp_path):
    dictionary.W_dec[1, dictionary.columns(1)] = 0.0
    effect = steer_effect(dictionary, models, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=KL)
    first, second = effect.models
    assert first.reached == (True, True)
    assert (second.reached, second.unreached) == ((False, False), (0, 1))
    assert second.kl_neutral == (0.0, 0.0)
    assert (second.strength_at_kl, second.effect_at_kl) == (None, None)
    for control in second.controls:
        assert control.n_reached == (0, 0)
        assert control.kl_neutral == (None, None)
        assert control.effect_at_kl is None
    effect.save(tmp_path / "effect")
    assert Effect.load(tmp_path / "effect") == effect


def test_a_budget_above_all_that_a_model_can_lose_is_told(models, dictionary):
    """Behind these models' last norm KL never comes above a fiftieth of a nat, however far they are pushed."""
    settings = SteerSettings(kl=(0.005, 0.3), n_controls=0, n_random=0, n_generation_prompts=0, n_draws=10)
    effect = steer_effect(dictionary, models, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=settings)
    for model in effect.models:
        assert model.reached == (True, False)
        assert 0.01 < model.kl_neutral[1] < 0.05
        assert model.strengths[1] == MOST


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"kl": (0.0,)}, "kl"),
        ({"kl": (float("nan"),)}, "kl"),
        ({"kl": (0.1, 0.1)}, "kl"),
        ({"kl": (0.1,), "strengths": (2.0,), "reference": 2.0}, "kl"),
        ({"kl": (0.1,), "reference": 0.5}, "reference"),
        ({"controls": ("decoder", "decoder")}, "control"),
        ({"n_controls": -1}, "control-draws"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, setting):
    with pytest.raises(UserError) as caught:
        SteerSettings(**change)
    assert caught.value.setting == setting
    assert "\n" not in str(caught.value)
