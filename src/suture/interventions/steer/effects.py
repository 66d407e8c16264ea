"""What steering a feature does: each model is moved along the feature's own direction in it, and measured.

1. In every model, add alpha * s_i * d_i^m at all positions after BOS: s_i the feature's 99.9 % activation, d_i^m its
   decoder row in the model's raw units. Controls: other directions of the same norm (`controls`).
2. Neutral text: KL(plain || steered) and the rise of the loss per token at every strength; or, with KL budgets, the
   strength alpha of each direction in each model at which KL is the budget (`doses`).
3. Prompts: the change of the next token's log-probabilities after each prompt, at every dose. The tokens most
   promoted (suppressed) on one half of the prompts are the target (anti-target) set; E is measured on the other half.
   At equal KL (a budget, or 0.1 nat along the curves) E is the efficiency, and what controls are held against.
4. Agreement of two models: the correlation of their changes after the same prompts over the shared vocabulary, minus
   that of mismatched pairs (this feature in one model, another in the other), with a bootstrap over prompts.
5. Continuations of the first prompts at every dose.

All features steered in one call share the plain passes and serve each other as mismatched partners.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import seeds
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions import measures
from suture.interventions.edits import check_feature, check_models, steer_each
from suture.interventions.settings import ControlKind, SteerSettings
from suture.interventions.steer.agreement import agreement
from suture.interventions.steer.controls import ISOTROPIC
from suture.interventions.steer.curves import Curve, KindCurve, Weights, curve_of
from suture.interventions.steer.doses import USUAL_TRIES
from suture.interventions.steer.effect import Control, Effect, Generation, ModelEffect, RandomControl, Weighted
from suture.interventions.steer.probe import make_probe
from suture.interventions.steer.progress import Counter, OnProgress
from suture.interventions.steer.subject import (
    Answers,
    Costs,
    Subject,
    answer_prompts,
    chance_kind,
    most_moved,
    neutral_costs,
)
from suture.lm.generate import samples
from suture.lm.load import LanguageModel
from suture.lm.vocabulary import displayed, shared_texts, token_texts
from suture.uncertainty import Draws


def steer_effect(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel | None],
    feature: int,
    *,
    scales: Float[Tensor, "feature"],
    neutral: Sequence[str],
    prompts: Sequence[str],
    settings: SteerSettings | None = None,
    targets: Sequence[str] | None = None,
    anti_targets: Sequence[str] | None = None,
    mismatched: Sequence[int] | None = None,
    on_progress: OnProgress | None = None,
) -> Effect:
    """`steer_many` for one feature."""
    return steer_many(
        dictionary,
        lms,
        [feature],
        scales=scales,
        neutral=neutral,
        prompts=prompts,
        settings=settings,
        targets=targets,
        anti_targets=anti_targets,
        mismatched=mismatched,
        on_progress=on_progress,
    )[0]


def steer_many(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel | None],
    features: Sequence[int],
    *,
    scales: Float[Tensor, "feature"],
    neutral: Sequence[str],
    prompts: Sequence[str],
    settings: SteerSettings | None = None,
    targets: Sequence[str] | None = None,
    anti_targets: Sequence[str] | None = None,
    mismatched: Sequence[int] | None = None,
    on_progress: OnProgress | None = None,
) -> list[Effect]:
    """Steer some features in every model given and measure what follows.

    Args:
        dictionary: with one space per entry of `lms`.
        lms: the models of the dictionary's spaces, in order; None for one that is not to be steered.
        features: the features to steer.
        scales: every feature's 99.9 % activation in code units; NaN or 0 for a dead one.
        neutral: texts on which steering ought to change little.
        prompts: the same for every model; the measures are taken after their last token.
        settings: strengths or KL budgets, controls, lengths.
        targets: texts of tokens whose log-probability E is about; each must be one token of every model. By default
            the tokens most promoted on the half of the prompts that E is not measured on.
        anti_targets: likewise what E is compared with; by default the tokens most suppressed there.
        mismatched: features to compare agreement with; by default the other `features` and some drawn live ones.
        on_progress: called after every pass.

    Returns:
        One effect per feature, in the order given.

    Raises:
        UserError: no model, an unknown or dead feature, fewer than two prompts, no neutral text, a target that is not
            one token, a model that is not the one the dictionary was trained on.
    """
    settings = settings or SteerSettings()
    _check(dictionary, lms, features, scales, prompts)
    partners = _partners(features, scales, settings, mismatched)
    subjects = [
        Subject.of(
            space,
            dictionary,
            scales,
            settings,
            token_texts(lm),
            make_probe(
                lm,
                dictionary.spaces[space].hookpoint,
                neutral=neutral,
                prompts=prompts,
                block=settings.block,
                batch_tokens=settings.batch_tokens,
            ),
            features,
        )
        for space, lm in enumerate(lms)
        if lm is not None
    ]
    halves = _halves(len(prompts), settings.seed, given=targets is not None and anti_targets is not None)
    shared = shared_texts([s.texts for s in subjects])
    compared = sorted({*features, *chain.from_iterable(partners.values())}) if len(subjects) > 1 else list(features)
    counter = Counter(_n_passes(subjects, compared, features, prompts), on_progress)
    costs = [neutral_costs(s, features, compared, counter) for s in subjects]
    answers = [
        answer_prompts(s, features, c, shared, halves, (targets, anti_targets), counter)
        for s, c in zip(subjects, costs, strict=True)
    ]
    per_model = [
        _model_effects(s, c, a, features, prompts, halves, counter)
        for s, c, a in zip(subjects, costs, answers, strict=True)
    ]
    weights, chance = Draws.make(len(prompts), settings.n_draws, settings.seed), chance_kind(settings)
    return [
        Effect(
            feature=feature,
            scale=float(scales[feature]),
            models=tuple(effects[number] for effects in per_model),
            agreements=tuple(
                agreement((a.label, b.label), feature, partners[feature], moved_a, moved_b, weights, chance)
                for (a, moved_a), (b, moved_b) in combinations(zip(subjects, answers, strict=True), 2)
                if len(shared) > 1
            ),
            prompts=tuple(prompts),
            evaluation_prompts=tuple(halves[1].tolist()),
            settings=settings,
        )
        for number, feature in enumerate(features)
    ]


def _model_effects(
    subject: Subject,
    costs: Costs,
    answers: Answers,
    features: Sequence[int],
    prompts: Sequence[str],
    halves: tuple[Tensor, Tensor],
    counter: Counter,
) -> list[ModelEffect]:
    """Step 5 for one model, and its results put together, one per feature."""
    settings, probe, text = subject.settings, subject.probe, costs.text
    weights = Weights(
        texts=Draws.make(probe.n_texts, settings.n_draws, settings.seed),
        prompts=Draws.make(len(halves[1]), settings.n_draws, settings.seed),
    )
    effects = []
    for feature in features:
        curves = [
            curve_of(doses, effect, text, settings, weights)
            for doses, effect in zip(costs.per_feature[feature], answers.effect[feature], strict=True)
        ]
        own, change = curves[0], answers.mean_change[feature][0]
        target_ids, anti_ids = answers.targets[feature]
        texts = _continuations(subject, costs, feature, prompts, counter)
        controls = _controls(subject, feature, curves, answers, texts)
        effects.append(
            ModelEffect(
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
                covariance_of=subject.around.covariance_of,
            )
        )
    return effects


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
    change = answers.mean_change[feature][at[0]] if at else None
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
        points = sorted(zip(costs.per_feature[feature][i].strengths, budgets, strict=True))
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
        for (i, strength, budget), text in zip(spots, texts, strict=True):
            found[i].append(Generation(strength=strength, prompt=prompt, text=text, budget=budget))
    return {i: tuple(own) for i, own in found.items()}


def _check(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel | None],
    features: Sequence[int],
    scales: Tensor,
    prompts: Sequence[str],
) -> None:
    check_models(dictionary, lms)
    if not features:
        raise UserError("features", list(features), "names none", "give one feature or more")
    if len(scales) != dictionary.n_features:
        raise UserError(
            "scales", len(scales), f"the dictionary has {dictionary.n_features} features", "give one scale per feature"
        )
    for feature in features:
        check_feature(dictionary, feature)
        if not float(scales[feature]) > 0:
            raise UserError("feature", feature, "never fires, so nothing tells how far to steer", "take a live one")
    if len(prompts) < 2:
        raise UserError("prompts", len(prompts), "are too few to measure on", "give two or more, better thirty")


def _halves(n_prompts: int, seed: int, *, given: bool) -> tuple[Int[Tensor, "discovery"], Int[Tensor, "evaluation"]]:
    """Prompts that choose the targets, and prompts that E is measured on: all of them when the targets are given."""
    order = torch.randperm(n_prompts, generator=seeds.generator("prompt halves", seed))
    n_discovery = 0 if given else n_prompts // 2
    return order[:n_discovery].sort().values, order[n_discovery:].sort().values


def _partners(
    features: Sequence[int], scales: Tensor, settings: SteerSettings, named: Sequence[int] | None
) -> dict[int, tuple[int, ...]]:
    """For each feature the others that agreement is compared with: those named, or the others steered and live ones."""
    live = torch.nonzero(scales.nan_to_num() > 0)[:, 0]
    drawn = live[torch.randperm(len(live), generator=seeds.generator("mismatched features", settings.seed))].tolist()
    if named is not None:
        for feature in named:
            if not 0 <= feature < len(scales) or not float(scales[feature]) > 0:
                raise UserError("mismatched", feature, "is not a live feature", "name features that fire")
    others = list(dict.fromkeys(named if named is not None else [*features, *drawn]))
    n = len(others) if named is not None else settings.n_mismatched
    return {feature: tuple([o for o in others if o != feature][:n]) for feature in features}


def _n_passes(
    subjects: Sequence[Subject], compared: Sequence[int], features: Sequence[int], prompts: Sequence[str]
) -> int:
    """Passes over the prompts and the neutral batches, and continuations; how long a search takes is guessed."""
    total = 0
    for subject in subjects:
        settings = subject.settings
        n_others = len(compared) - len(features)
        edits = sum(len(subject.directions(f)) for f in features) * len(settings.doses)
        texts = min(settings.n_generation_prompts, len(prompts)) * len(features)
        searched = USUAL_TRIES * (edits + n_others) if settings.kl else edits
        total += n_others + edits + texts + searched * len(subject.probe.neutral)
    return total
