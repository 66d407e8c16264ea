"""What steering a feature does: each model is moved along the feature's own direction in it, and measured.

1. In every model, add alpha * s_i * d_i^m at all positions after BOS: s_i the feature's 99.9 % activation, d_i^m its
   decoder row in the model's raw units. Controls: random directions of the same norm.
2. Prompts: the change of the next token's log-probabilities after each prompt, at every strength. The tokens most
   promoted (suppressed) on one half of the prompts are the target (anti-target) set; E is measured on the other half.
3. Neutral text: KL(plain || steered) and the rise of the loss per token; from the curve, the strength at which KL is
   0.1 nat, and E there (efficiency).
4. Agreement of two models: the correlation of their changes after the same prompts over the shared vocabulary, minus
   that of mismatched pairs (this feature in one model, another in the other), with a bootstrap over prompts.
5. Continuations of the first prompts at every strength.

All features steered in one call share the plain passes and serve each other as mismatched partners.
"""

from collections.abc import Sequence
from itertools import chain, combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import seeds
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions import measures
from suture.interventions.edits import check_feature, check_models, steer, steer_each
from suture.interventions.steer.agreement import agreement
from suture.interventions.steer.effect import (
    Effect,
    Generation,
    ModelEffect,
    RandomControl,
    SteerSettings,
    Weighted,
)
from suture.interventions.steer.probe import make_probe
from suture.interventions.steer.subject import Answers, Counter, OnProgress, Subject, answer_prompts, most_moved
from suture.lm.generate import samples
from suture.lm.load import LanguageModel
from suture.lm.vocabulary import displayed, shared_texts, token_texts
from suture.uncertainty import Draws, ratio_interval


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
        settings: strengths, controls, lengths.
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
        Subject(
            space=space,
            dictionary=dictionary,
            scales=scales,
            settings=settings,
            texts=token_texts(lm),
            probe=make_probe(
                lm,
                dictionary.spaces[space].hookpoint,
                neutral=neutral,
                prompts=prompts,
                block=settings.block,
                batch_tokens=settings.batch_tokens,
            ),
        )
        for space, lm in enumerate(lms)
        if lm is not None
    ]
    halves = _halves(len(prompts), settings.seed, given=targets is not None and anti_targets is not None)
    shared = shared_texts([s.texts for s in subjects])
    compared = sorted({*features, *chain.from_iterable(partners.values())}) if len(subjects) > 1 else list(features)
    counter = Counter(_n_passes(subjects, compared, features, prompts, settings), on_progress)
    answers = [
        answer_prompts(s, features, compared, shared, halves, (targets, anti_targets), counter) for s in subjects
    ]
    per_model = [
        _model_effects(s, a, features, prompts, halves, counter) for s, a in zip(subjects, answers, strict=True)
    ]
    weights = Draws.make(len(prompts), settings.n_draws, settings.seed)
    return [
        Effect(
            feature=feature,
            scale=float(scales[feature]),
            models=tuple(effects[number] for effects in per_model),
            agreements=tuple(
                agreement((a.label, b.label), feature, partners[feature], moved_a, moved_b, weights)
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
    answers: Answers,
    features: Sequence[int],
    prompts: Sequence[str],
    halves: tuple[Tensor, Tensor],
    counter: Counter,
) -> list[ModelEffect]:
    """Steps 3 and 5 for one model, and its results put together, one per feature."""
    settings, probe = subject.settings, subject.probe
    n_directions, n_strengths = 1 + settings.n_random, len(settings.strengths)
    edits = [steer(d, s) for f in features for d in subject.directions(f) for s in settings.strengths]
    sums, plain_ce, count = probe.neutral_sums(edits, counter.step)
    per_feature = sums.reshape(len(features), n_directions, n_strengths, probe.n_texts, 2)
    text_weights = Draws.make(probe.n_texts, settings.n_draws, settings.seed)
    prompt_weights = Draws.make(len(halves[1]), settings.n_draws, settings.seed)
    effects = []
    for feature, own_sums in zip(features, per_feature, strict=True):
        means = own_sums.sum(2) / count.sum()  # [direction, strength, 2]
        e = answers.effect[feature].double()
        kl, target_effect = means[0, :, 0].tolist(), e[0].mean(-1).tolist()
        at = measures.strength_at(settings.strengths, kl, settings.kl_budget)
        change = answers.mean_change[feature]
        target_ids, anti_ids = answers.targets[feature]
        own_kl, own_ce = own_sums[0].unbind(-1)
        texts = _continuations(subject, feature, prompts, counter)
        effects.append(
            ModelEffect(
                model=subject.label,
                direction_norm=float(subject.own(feature).norm()),
                n_tokens=int(count.sum()),
                n_texts=int((count > 0).sum()),
                plain_ce=float(plain_ce.sum() / count.sum()),
                strengths=settings.strengths,
                kl_neutral=tuple(kl),
                kl_neutral_interval=tuple(ratio_interval(t, count, text_weights) for t in own_kl),
                delta_ce=tuple(means[0, :, 1].tolist()),
                delta_ce_interval=tuple(ratio_interval(t, count, text_weights) for t in own_ce),
                target_effect=tuple(target_effect),
                target_effect_interval=tuple(ratio_interval(t, torch.ones(len(t)), prompt_weights) for t in e[0]),
                strength_at_kl=at,
                effect_at_kl=measures.effect_at(settings.strengths, target_effect, at),
                targets=tuple(displayed(probe.lm, subject.texts, int(i)) for i in target_ids),
                anti_targets=tuple(displayed(probe.lm, subject.texts, int(i)) for i in anti_ids),
                targets_from=answers.targets_from,
                top_promoted=_top(subject, change[0]),
                top_suppressed=_top(subject, change[0], falling=True),
                generations=texts[0],
                random=_control(subject, means[1:], e[1:], change[1:], texts[1]) if settings.n_random else None,
            )
        )
    return effects


def _control(
    subject: Subject,
    means: Float[Tensor, "direction strength 2"],
    effect: Float[Tensor, "direction strength prompt"],
    change: Sequence[Float[Tensor, "vocab"]],
    generations: tuple[Generation, ...],
) -> RandomControl:
    """The random directions' results."""
    strengths = subject.settings.strengths
    per_direction = effect.mean(-1)
    kl, target_effect = means[..., 0].mean(0).tolist(), per_direction.mean(0).tolist()
    at = measures.strength_at(strengths, kl, subject.settings.kl_budget)
    return RandomControl(
        n_directions=len(means),
        strengths=strengths,
        kl_neutral=tuple(kl),
        kl_neutral_sd=_sd(means[..., 0]),
        delta_ce=tuple(means[..., 1].mean(0).tolist()),
        delta_ce_sd=_sd(means[..., 1]),
        target_effect=tuple(target_effect),
        target_effect_sd=_sd(per_direction),
        strength_at_kl=at,
        effect_at_kl=measures.effect_at(strengths, target_effect, at),
        top_promoted=_top(subject, change[0]),
        top_suppressed=_top(subject, change[0], falling=True),
        generations=generations,
    )


def _sd(values: Float[Tensor, "direction strength"]) -> tuple[float, ...]:
    """Over directions; 0 for a single one."""
    return tuple(values.std(0, correction=1 if len(values) > 1 else 0).tolist())


def _top(subject: Subject, change: Float[Tensor, "vocab"], *, falling: bool = False) -> Weighted:
    """The tokens that rose (fell) most with their mean change in nats."""
    ids = most_moved(change, subject.texts, subject.settings.n_top)[1 if falling else 0]
    return tuple((displayed(subject.probe.lm, subject.texts, i), float(change[i])) for i in ids.tolist())


def _continuations(
    subject: Subject, feature: int, prompts: Sequence[str], counter: Counter
) -> list[tuple[Generation, ...]]:
    """The first prompts continued without steering and at every strength, along its own and the first random direction.

    All continuations of a prompt are one batch, each sequence with its own vector.
    """
    settings, probe = subject.settings, subject.probe
    strengths = sorted({0.0, *settings.strengths})
    directions = subject.directions(feature)[:2]
    vectors = torch.stack([strength * direction for direction in directions for strength in strengths])
    found: list[list[Generation]] = [[] for _ in directions]
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
        for i, text in enumerate(texts):
            direction, strength = divmod(i, len(strengths))
            found[direction].append(Generation(strength=strengths[strength], prompt=prompt, text=text))
    return [tuple(f) for f in found]


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
    subjects: Sequence[Subject],
    compared: Sequence[int],
    features: Sequence[int],
    prompts: Sequence[str],
    settings: SteerSettings,
) -> int:
    """Passes over the prompts and the neutral batches, and continuations."""
    per_feature = (1 + settings.n_random) * len(settings.strengths)
    texts = min(settings.n_generation_prompts, len(prompts))
    one = len(compared) - len(features) + len(features) * (per_feature + texts)
    return sum(one + len(features) * per_feature * len(s.probe.neutral) for s in subjects)
