"""`Subject`: one model being steered, the vectors added to it, and what it answers after the prompts.

1. A feature's vector is its decoder row in this model's raw units times its 99.9 % activation, or as long as the
   model's activations on the neutral text typically are; its controls are vectors of the same norm (`controls`).
2. After each prompt, under each vector at each of its doses: the log-probabilities of the next token.
3. Targets are the tokens most promoted on the discovery half of the prompts, E is measured on the other half.
4. What the models are compared on is kept: the changes over the shared vocabulary at the reference dose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions import measures
from suture.interventions.edits import norm_amount, steer
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One steered model: its probe, its vocabulary, and the vectors added to it at strength 1."""

    space: int
    dictionary: Dictionary
    scales: Tensor
    settings: SteerSettings
    texts: list[str | None]
    probe: Probe
    around: Surroundings
    rows: Float[Tensor, "row width"] | None = None
    """Activations on the neutral text, raw units, where their typical length is the unit of strength."""
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
        carried: Mapping[int, Tensor] | None = None,
    ) -> "Subject":
        """With what the controls of these features need to know of the model."""
        around = surroundings(dictionary, space, probe, features, settings, carried)
        return Subject(
            space=space,
            dictionary=dictionary,
            scales=scales,
            settings=settings,
            texts=texts,
            probe=probe,
            around=around,
            rows=torch.cat([rows for rows, _ in probe.neutral_rows()]) if settings.unit == "norm" else None,
        )

    @property
    def label(self) -> str:
        return self.dictionary.spaces[self.space].label

    @cached_property
    def plain(self) -> Float[Tensor, "prompt vocab"]:
        """Log-probabilities after the prompts without steering."""
        return self.probe.prompt_log_probs(None)

    def own(self, feature: int) -> Tensor:
        """s_i d_i^m [width], raw units; s_i its 99.9 % activation, or what makes it as long as the rows are."""
        row = self.dictionary.raw_decoder(self.space)[feature]
        return row * (float(self.scales[feature]) if self.rows is None else norm_amount(row, self.rows, 1.0))

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
class Reference:
    """Every compared feature's own vector at the reference dose, in one model."""

    strengths: Mapping[int, float]
    doses: Mapping[int, Doses]
    """With KL budgets, of the steered features: the doses found for their own vectors."""
    own: Mapping[int, Float[Tensor, "prompt text"]]
    """The change of each shared text's log-probability."""


def at_reference(
    subject: Subject, features: Sequence[int], compared: Sequence[int], shared: Sequence[str], counter: Counter
) -> Reference:
    """What agreement needs of all features before any of them is measured in full."""
    settings, at = subject.settings, subject.settings.reference_dose
    strengths, doses = dict.fromkeys(compared, settings.doses[at]), {}
    if settings.kl:
        budgets = [settings.kl if feature in features else (settings.kl[at],) for feature in compared]
        found, _ = at_budgets(subject.probe, [*map(subject.own, compared)], budgets, counter)
        doses = {feature: own for feature, own in zip(compared, found, strict=True) if feature in features}
        for feature, own in zip(compared, found, strict=True):
            strengths[feature] = own.strengths[at if feature in features else 0]
    index = text_index(subject.texts, shared)
    plain = text_log_probs(subject.plain, index, len(shared))
    moved = {}
    for feature in compared:
        steered = subject.probe.prompt_log_probs(steer(subject.own(feature), strengths[feature]))
        moved[feature] = text_log_probs(steered, index, len(shared)) - plain
        counter.step()
    return Reference(strengths=strengths, doses=doses, own=moved)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """How strongly each direction of one feature is added in a model, and what that does to neutral text."""

    doses: list[Doses]
    text: NeutralText


def neutral_costs(subject: Subject, feature: int, reference: Reference, counter: Counter) -> Costs:
    """The doses of a feature's directions, its own first."""
    settings, vectors = subject.settings, [d.vector for d in subject.directions(feature)]
    if not settings.kl:
        found, text = at_strengths(subject.probe, vectors, settings.strengths, counter)
        return Costs(doses=found, text=text)
    budgets = [settings.kl] * (len(vectors) - 1)
    found, text = at_budgets(subject.probe, vectors[1:], budgets, counter)
    return Costs(doses=[reference.doses[feature], *found], text=text)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model did after the prompts, steered with one feature's directions."""

    random: list[Float[Tensor, "prompt text"]]
    """At the reference dose, the change of each shared text's log-probability under the control directions that
    agreement is compared with (`chance_kind`)."""
    mean_change: list[Float[Tensor, "vocab"]]
    """Per direction, at the reference dose, over all prompts."""
    effect: Float[Tensor, "direction dose evaluation"]
    """E after each evaluation prompt; direction 0 is the feature's own."""
    targets: tuple[Tensor, Tensor]
    """The ids of the target and anti-target tokens."""
    targets_from: str


def chance_kind(settings: SteerSettings) -> str:
    """Which control directions agreement is compared with: covariance-matched ones, or isotropic ones without."""
    return COVARIANCE if COVARIANCE in settings.controls and settings.n_controls else ISOTROPIC


def answer_prompts(
    subject: Subject,
    feature: int,
    costs: Costs,
    shared: Sequence[str],
    halves: tuple[Tensor, Tensor],
    given: tuple[Sequence[str] | None, Sequence[str] | None],
    counter: Counter,
) -> Answers:
    """Steps 2 to 4 of the module for one feature in one model, at the doses that `costs` found."""
    settings, probe, plain = subject.settings, subject.probe, subject.plain
    index = text_index(subject.texts, shared)
    plain_shared = text_log_probs(plain, index, len(shared))
    discovery, evaluation = halves
    fixed = [_given_ids(subject, name, g) for name, g in zip(("targets", "anti_targets"), given, strict=True)]
    targets: tuple[Tensor, Tensor] | None = None
    per_direction, mean_change, random = [], [], []
    for direction, doses in zip(subject.directions(feature), costs.doses, strict=True):
        steered = []
        for strength in doses.strengths:
            steered.append(probe.prompt_log_probs(steer(direction.vector, strength)))
            counter.step()
        at_reference = steered[settings.reference_dose]
        change = at_reference - plain
        if targets is None:  # chosen by the first direction, the feature's own
            found = most_moved(change[discovery].mean(0), subject.texts, settings.n_targets)
            up, down = (f if g is None else g for f, g in zip(found, fixed, strict=True))
            targets = up, down
        per_direction.append(torch.stack([_effect(plain, s, evaluation, targets) for s in steered]))
        mean_change.append(change.mean(0))
        if direction.kind == chance_kind(settings):
            random.append(text_log_probs(at_reference, index, len(shared)) - plain_shared)
    assert targets is not None
    return Answers(
        random=random,
        mean_change=mean_change,
        effect=torch.stack(per_direction),
        targets=targets,
        targets_from=" and ".join(dict.fromkeys("discovery prompts" if f is None else "given" for f in fixed)),
    )


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
