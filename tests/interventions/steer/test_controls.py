"""Control directions: as long as the feature's vector, and drawn as they say."""

import math

import pytest
import torch

from interventions.conftest import FEATURES, PROMPTS, SENTENCES, known_dictionary, steer_effect
from suture.activations.moments import Moments
from suture.dictionary.imputation import Imputation
from suture.interventions.edits import solo_codes
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.controls import Surroundings, control_directions, square_root, surroundings
from suture.interventions.steer.effect import Effect
from suture.interventions.steer.probe import make_probe
from suture.uncertainty import mean_interval

SCALES = torch.full((FEATURES,), 0.15)
KINDS = ("covariance", "decoder", "shuffled", "means")
MANY = SteerSettings(n_controls=5, n_random=2)


def probe_of(models, dictionary, space):
    hookpoint = dictionary.spaces[space].hookpoint
    return make_probe(models[space], hookpoint, neutral=SENTENCES, prompts=PROMPTS, block=32, batch_tokens=99)


def directions_of(models, dictionary, space, settings=MANY, live=range(FEATURES), feature=1):
    around = surroundings(dictionary, space, probe_of(models, dictionary, space), [feature], settings)
    own = dictionary.raw_decoder(space)[feature] * 0.15
    found = control_directions(dictionary, space, feature, own, live=list(live), around=around, settings=settings)
    return own, found


@pytest.mark.parametrize("space", [0, 1])
def test_every_control_is_as_long_as_the_features_own_vector(models, dictionary, space):
    own, found = directions_of(models, dictionary, space)
    assert [d.kind for d in found] == ["covariance"] * 5 + ["decoder"] * 5 + ["shuffled"] * 5 + [
        "means",
        *["isotropic"] * 2,
    ]
    for direction in found:
        assert direction.vector.dtype == own.dtype
        assert float(direction.vector.norm()) == pytest.approx(float(own.norm()), rel=1e-5)
    assert len({tuple(d.vector.tolist()) for d in found}) == len(found)


def test_decoder_rows_are_of_other_live_features_the_same_in_every_model(models, dictionary):
    dictionary.W_dec[3:8, dictionary.columns(1)] = 0.0  # these point nowhere in the second model
    live = [1, *range(3, 14)]
    rows = [[d for d in directions_of(models, dictionary, m, live=live)[1] if d.kind == "decoder"] for m in (0, 1)]
    features = [d.feature for d in rows[0]]
    assert features == [d.feature for d in rows[1]]
    assert set(features) <= set(range(8, 14))
    for m in (0, 1):
        for direction in rows[m]:
            row = dictionary.raw_decoder(m)[direction.feature]
            assert float(torch.cosine_similarity(row, direction.vector, dim=0)) == pytest.approx(1)


def test_where_there_are_fewer_other_features_there_are_fewer_rows(models, dictionary):
    found = directions_of(models, dictionary, 0, live=[1, 5, 6])[1]
    assert sorted(d.feature for d in found if d.kind == "decoder") == [5, 6]


def test_a_shuffled_row_has_the_rows_numbers(models, dictionary):
    own, found = directions_of(models, dictionary, 1)
    for direction in found:
        if direction.kind == "shuffled":
            torch.testing.assert_close(direction.vector.sort().values, own.sort().values)
            assert not torch.equal(direction.vector, own)


def test_the_root_is_of_the_covariance_and_of_no_mean(models, dictionary):
    """Drawn directions have the covariance: seen on a space in which one coordinate has nearly all of the variance."""
    covariance = torch.diag(torch.tensor([100.0, 1.0, 0.01], dtype=torch.float64))
    covariance[0, 1] = covariance[1, 0] = 5.0
    root = square_root(covariance)
    torch.testing.assert_close(root @ root.T, covariance)
    drawn = root @ torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(torch.cov(drawn), covariance, rtol=0.03, atol=0.02)


def test_covariance_is_that_of_the_training_rows_where_they_are_kept(models, dictionary):
    """In raw units of the space, about the mean: moments of scaled rows, a far mean, one large coordinate."""
    widths = dictionary.widths
    x = torch.randn(4000, sum(widths), generator=torch.Generator().manual_seed(0)) + 1000
    x[:, widths[0] + 7] *= 50
    moments = Moments(widths)
    moments.add(x)
    dictionary.imputation = Imputation(moments, moments)
    around = surroundings(dictionary, 1, probe_of(models, dictionary, 1), [1], SteerSettings(controls=("covariance",)))
    assert around.covariance_of == "training rows"
    raw = x[:, widths[0] :].double() / dictionary.spaces[1].scale
    assert around.root is not None
    torch.testing.assert_close(around.root @ around.root.T, torch.cov(raw.T, correction=0), rtol=1e-6, atol=1e-6)
    own = dictionary.raw_decoder(1)[1]
    settings = SteerSettings(controls=("covariance",), n_controls=20, n_random=20)
    found = control_directions(dictionary, 1, 1, own, live=[1], around=around, settings=settings)
    part = {
        kind: [float(d.vector[7].abs() / own.norm()) for d in found if d.kind == kind]
        for kind in ("covariance", "isotropic")
    }
    assert sum(part["covariance"]) / 20 > 0.8
    assert sum(part["isotropic"]) / 20 < 0.4


