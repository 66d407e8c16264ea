"""Steering measured end to end on models and directions whose answer is known beforehand."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as fn

from interventions.conftest import FEATURES, PROMOTED, PROMPTS, SENTENCES, steer_effect, steer_many
from suture.errors import ArtifactError, UserError
from suture.interventions.edits import sparing_first, steer
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.effect import Effect
from suture.lm.generate import generate
from suture.lm.hooks import edit as editing
from suture.lm.hooks import logits, record
from suture.lm.tokens import tokenize, with_bos
from suture.pipeline.artifact import open_artifact

SCALES = torch.full((FEATURES,), 0.15)  # about the norm of these models' activations: the final norm is not saturated
SETTINGS = SteerSettings(strengths=(0.0, 0.5, 1.0, 2.0), max_new_tokens=6, n_random=2, n_draws=100, n_targets=3)


@pytest.fixture(scope="module")
def effects(models_loaded, dictionary_made):
    return steer_many(
        dictionary_made, models_loaded, [0, 1, 2], scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=SETTINGS
    )


def test_the_promoted_token_is_the_one_the_decoder_row_points_at(effects):
    for effect, token in zip(effects, PROMOTED, strict=True):
        for model in effect.models:
            assert model.top_promoted[0][0] == token
            assert model.targets[0] == token
            assert model.top_promoted[0][1] > 0 > model.top_suppressed[0][1]


def test_strength_zero_is_exactly_no_effect(effects):
    for model in (m for e in effects for m in e.models):
        assert (model.kl_neutral[0], model.delta_ce[0], model.target_effect[0]) == (0.0, 0.0, 0.0)
        assert model.random is not None
        assert (model.random.kl_neutral[0], model.random.delta_ce[0], model.random.target_effect[0]) == (0.0, 0.0, 0.0)
        assert model.generations[0].strength == 0.0
        assert model.generations[0].text == model.random.generations[0].text


def test_the_effect_grows_with_strength_and_beats_random_directions(effects):
    for model in (m for e in effects for m in e.models):
        assert list(model.target_effect) == sorted(model.target_effect)
        assert list(model.kl_neutral) == sorted(model.kl_neutral)
        assert model.random is not None
        assert model.target_effect[2] > 2 * abs(model.random.target_effect[2]) + 0.1


@pytest.mark.parametrize("space", [0, 1])
def test_kl_and_ce_are_those_of_a_direct_computation(models, dictionary, effects, space):
    lm, hookpoint = models[space], dictionary.spaces[space].hookpoint
    vector = dictionary.raw_decoder(space)[1] * SCALES[1]

    def steered(x: torch.Tensor) -> torch.Tensor:
        out = steer(vector, 2.0)(x)
        out[:, 0] = x[:, 0]
        return out

    kl, plain_ce, ce, n = 0.0, 0.0, 0.0, 0
    for text in SENTENCES:  # one at a time, without padding
        ids = with_bos(lm, tokenize(lm, text).ids)[None, :]
        plain = logits(lm, ids)[0, 1:-1]
        with editing(lm, hookpoint, steered):
            after = logits(lm, ids)[0, 1:-1]
        kl += float(
            fn.kl_div(after.log_softmax(-1), plain.log_softmax(-1), reduction="sum", log_target=True),
        )
        plain_ce += float(fn.cross_entropy(plain, ids[0, 2:], reduction="sum"))
        ce += float(fn.cross_entropy(after, ids[0, 2:], reduction="sum"))
        n += len(plain)
    found = effects[1].models[space]
    assert found.n_tokens == n
    assert found.kl_neutral[3] == pytest.approx(kl / n, rel=1e-4)
    assert found.delta_ce[3] == pytest.approx((ce - plain_ce) / n, rel=1e-3)
    assert found.plain_ce == pytest.approx(plain_ce / n, rel=1e-5)
    low, high = found.kl_neutral_interval[3]
    assert low < kl / n < high


def test_continuations_in_one_batch_are_those_of_each_strength_alone(models, dictionary, effects):
    lm, hookpoint = models[1], dictionary.spaces[1].hookpoint
    vector = dictionary.raw_decoder(1)[2] * SCALES[2]
    found = {g.strength: g.text for g in effects[2].models[1].generations}
    assert list(found) == [0.0, 0.5, 1.0, 2.0]
    for strength, text in found.items():
        with editing(lm, hookpoint, sparing_first(steer(vector, strength))):
            assert generate(lm, PROMPTS[0], max_new_tokens=SETTINGS.max_new_tokens) == text
    assert found[2.0] != found[0.0]


def test_long_texts_are_cut_and_batches_do_not_matter(models, dictionary):
    one = {"scales": SCALES, "neutral": [" ".join(SENTENCES)], "prompts": PROMPTS}
    common = {"strengths": (1.0,), "n_random": 0, "n_mismatched": 0, "max_new_tokens": 1, "n_draws": 10, "block": 20}
    small, large = (
        steer_effect(dictionary, models, 0, **one, settings=SteerSettings(batch_tokens=b, **common)) for b in (1, 9999)
    )
    for a, b in zip(small.models, large.models, strict=True):
        assert a.n_tokens == b.n_tokens > 20
        assert a.kl_neutral == pytest.approx(b.kl_neutral, rel=1e-5)
        assert a.target_effect == pytest.approx(b.target_effect, rel=1e-5)


def test_steering_one_feature_gives_what_steering_many_gives(models, dictionary, effects):
    alone = steer_effect(
        dictionary,
        models,
        1,
        scales=SCALES,
        neutral=SENTENCES,
        prompts=PROMPTS,
        settings=SETTINGS,
        mismatched=effects[1].agreement.mismatched_features,
    )
    assert alone.models[0].generations == effects[1].models[0].generations
    assert alone.models[0].kl_neutral == pytest.approx(effects[1].models[0].kl_neutral, rel=1e-5)
    assert alone.models[1].target_effect == pytest.approx(effects[1].models[1].target_effect, rel=1e-5)
    assert alone.agreement.value == pytest.approx(effects[1].agreement.value, abs=1e-5)


def test_a_model_agrees_with_itself_entirely(models, dictionary):
    twin = type(dictionary)([dictionary.spaces[0], dictionary.spaces[0]], dictionary.design)
    own = dictionary.W_dec[:, dictionary.columns(0)]
    twin.W_dec.data.copy_(torch.cat([own, own], dim=1))
    effect = steer_effect(
        twin, [models[0]] * 2, 0, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=SETTINGS
    )
    assert effect.agreement.correlation == pytest.approx(1.0, abs=1e-6)
    assert effect.agreement.mismatched < 0.9
    assert effect.agreement.value == pytest.approx(1.0 - effect.agreement.mismatched, abs=1e-6)
    assert len(effect.agreement.mismatched_features) == SETTINGS.n_mismatched
    low, high = effect.agreement.interval
    assert low <= effect.agreement.value <= high


def test_models_agree_on_features_that_promote_the_same_token(effects):
    for effect in effects:
        assert effect.agreement.interval[0] > 0
        assert effect.agreement.interval_over_random[0] > 0
        assert effect.agreement.value == effect.agreement.correlation - effect.agreement.mismatched


def test_targets_may_be_given_and_then_every_prompt_is_measured(models, dictionary):
    effect = steer_effect(
        dictionary,
        models,
        0,
        scales=SCALES,
        neutral=SENTENCES,
        prompts=PROMPTS,
        settings=SETTINGS,
        targets=[" dog"],
        anti_targets=[" tree"],
    )
    assert effect.evaluation_prompts == tuple(range(len(PROMPTS)))
    assert effect.models[0].targets == (" dog",)
    assert effect.models[0].targets_from == "given"
    assert effect.models[0].target_effect[3] > 0


def test_halves_are_disjoint_and_the_choice_of_targets_does_not_see_the_evaluation(effects):
    assert len(effects[0].evaluation_prompts) == len(PROMPTS) / 2
    assert effects[0].models[0].targets_from == "discovery prompts"


def test_one_model_alone_can_be_steered(models, dictionary):
    effect = steer_effect(
        dictionary, [None, models[1]], 0, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=SETTINGS
    )
    assert [m.model for m in effect.models] == [dictionary.spaces[1].label]
    assert effect.agreement is None


@pytest.mark.parametrize("space", [0, 1])
def test_with_the_norm_as_unit_strength_one_is_as_long_as_an_activation(models, dictionary, space):
    lm, row = models[space], dictionary.raw_decoder(space)[1]
    alone = [lm if m == space else None for m in range(2)]
    common = {"neutral": SENTENCES, "prompts": PROMPTS}
    rows = [
        record(lm, with_bos(lm, tokenize(lm, s).ids)[None], [dictionary.spaces[space].hookpoint])[0] for s in SENTENCES
    ]
    typical = torch.cat([own[0, 1:-1] for own in rows]).norm(dim=1).median()  # where a next token is known
    scales = torch.full((FEATURES,), float(typical / row.norm()))
    by_hand = steer_effect(dictionary, alone, 1, scales=scales, settings=SETTINGS, **common)
    found = steer_effect(dictionary, alone, 1, scales=SCALES, settings=replace(SETTINGS, unit="norm"), **common)
    for name in ("kl_neutral", "target_effect"):
        assert getattr(found.models[0], name) == pytest.approx(getattr(by_hand.models[0], name), rel=1e-4), name
    assert found.models[0].kl_neutral[2] > 0


def test_saving_and_loading_is_the_identity(effects, tmp_path):
    effects[0].save(tmp_path / "effect")
    assert Effect.load(tmp_path / "effect") == effects[0]
    assert open_artifact(tmp_path / "effect").stage == "effect"
    with pytest.raises(ArtifactError):
        effects[0].save(tmp_path / "effect")


def test_nothing_stays_hooked_and_progress_reaches_the_end(models, dictionary):
    ids = with_bos(models[0], tokenize(models[0], SENTENCES[0]).ids)[None, :]
    before, seen = logits(models[0], ids), []
    steer_effect(
        dictionary,
        models,
        0,
        scales=SCALES,
        neutral=SENTENCES,
        prompts=PROMPTS,
        settings=SETTINGS,
        on_progress=seen.append,
    )
    assert torch.equal(logits(models[0], ids), before)
    assert [p.done for p in seen] == list(range(1, seen[-1].total + 1))


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"feature": FEATURES}, "feature"),
        ({"scales": torch.zeros(FEATURES)}, "feature"),
        ({"scales": torch.ones(3)}, "scales"),
        ({"prompts": ["one"]}, "prompts"),
        ({"prompts": ["one", ""]}, "prompts"),
        ({"neutral": []}, "neutral"),
        ({"neutral": ["a"]}, "neutral"),
        ({"targets": ["no such token"]}, "targets"),
        ({"targets": []}, "targets"),
        ({"mismatched": [99]}, "mismatched"),
        ({"lms": [None, None]}, "models"),
        ({"lms": "swapped"}, "model"),
    ],
)
def test_a_users_mistake_is_named(models, dictionary, change, setting):
    arguments = {"feature": 0, "scales": SCALES, "neutral": SENTENCES, "prompts": PROMPTS, "lms": models, **change}
    if arguments["lms"] == "swapped":
        arguments["lms"] = models[::-1]
    with pytest.raises(UserError) as caught:
        steer_effect(dictionary, settings=SETTINGS, **arguments)
    assert caught.value.setting == setting
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"strengths": ()},
        {"strengths": (1.0, float("nan"))},
        {"strengths": (1.0, 1.0)},
        {"reference": 3.0},
        {"strengths": (0.0, 1.0), "reference": 0.0},
        {"kl_budget": 0.0},
        {"temperature": -1.0},
        {"n_draws": 1},
    ],
)
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(UserError):
        SteerSettings(**change)
