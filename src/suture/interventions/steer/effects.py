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
5. Continuations of the first prompts at every dose, how they read (`fluency`), and how many other features move
   (`collateral`): `outcome`.

All features steered in one call serve each other as mismatched partners; each is done when its effect is yielded, so
that a stopped run has those before.
"""

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from itertools import chain, combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import seeds
from suture.bridges.bridge import Bridge
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions.edits import check_feature, check_models
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.agreement import Answered, agreement
from suture.interventions.steer.carried import carried_vectors
from suture.interventions.steer.doses import USUAL_TRIES
from suture.interventions.steer.effect import Effect
from suture.interventions.steer.outcome import model_effect
from suture.interventions.steer.probe import make_probe
from suture.interventions.steer.progress import Counter, OnProgress
from suture.interventions.steer.subject import Subject, answer_prompts, at_reference, chance_kind, neutral_costs
from suture.lm.load import LanguageModel
from suture.lm.vocabulary import shared_texts, token_texts
from suture.uncertainty import Draws


def steered(
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
    bridge: Bridge | None = None,
    finished: Container[int] = (),
    on_progress: OnProgress | None = None,
) -> Iterator[Effect]:
    """Steer some features in every model given and measure what follows; each effect comes as soon as it is known.

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
        bridge: between two of the dictionary's spaces: adds the other model's vector, carried over, to the controls.
        finished: those of `features` that are only compared with.
        on_progress: called after every pass.

    Yields:
        One effect per feature that is not finished, in the order given.

    Raises:
        UserError: no model, an unknown or dead feature, fewer than two prompts, no neutral text, a target that is not
            one token, a model that is not the one the dictionary was trained on.
    """
    settings = settings or SteerSettings()
    _check(dictionary, lms, features, scales, prompts)
    partners = partners_of(features, scales, settings, mismatched)
    wanted = [feature for feature in features if feature not in finished]
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
            wanted,
            carried_vectors(bridge, dictionary, space, wanted) if bridge is not None else None,
        )
        for space, lm in enumerate(lms)
        if lm is not None
    ]
    halves = _halves(len(prompts), settings.seed, given=targets is not None and anti_targets is not None)
    shared = shared_texts([s.texts for s in subjects])
    compared = sorted({*features, *chain.from_iterable(partners.values())}) if len(subjects) > 1 else list(wanted)
    counter = Counter(_n_passes(subjects, compared, wanted, prompts), on_progress)
    references = [at_reference(s, wanted, compared, shared, counter) for s in subjects]
    weights, chance = Draws.make(len(prompts), settings.n_draws, settings.seed), chance_kind(settings)
    for feature in wanted:
        models, answered = [], []
        for subject, reference in zip(subjects, references, strict=True):
            costs = neutral_costs(subject, feature, reference, counter)
            answers = answer_prompts(subject, feature, costs, shared, halves, (targets, anti_targets), counter)
            models.append(model_effect(subject, costs, answers, feature, prompts, halves, counter))
            answered.append(Answered(own=reference.own, random=answers.random))
        yield Effect(
            feature=feature,
            scale=float(scales[feature]),
            models=tuple(models),
            agreements=tuple(
                agreement((a.label, b.label), feature, partners[feature], moved_a, moved_b, weights, chance)
                for (a, moved_a), (b, moved_b) in combinations(zip(subjects, answered, strict=True), 2)
                if len(shared) > 1
            ),
            prompts=tuple(prompts),
            evaluation_prompts=tuple(halves[1].tolist()),
            settings=settings,
            texts=checksum(prompts, neutral),
            compared=partners[feature],
        )


def checksum(prompts: Sequence[str], neutral: Sequence[str]) -> str:
    """Of the texts that steering is measured on."""
    return hashlib.sha256(json.dumps([list(prompts), list(neutral)]).encode()).hexdigest()


def _check(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel | None],
    features: Sequence[int],
    scales: Tensor,
    prompts: Sequence[str],
) -> None:
    check_models(dictionary.spaces, lms)
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


def partners_of(
    features: Sequence[int], scales: Tensor, settings: SteerSettings, named: Sequence[int] | None = None
) -> dict[int, tuple[int, ...]]:
    """For each feature the others that agreement is compared with: those named, or the others steered and live ones.

    Raises:
        UserError: a named one that is not live.
    """
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
        settings, n_batches = subject.settings, len(subject.probe.neutral)
        edits = sum(len(subject.directions(f)) for f in features) * len(settings.doses)
        texts = min(settings.n_generation_prompts, len(prompts)) * len(features)
        others = len(compared) - len(features)
        searched = USUAL_TRIES * (edits + others) if settings.kl else edits
        total += len(compared) + edits + texts + searched * n_batches
    return total