@pytest.mark.parametrize("space", [0, 1])
def test_without_kept_rows_covariance_and_means_are_of_the_neutral_text(models, dictionary, space):
    probe = probe_of(models, dictionary, space)
    around = surroundings(dictionary, space, probe, list(range(FEATURES)), MANY)
    assert around.covariance_of == "neutral text"
    rows = torch.cat([own for own, _ in probe.neutral_rows()])
    assert len(rows) == sum(int(batch.scored.sum()) for batch in probe.neutral)
    assert around.root is not None
    torch.testing.assert_close(
        around.root @ around.root.T, torch.cov(rows.double().T, correction=0), rtol=1e-5, atol=1e-7
    )
    fires = solo_codes(dictionary, space, rows, torch.arange(FEATURES)) > 0
    assert set(around.means) == {i for i in range(FEATURES) if 0 < int(fires[:, i].sum()) < len(rows)}
    for feature, difference in around.means.items():
        inside = fires[:, feature]
        expected = rows[inside].double().mean(0) - rows[~inside].double().mean(0)
        torch.testing.assert_close(difference, expected, rtol=1e-5, atol=1e-7)


def test_of_a_feature_that_never_fires_there_is_no_difference_of_means(models, dictionary):
    own = dictionary.raw_decoder(0)[1]
    around = Surroundings(root=None, covariance_of="", means={})
    settings = SteerSettings(controls=("means",))
    assert [d.kind for d in control_directions(dictionary, 0, 1, own, live=[1], around=around, settings=settings)] == [
        "isotropic"
    ]


# ---- in the result ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def effect(models_loaded) -> Effect:
    settings = SteerSettings(
        strengths=(0.5, 1.0, 2.0),
        kl_budget=0.003,
        n_controls=3,
        n_random=2,
        max_new_tokens=3,
        n_draws=50,
        n_targets=3,
        n_mismatched=1,
    )
    dictionary = known_dictionary(models_loaded)
    return steer_effect(
        dictionary, models_loaded, 1, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=settings
    )


def test_every_kind_has_its_curve_with_intervals(effect):
    for model in effect.models:
        assert [c.kind for c in model.controls] == [*KINDS, "isotropic"]
        assert [c.n_directions for c in model.controls] == [3, 3, 3, 1, 2]
        assert model.covariance_of == "neutral text"
        for control in model.controls:
            assert control.strengths == (0.5, 1.0, 2.0)
            assert control.n_reached == (control.n_directions,) * 3
            for name in ("kl_neutral", "delta_ce", "target_effect"):
                for value, within in zip(getattr(control, name), getattr(control, f"{name}_interval"), strict=True):
                    assert within[0] <= value <= within[1]
            assert control.generations[0].text == model.generations[0].text
            assert control.top_promoted
    assert effect.agreement.random_kind == "covariance"


def test_the_feature_moves_its_tokens_further_than_chance_directions_at_equal_kl(effect):
    """Feature 1 points at a token's unembedding row: no other direction moves its tokens so far at the same price."""
    for model in effect.models:
        assert model.effect_at_kl is not None
        for kind in ("covariance", "decoder", "shuffled", "isotropic"):
            control = model.control(kind)
            assert control.n_at_kl == control.n_directions
            assert control.n_as_far == 0
            assert control.effect_at_kl < model.effect_at_kl


def test_the_interval_of_a_kind_is_students_over_its_directions(models, dictionary, effect):
    """Each direction steered by itself as if it were the feature's: its numbers make the kind's mean and interval."""
    space, feature = 0, 1
    settings = effect.settings
    own, found = directions_of(models, dictionary, space, settings=settings)
    rows = [d.vector for d in found if d.kind == "shuffled"]
    kl, target = [], []
    for row in rows:
        dictionary.W_dec[feature, dictionary.columns(space)] = row / 0.15 * dictionary.spaces[space].scale
        one = steer_effect(
            dictionary,
            [models[0], None],
            feature,
            scales=SCALES,
            neutral=SENTENCES,
            prompts=PROMPTS,
            settings=SteerSettings(strengths=(1.0,), n_controls=0, n_random=0, n_generation_prompts=0, n_draws=10),
        )
        kl.append(one.models[0].kl_neutral[0])
        target.append(one.models[0].target_effect[0])
    control = effect.models[0].control("shuffled")
    between = mean_interval(kl)
    assert between is not None
    assert control.kl_neutral[1] == pytest.approx(between.mean, rel=1e-4)
    assert control.kl_neutral_interval[1] == pytest.approx((max(between.low, 0), between.high), rel=1e-3)
    assert math.isclose(float(own.norm()), float(rows[0].norm()), rel_tol=1e-5)


def test_without_controls_there_are_none(models, dictionary):
    settings = SteerSettings(strengths=(1.0,), n_controls=0, n_random=0, n_generation_prompts=0, n_draws=10)
    effect = steer_effect(dictionary, models, 0, scales=SCALES, neutral=SENTENCES, prompts=PROMPTS, settings=settings)
    for model in effect.models:
        assert (model.controls, model.random, model.covariance_of) == ((), None, "")
    assert effect.agreement.random is None
