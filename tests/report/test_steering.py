"""The report's section on steering: what it says of controls holds for those that are there."""

import math
from dataclasses import replace

import pytest

from report.made_artifacts import make_effect
from report.parsed_page import Page
from suture.interventions.settings import ControlKind, SteerSettings
from suture.interventions.steer.effect import Control, Effect, ModelEffect
from suture.pipeline import artifact
from suture.report.figures import effect_curves
from suture.report.steering import steering

DOSES = 4


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Effect:
    """As an older suture wrote it: isotropic directions alone."""
    folder = tmp_path_factory.mktemp("effect")
    with artifact.create(folder / "dictionary", stage="dictionary", settings={}):
        pass
    make_effect(folder / "effect", folder / "dictionary")
    return Effect.load(folder / "effect")


def control(kind: ControlKind, effect: float, *, n: int = 4, as_far: int = 0, gone: bool = False) -> Control:
    values = (None,) * DOSES if gone else tuple(effect * i for i in range(1, DOSES + 1))
    ends = (None,) * DOSES if gone else tuple((0.5 * effect * i, 1.5 * effect * i) for i in range(1, DOSES + 1))
    return Control(
        kind=kind,
        n_directions=n,
        features=(),
        strengths=values,
        n_reached=(0 if gone else n,) * DOSES,
        kl_neutral=values,
        kl_neutral_interval=ends,
        delta_ce=values,
        delta_ce_interval=ends,
        target_effect=values,
        target_effect_interval=ends,
        effect_at_kl=None if gone else effect,
        effect_at_kl_interval=None if gone else (0.5 * effect, 1.5 * effect),
        n_at_kl=0 if gone else n,
        n_as_far=as_far,
        top_promoted=((" thing", 0.25),),
        top_suppressed=(),
        generations=(),
    )


def with_controls(effect: Effect, *controls: Control) -> Effect:
    def model(own: ModelEffect) -> ModelEffect:
        return replace(own, controls=controls, effect_at_kl=2.0, strength_at_kl=1.5, covariance_of="training rows")

    return replace(effect, models=tuple(model(m) for m in effect.models))


def page_of(effect: Effect) -> Page:
    section = steering([(effect, None)])
    assert section is not None
    return Page(str(section))


def test_what_stands_under_the_plot_is_about_the_controls_that_are_there(old: Effect) -> None:
    before = page_of(old).text
    assert "isotropic random directions of the same length, with their standard deviation: no fair control" in before
    assert "far more than a random direction does" not in before
    fair = page_of(
        with_controls(old, control("covariance", 0.3), control("decoder", 0.4), control("isotropic", 0.1))
    ).text
    assert "directions drawn with the covariance of the model's own activations (dotted) and decoder rows" in fair
    assert "no fair control" not in fair
    assert "decoder rows" not in page_of(with_controls(old, control("covariance", 0.3))).text


def test_the_table_compares_at_equal_kl(old: Effect) -> None:
    page = page_of(
        with_controls(
            old,
            control("covariance", 0.3, as_far=1),
            control("decoder", 0.4, gone=True),
            control("means", 1.9, n=1, as_far=1),
        )
    )
    assert "At equal KL, 0.1 nats per token on neutral text" in page.text
    assert "0.300 (0.150 to 0.450)" in page.text
    assert "1 of 4" in page.text
    assert "1 of 1" in page.text
    assert "none gets there" in page.text
    assert "promoted by a covariance-matched direction" in page.text


def test_curves_are_of_the_fair_controls_with_their_intervals(old: Effect) -> None:
    fair = with_controls(old, control("covariance", 0.3), control("decoder", 0.4), control("isotropic", 9.0))
    figure = effect_curves(fair, "target_effect", y_title="nats")
    assert figure is not None
    assert [t["name"].split(": ")[1] for t in figure["data"][1:3]] == [
        "covariance-matched directions",
        "other features' decoder rows",
    ]
    assert figure["data"][1]["y"] == pytest.approx([0.3, 0.6, 0.9, 1.2])
    assert figure["data"][1]["error_y"]["array"] == pytest.approx([0.15, 0.3, 0.45, 0.6])
    assert len(figure["data"]) == 3 * len(fair.models)  # isotropic directions have no curve


def test_the_same_effect_runs_over_what_it_costs(old: Effect) -> None:
    fair = with_controls(old, control("covariance", 0.3), control("decoder", 0.4, gone=True))
    figure = effect_curves(fair, "target_effect", y_title="nats", over_kl=True)
    assert figure is not None
    model = fair.models[0]
    assert figure["data"][0]["x"] == pytest.approx(model.kl_neutral, rel=1e-3)
    assert figure["data"][0]["y"] == pytest.approx(model.target_effect, rel=1e-3)
    assert figure["data"][1]["x"] == pytest.approx(model.controls[0].kl_neutral, rel=1e-3)
    assert figure["layout"]["xaxis"]["title"]["text"] == "KL on neutral text (nats per token)"
    assert "effect-0-by-cost" in page_of(fair).data
    assert "effect-0-by-cost" not in page_of(replace(fair, settings=SteerSettings(kl=(0.01, 0.1, 0.3, 2.0)))).data


def test_how_a_continuation_reads_and_what_else_moves_is_said(old: Effect) -> None:
    fair = with_controls(old, replace(control("covariance", 0.3), collateral=2.5))

    def said(repetition: float | None, nats: float | None) -> str:
        models = tuple(
            replace(
                m, collateral=(0, 7, 9, 11), random=m.random and replace(m.random, generations=()),
                generations=tuple(replace(g, repetition=repetition, nats=nats) for g in m.generations),
            )
            for m in fair.models
        )  # fmt: skip
        return page_of(replace(fair, models=models)).text

    before, page = said(None, None), said(0.25, 1.5)
    assert "1.50 nats per token to the model left alone, 25.0 % of it repeats" in page.replace("\xa0", " ")
    assert "nats per token to the model left alone" not in before
    assert "other features moved" in page


def test_with_budgets_curves_run_over_kl_and_leave_out_what_was_not_reached(old: Effect) -> None:
    budgets = (0.01, 0.1, 0.3, 2.0)
    fair = with_controls(old, control("covariance", 0.3), control("decoder", 0.4, gone=True))
    models = tuple(
        replace(m, reached=(True, True, True, False), strength_at_kl=None, effect_at_kl=None) for m in fair.models
    )
    effect = replace(fair, models=models, settings=SteerSettings(kl=budgets))
    figure = effect_curves(effect, "strength", y_title="×")
    assert figure is not None
    assert figure["data"][0]["x"] == list(budgets)
    assert figure["data"][0]["y"] == [0.5, 1.0, 2.0, None]
    assert figure["layout"]["xaxis"]["title"]["text"] == "KL on neutral text (nats per token)"
    page = page_of(effect)
    assert "effect-0-strength" in page.data
    assert "effect-0-kl_neutral" not in page.data
    assert "At equal KL, 0.01 nats" in page.text
    assert "not reached: KL 0.32" in page.text
    assert not any(math.isnan(v) for t in figure["data"] for v in t["y"] if v is not None)
