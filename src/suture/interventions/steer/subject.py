"""`Subject`: one model being steered, the vectors added to it, and what it answers after the prompts.

1. A feature's vector is its decoder row in this model's raw units times its 99.9 % activation; its controls are vectors
   of the same norm (`controls`).
2. After each prompt, under each vector at each of its doses: the log-probabilities of the next token.
3. Targets are the tokens most promoted on the discovery half of the prompts, E is measured on the other half.
4. What the models are compared on is kept: the changes over the shared vocabulary at the reference dose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions import measures
from suture.interventions.edits import steer
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.controls import (
    COVARIANCE,
    ISOTROPIC,
    Direction,
    Surroundings,
    control_directions,
    surroundings,
)
from suture.interventions.steer.doses import Doses, NeutralText, at_budgets, at_strengths
from suture.interventions.steer.probe import Probe
from suture.interventions.steer.progress import Counter
from suture.lm.vocabulary import text_index, text_log_probs


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One steered model: its probe, its vocabulary, and the vectors added to it at strength 1."""

    space: int
    dictionary: Dictionary
    scales: Tensor
    settings: SteerSettings
    texts: list[str | None]
    probe: Probe
    around: Surroundings
    _directions: dict[int, list[Direction]] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        space: int,
        dictionary: Dictionary,
        scales: Tensor,
        settings: SteerSettings,
        texts: list[str | None],
        probe: Probe,
        features: Sequence[int],
    ) -> "Subject":
        """With what the controls of these features need to know of the model."""
        around = surroundings(dictionary, space, probe, features, settings)
        return Subject(
            space=space,
            dictionary=dictionary,
            scales=scales,
            settings=settings,
            texts=texts,
            probe=probe,
            around=around,
        )

    @property
    def label(self) -> str:
        return self.dictionary.spaces[self.space].label

    def own(self, feature: int) -> Tensor:
        """s_i d_i^m [width], raw units."""
        return self.dictionary.raw_decoder(self.space)[feature] * float(self.scales[feature])

    def directions(self, feature: int) -> list[Direction]:
        """Its own, then the controls."""
        if feature not in self._directions:
            own = self.own(feature)
            live = torch.nonzero(self.scales.nan_to_num() > 0)[:, 0].tolist()
            controls = control_directions(
                self.dictionary,
                self.space,
                feature,
                own,
                live=live,
                around=self.around,
                settings=self.settings,
            )
            self._directions[feature] = [Direction(kind="own", vector=own), *controls]
        return self._directions[feature]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """How strongly each vector of a model is added, and what that does to neutral text."""

    per_feature: Mapping[int, list[Doses]]
    """Per steered feature, the doses of each of its directions."""
    reference: Mapping[int, float]
    """Of every compared feature, the strength of its own vector at the reference dose."""
    text: NeutralText


def neutral_costs(subject: Subject, features: Sequence[int], compared: Sequence[int], counter: Counter) -> Costs:
    """The doses of all directions of the steered features; of the other compared ones their own at the reference."""
    settings, at = subject.settings, subject.settings.reference_dose
    others = [feature for feature in compared if feature not in features]
    vectors = [d.vector for f in features for d in subject.directions(f)]
    if settings.kl:
        budgets: list[tuple[float, ...]] = [settings.kl] * len(vectors) + [(settings.kl[at],)] * len(others)
        found, text = at_budgets(subject.probe, [*vectors, *map(subject.own, others)], budgets, counter)
    else:
        found, text = at_strengths(subject.probe, vectors, settings.strengths, counter)
    per_feature, start = {}, 0
    for feature in features:
        stop = start + len(subject.directions(feature))
        per_feature[feature] = found[start:stop]
        start = stop
    reference = {feature: doses[0].strengths[at] for feature, doses in per_feature.items()}
    if settings.kl:
        reference |= {feature: doses.strengths[0] for feature, doses in zip(others, found[start:], strict=True)}
    else:
        reference |= dict.fromkeys(others, settings.strengths[at])
    return Costs(per_feature=per_feature, reference=reference, text=text)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model did after the prompts."""

    own: dict[int, Float[Tensor, "prompt text"]]
    """Per feature, the change of each shared text's log-probability at the reference dose."""
    random: dict[int, list[Float[Tensor, "prompt text"]]]
    """The same under the control directions that agreement is compared with (`chance_kind`)."""
    mean_change: dict[int, list[Float[Tensor, "vocab"]]]
    """Per steered feature and direction, at the reference dose, over all prompts."""
    effect: dict[int, Float[Tensor, "direction dose prompt"]]
    """E per steered feature after each evaluation prompt; direction 0 is the feature's own."""
    targets: dict[int, tuple[Tensor, Tensor]]
    """Per steered feature, the ids of the target and anti-target tokens."""
    targets_from: str


