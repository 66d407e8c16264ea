"""What steering one feature did in one model, put together: its curve, its controls', continuations and their reading.

1. The feature's own curve, and the mean of each kind of control (`curves`).
2. Continuations of the first prompts at every dose, under the feature and the first direction of each kind; how much
   of each repeats, and what the model left alone makes of it (`fluency`).
3. How many other features move (`collateral`).
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions import measures
from suture.interventions.edits import steer_each
from suture.interventions.settings import ControlKind
from suture.interventions.steer.controls import CARRIED, ISOTROPIC
from suture.interventions.steer.curves import Curve, KindCurve, Weights, curve_of
from suture.interventions.steer.effect import Control, Generation, ModelEffect, RandomControl, Weighted
from suture.interventions.steer.fluency import fluency
from suture.interventions.steer.progress import Counter
from suture.interventions.steer.subject import Answers, Costs, Subject, most_moved
from suture.lm.generate import samples
from suture.lm.vocabulary import displayed
from suture.uncertainty import Draws


def model_effect(
    subject: Subject,
    costs: Costs,
    answers: Answers,
    feature: int,
    prompts: Sequence[str],
    halves: tuple[Tensor, Tensor],
    counter: Counter,
) -> ModelEffect:
    """What one feature and its controls did in one model."""
    settings, probe, text = subject.settings, subject.probe, costs.text
    weights = Weights(
        texts=Draws.make(probe.n_texts, settings.n_draws, settings.seed),
        prompts=Draws.make(len(halves[1]), settings.n_draws, settings.seed),
    )
    curves = [
        curve_of(doses, effect, text, settings, weights)
        for doses, effect in zip(costs.doses, answers.effect, strict=True)
    ]
    own, change = curves[0], answers.mean_change[0]
    target_ids, anti_ids = answers.targets
    texts = _continuations(subject, costs, feature, prompts, counter)
    controls = _controls(subject, feature, curves, answers, texts)
    return ModelEffect(
        model=subject.label,
        direction_norm=float(subject.own(feature).norm()),
        n_tokens=int(text.count.sum()),
        n_texts=int((text.count > 0).sum()),
        plain_ce=float(text.plain_ce.sum() / text.count.sum()),
        strengths=own.strengths,
        kl_neutral=own.kl,
        kl_neutral_interval=own.kl_interval,
        delta_ce=own.ce,
        delta_ce_interval=own.ce_interval,
        target_effect=own.effect,
        target_effect_interval=own.effect_interval,
        strength_at_kl=own.strength_at_kl,
        effect_at_kl=own.effect_at_kl,
        targets=tuple(displayed(probe.lm, subject.texts, int(i)) for i in target_ids),
        anti_targets=tuple(displayed(probe.lm, subject.texts, int(i)) for i in anti_ids),
        targets_from=answers.targets_from,
        top_promoted=_top(subject, change),
        top_suppressed=_top(subject, change, falling=True),
        generations=texts[0],
        random=_random(subject, feature, curves, controls),
        controls=controls,
        reached=own.reached if settings.kl else (),
        collateral=tuple(n for s in own.strengths for n in _collateral(subject, feature, 0, s)),
        covariance_of=subject.around.covariance_of,
    )


def _collateral(subject: Subject, feature: int, number: int, strength: float) -> tuple[int, ...]:
    """How many other features one of a feature's directions moves, as one number or none."""
    around = subject.around.bystanders
    if around is None:
        return ()
    vector = strength * subject.directions(feature)[number].vector
    return (int(around.moved(vector, feature).sum()),)


def _of_kind(subject: Subject, feature: int, kind: ControlKind) -> list[int]:
    """Which of a feature's directions are of a kind."""
    return [i for i, direction in enumerate(subject.directions(feature)) if direction.kind == kind]


def _controls(
    subject: Subject,
    feature: int,
    curves: Sequence[Curve],
    answers: Answers,
    texts: Mapping[int, tuple[Generation, ...]],
) -> tuple[Control, ...]:
    """Every kind's results."""
    settings = subject.settings
    kinds: list[ControlKind] = [*(settings.controls if settings.n_controls else ())]
    if feature in subject.around.carried:
        kinds.append(CARRIED)
    if settings.n_random:
        kinds.append(ISOTROPIC)
    return tuple(_control(subject, feature, kind, curves, answers, texts) for kind in kinds)


