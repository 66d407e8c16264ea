"""Settings from flat options: every one reaches its place, and what cannot be meant is refused by name."""

import math
from typing import Any

import pytest

from suture.activations.settings import View
from suture.errors import UserError
from suture.pipeline.settings import declared, from_flat, to_flat
from suture.training.settings import TrainSettings

GIVEN: dict[str, Any] = {
    "design": "crosscoder", "features": 40, "flag": False, "pad": "native", "dedicated": [0.1, 0.2], "tied": 0.25,
    "sparsity": "batchtopk", "k": 5, "score": "norm", "bandwidth": 0.1, "initial_threshold": 0.2,
    "loss": "per_model", "cross": 0.0, "l1": 0.3, "l0": 0.02, "aux": 0.5, "k_aux": 7, "dead_after": 900, "space": [1],
    "null": True, "rotation_seed": 4, "copies": 2, "side": 1, "outliers": "clip", "outlier_multiple": 4.0,
    "rows": 5_000, "batch_size": 50, "learning_rate": 1e-3, "warmup": 0.1,
    "decay": 0.4, "k_start": 2.0, "k_anneal": 0.5, "lock": 0.0, "model_dropout": 0.1, "heldout": 0.2,
    "validate_every": 3,
    "validation_rows": 77, "checkpoint_every": 9, "seed": 6, "data_seed": 8, "precision": "float32", "device": "cuda",
    "track": ["wandb"],
}  # fmt: skip


def test_every_option_reaches_its_place() -> None:
    assert {name.replace("_", "-") for name in GIVEN} == declared(TrainSettings).keys()
    settings = from_flat(TrainSettings, {name.replace("_", "-"): value for name, value in GIVEN.items()})
    for name, value in to_flat(settings).items():
        given = GIVEN[name.replace("-", "_")]
        assert value == (tuple(given) if isinstance(given, list) else given), name


def test_lock_and_cross_reach_their_place_and_go_with_a_crosscoder_alone() -> None:
    settings = from_flat(TrainSettings, {"lock": 0.25, "cross": -0.9, "rows": 4000, "batch_size": 1000})
    assert (settings.lock, settings.objective.cross) == (0.25, -0.9)
    assert [settings.is_locked_at(step) for step in range(4)] == [True, True, False, False]
    for wrong in ({"lock": 0.1, "design": "pooled"}, {"lock": 0.1, "tied": 0.5}, {"lock": 1.0}, {"cross": -1.1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            from_flat(TrainSettings, wrong)
    with pytest.raises(UserError, match=r"cross = 0\.5: is a part of the joint loss"):
        from_flat(TrainSettings, {"cross": 0.5, "loss": "per_model"})


def test_nothing_given_is_the_default() -> None:
    assert from_flat(TrainSettings, {}) == TrainSettings()


def test_a_whole_number_will_do_for_a_share_and_none_for_what_may_be_left_out() -> None:
    settings = from_flat(TrainSettings, {"heldout": 0, "k_aux": None, "learning_rate": None, "data_seed": None})
    assert (settings.heldout, type(settings.heldout)) == (0.0, float)
    assert settings.order_seed == settings.seed


@pytest.mark.parametrize("name", ["width", "n_features", "objective", "view", "kind", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"is no setting of train; use .*batch-size.*features") as caught:
        from_flat(TrainSettings, {name: 1})
    assert caught.value.setting == name.replace("_", "-")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rows", 2e6, "a whole number"),
        ("rows", "many", "a whole number"),
        ("batch_size", 256.5, "a whole number"),
        ("k", 8.0, "a whole number"),
        ("k", True, "a whole number"),
        ("seed", True, "a whole number"),
        ("features", None, "a whole number"),
        ("k_aux", "7", "a whole number"),
        ("decay", "0.3", "a number"),
        ("decay", [0.3], "a number"),
        ("learning_rate", False, "a number"),
        ("flag", "yes", "true or false"),
        ("null", 1, "true or false"),
        ("space", 0, "a list, each a whole number"),
        ("space", [0.0], "a list, each a whole number"),
        ("dedicated", 0.5, "a list, each a number"),
        ("dedicated", ["0.5"], "a list, each a number"),
        ("track", "wandb", "a list, each one of tensorboard, wandb"),
        ("track", ["mlflow"], "a list, each one of tensorboard, wandb"),
        ("design", "crossecoder", "one of sae, crosscoder, pooled, universal"),
        ("sparsity", "top", r"one of topk\+batchtopk, topk, batchtopk, relu\+l1, jumprelu, gated"),
        ("loss", "l2", "one of joint, per_model, l2norm"),
        ("pad", "ones", "one of native, zeros"),
        ("precision", "float16", "one of auto, float32, bfloat16"),
        ("device", 0, "a name"),
        ("design", ["sae"], "one of sae, crosscoder, pooled, universal"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(name: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=rf"is not {words}; give {words}") as caught:
        from_flat(TrainSettings, {name: value})
    assert caught.value.setting == name.replace("_", "-")
    assert caught.value.value == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch-size = 0: is less than 1"),
        ({"rows": -5}, "rows = -5: is less than 1"),
        ({"checkpoint_every": 0}, "checkpoint-every = 0: is less than 1"),
        ({"k": 9, "features": 8}, "k = 9: exceeds the 8 features"),
        ({"learning_rate": 0.0}, "learning-rate = 0.0: is not positive"),
        ({"learning_rate": math.nan}, "learning-rate = nan: is not positive"),
        ({"learning_rate": math.inf}, "learning-rate = inf: is not positive"),
        ({"warmup": math.nan}, "warmup = nan: is not a share"),
        ({"k_start": math.nan}, "k-start = nan: is below 1 or no number"),
        ({"seed": -1}, "seed = -1: is not a seed"),
        ({"data_seed": 2**63}, "data-seed = .*: is not a seed"),
        ({"l1": -1.0}, "l1 = -1.0: is not 0 or above"),
        ({"design": "sae", "model_dropout": 0.1}, "model-dropout = 0.1: means nothing for the design sae"),
    ],
)
def test_a_value_without_meaning_is_refused_when_the_settings_are_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_flat(TrainSettings, options)


def test_one_data_seed_orders_rows_alike_whatever_the_seed() -> None:
    one, two = (TrainSettings(seed=seed, data_seed=3) for seed in (1, 2))
    assert one.order_seed == two.order_seed == 3
    assert TrainSettings(seed=5).order_seed == 5


def test_schedules_begin_and_end_where_they_should_however_few_the_steps() -> None:
    for n_steps in (1, 2, 3, 7, 100):
        settings = TrainSettings(n_rows=10 * n_steps, batch_size=10, view=View(), learning_rate=1.0)
        rates = [settings.learning_rate_at(step) for step in range(n_steps)]
        assert settings.n_steps == n_steps
        assert all(0 < rate <= 1 for rate in rates)
        assert rates[-1] <= 1 / max(1.0, 0.3 * n_steps) + 1e-12