def chance_kind(settings: SteerSettings) -> str:
    """Which control directions agreement is compared with: covariance-matched ones, or isotropic ones without."""
    return COVARIANCE if COVARIANCE in settings.controls and settings.n_controls else ISOTROPIC


def answer_prompts(
    subject: Subject,
    features: Sequence[int],
    costs: Costs,
    shared: Sequence[str],
    halves: tuple[Tensor, Tensor],
    given: tuple[Sequence[str] | None, Sequence[str] | None],
    counter: Counter,
) -> Answers:
    """Steps 2 to 4 of the module for one model, at the doses that `costs` found."""
    settings, probe = subject.settings, subject.probe
    index = text_index(subject.texts, shared)
    plain = probe.prompt_log_probs(None)
    plain_shared = text_log_probs(plain, index, len(shared))
    discovery, evaluation = halves
    fixed = [_given_ids(subject, name, g) for name, g in zip(("targets", "anti_targets"), given, strict=True)]
    origin = " and ".join(dict.fromkeys("discovery prompts" if f is None else "given" for f in fixed))
    answers = Answers(own={}, random={}, mean_change={}, effect={}, targets={}, targets_from=origin)
    for feature, reference in costs.reference.items():
        if feature not in features:
            steered = probe.prompt_log_probs(steer(subject.own(feature), reference))
            answers.own[feature] = text_log_probs(steered, index, len(shared)) - plain_shared
            counter.step()
            continue
        per_direction, answers.mean_change[feature], answers.random[feature] = [], [], []
        for direction, doses in zip(subject.directions(feature), costs.per_feature[feature], strict=True):
            steered = []
            for strength in doses.strengths:
                steered.append(probe.prompt_log_probs(steer(direction.vector, strength)))
                counter.step()
            at_reference = steered[settings.reference_dose]
            change = at_reference - plain
            if feature not in answers.targets:  # chosen by the first direction, the feature's own
                found = most_moved(change[discovery].mean(0), subject.texts, settings.n_targets)
                sets = [f if g is None else g for f, g in zip(found, fixed, strict=True)]
                answers.targets[feature] = sets[0], sets[1]
            ids = answers.targets[feature]
            per_direction.append(torch.stack([_effect(plain, s, evaluation, ids) for s in steered]))
            answers.mean_change[feature].append(change.mean(0))
            moved = text_log_probs(at_reference, index, len(shared)) - plain_shared
            if direction.kind == "own":
                answers.own[feature] = moved
            elif direction.kind == chance_kind(settings):
                answers.random[feature].append(moved)
        answers.effect[feature] = torch.stack(per_direction)
    return answers


def _effect(plain: Tensor, steered: Tensor, prompts: Tensor, ids: tuple[Tensor, Tensor]) -> Float[Tensor, "prompt"]:
    return measures.set_effect(plain[prompts], steered[prompts], *ids)


def most_moved(
    change: Float[Tensor, "vocab"], texts: Sequence[str | None], n: int
) -> tuple[Int[Tensor, "up"], Int[Tensor, "down"]]:
    """The ids of the `n` tokens with a text that rose most, and of the `n` that fell most, the most moved first."""
    known = torch.tensor([i for i, text in enumerate(texts) if text is not None], dtype=torch.int64)
    order = known[torch.argsort(change[known], descending=True, stable=True)]
    n = max(1, min(n, len(order) // 2))
    return order[:n], order.flip(0)[:n]


def _given_ids(subject: Subject, setting: str, chosen: Sequence[str] | None) -> Tensor | None:
    """The token ids of texts that the user named.

    Raises:
        UserError: none, or one that is not a token of the model.
    """
    if chosen is None:
        return None
    ids, place = text_index(subject.texts, chosen)
    missing = [text for i, text in enumerate(chosen) if i not in place.tolist()]
    if missing or not chosen:
        problem = f"is not one token of {subject.probe.lm.name}"
        raise UserError(setting, missing, problem, "name whole tokens, a leading space included")
    return ids