def _control(
    subject: Subject,
    feature: int,
    kind: ControlKind,
    curves: Sequence[Curve],
    answers: Answers,
    texts: Mapping[int, tuple[Generation, ...]],
) -> Control:
    at, n_doses = _of_kind(subject, feature, kind), len(subject.settings.doses)
    every = KindCurve(kind=kind, curves=[curves[i] for i in at])
    rows = [subject.directions(feature)[i].feature for i in at]
    kl, ce, effect = every.kl(n_doses), every.ce(n_doses), every.effect(n_doses)
    at_kl, at_kl_interval, n_at_kl = every.effect_at_kl()
    change = answers.mean_change[at[0]] if at else None
    settings = subject.settings
    moved = [n for i in at for n in _collateral(subject, feature, i, curves[i].strengths[settings.reference_dose])]
    return Control(
        kind=kind,
        n_directions=len(at),
        features=tuple(row for row in rows if row is not None),
        strengths=every.strengths(n_doses),
        n_reached=every.n_reached if at else (0,) * n_doses,
        kl_neutral=kl.value,
        kl_neutral_interval=kl.interval,
        delta_ce=ce.value,
        delta_ce_interval=ce.interval,
        target_effect=effect.value,
        target_effect_interval=effect.interval,
        effect_at_kl=at_kl,
        effect_at_kl_interval=at_kl_interval,
        n_at_kl=n_at_kl,
        n_as_far=every.n_as_far(curves[0].effect_at_kl),
        top_promoted=() if change is None else _top(subject, change),
        top_suppressed=() if change is None else _top(subject, change, falling=True),
        generations=texts.get(at[0], ()) if at else (),
        collateral=fmean(moved) if moved else None,
    )


def _random(
    subject: Subject, feature: int, curves: Sequence[Curve], controls: Sequence[Control]
) -> RandomControl | None:
    """The isotropic directions as results before `controls` had them: all of them, reached or not."""
    at = _of_kind(subject, feature, ISOTROPIC)
    if not at:
        return None
    own, control = [curves[i] for i in at], controls[-1]
    strengths, kl, ce, effect = (
        torch.tensor([getattr(c, name) for c in own], dtype=torch.float64)
        for name in ("strengths", "kl", "ce", "effect")
    )
    mean_strengths, mean_kl, mean_effect = (x.mean(0).tolist() for x in (strengths, kl, effect))
    settings = subject.settings
    strength = measures.strength_at(mean_strengths, mean_kl, settings.equal_kl)
    return RandomControl(
        n_directions=len(own),
        strengths=tuple(mean_strengths),
        kl_neutral=tuple(mean_kl),
        kl_neutral_sd=_sd(kl),
        delta_ce=tuple(ce.mean(0).tolist()),
        delta_ce_sd=_sd(ce),
        target_effect=tuple(mean_effect),
        target_effect_sd=_sd(effect),
        strength_at_kl=None if settings.kl else strength,
        effect_at_kl=control.effect_at_kl if settings.kl else measures.effect_at(mean_strengths, mean_effect, strength),
        top_promoted=control.top_promoted,
        top_suppressed=control.top_suppressed,
        generations=control.generations,
    )


def _sd(values: Float[Tensor, "direction dose"]) -> tuple[float, ...]:
    """Over directions; 0 for a single one."""
    return tuple(values.std(0, correction=1 if len(values) > 1 else 0).tolist())


def _top(subject: Subject, change: Float[Tensor, "vocab"], *, falling: bool = False) -> Weighted:
    """The tokens that rose (fell) most with their mean change in nats."""
    ids = most_moved(change, subject.texts, subject.settings.n_top)[1 if falling else 0]
    return tuple((displayed(subject.probe.lm, subject.texts, i), float(change[i])) for i in ids.tolist())


def _continuations(
    subject: Subject, costs: Costs, feature: int, prompts: Sequence[str], counter: Counter
) -> dict[int, tuple[Generation, ...]]:
    """The first prompts continued without steering and at every dose, by number of the direction: the feature's own and
    the first of each kind of control.

    All continuations of a prompt are one batch, each sequence with its own vector.
    """
    settings, probe, directions = subject.settings, subject.probe, subject.directions(feature)
    first = list({direction.kind: i for i, direction in reversed(list(enumerate(directions)))}.values())
    first.sort()
    spots = []
    for i in first:
        budgets = settings.kl or [None] * len(settings.doses)
        points = sorted(zip(costs.doses[i].strengths, budgets, strict=True))
        spots += [(i, strength, budget) for strength, budget in [(0.0, None), *(p for p in points if p[0] != 0)]]
    vectors = torch.stack([strength * directions[i].vector for i, strength, _ in spots])
    found: dict[int, list[Generation]] = {i: [] for i in first}
    for prompt in prompts[: settings.n_generation_prompts]:
        with probe.under(steer_each(vectors)):
            texts = samples(
                probe.lm,
                prompt,
                n_samples=len(vectors),
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=settings.seed,
            )
        counter.step()
        read = fluency(probe.lm, prompt, texts, probe.partial)
        for (i, strength, budget), text, (repeated, nats) in zip(spots, texts, read, strict=True):
            found[i].append(
                Generation(strength=strength, prompt=prompt, text=text, budget=budget, repetition=repeated, nats=nats)
            )
    return {i: tuple(own) for i, own in found.items()}
