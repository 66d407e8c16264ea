"""`Subject`: one model being steered, the vectors added to it, and what it answers after the prompts.

1. A feature's vector is its decoder row in this model's raw units times its 99.9 % activation; its controls are
   isotropic random vectors of the same norm.
2. After each prompt, under each vector at each strength: the log-probabilities of the next token.
3. Targets are the tokens most promoted on the discovery half of the prompts, E is measured on the other half.
4. What the models are compared on is kept: the changes over the shared vocabulary at the reference strength.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import seeds
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions import measures
from suture.interventions.edits import steer
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.probe import Probe
from suture.lm.vocabulary import text_index, text_log_probs


@dataclass(frozen=True, kw_only=True)
class SteerProgress:
    """How far a run is: forward passes over a batch and continuations, done and in all."""

    done: int
    total: int


OnProgress = Callable[[SteerProgress], None]


@dataclass
class Counter:
    """Tells `on_progress` of every pass."""

    total: int
    on_progress: OnProgress | None
    done: int = field(default=0, init=False)

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(SteerProgress(done=self.done, total=max(self.total, self.done)))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One steered model: its probe, its vocabulary, and the vectors added to it at strength 1."""

    space: int
    dictionary: Dictionary
    scales: Tensor
    settings: SteerSettings
    texts: list[str | None]
    probe: Probe

    @property
    def label(self) -> str:
        return self.dictionary.spaces[self.space].label

    def own(self, feature: int) -> Tensor:
        """s_i d_i^m [width], raw units."""
        return self.dictionary.raw_decoder(self.space)[feature] * float(self.scales[feature])

    def random(self, feature: int) -> list[Tensor]:
        """Isotropic directions of the same norm."""
        own = self.own(feature)
        directions = []
        for draw in range(self.settings.n_random):
            chance = seeds.generator("random directions", self.settings.seed, feature, self.space, draw)
            direction = torch.randn(len(own), generator=chance).to(own)
            directions.append(direction * (own.norm() / direction.norm()))
        return directions

    def directions(self, feature: int) -> list[Tensor]:
        """Its own, then the random ones."""
        return [self.own(feature), *self.random(feature)]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model did after the prompts."""

    own: dict[int, Float[Tensor, "prompt text"]]
    """Per feature, the change of each shared text's log-probability at the reference strength."""
    random: dict[int, list[Float[Tensor, "prompt text"]]]
    mean_change: dict[int, list[Float[Tensor, "vocab"]]]
    """Per steered feature and direction, at the reference strength, over all prompts."""
    effect: dict[int, Float[Tensor, "direction strength prompt"]]
    """E per steered feature after each evaluation prompt; direction 0 is the feature's own."""
    targets: dict[int, tuple[Tensor, Tensor]]
    """Per steered feature, the ids of the target and anti-target tokens."""
    targets_from: str


def answer_prompts(
    subject: Subject,
    features: Sequence[int],
    compared: Sequence[int],
    shared: Sequence[str],
    halves: tuple[Tensor, Tensor],
    given: tuple[Sequence[str] | None, Sequence[str] | None],
    counter: Counter,
) -> Answers:
    """Steps 1 and 2 of the module for one model."""
    settings, probe = subject.settings, subject.probe
    index = text_index(subject.texts, shared)
    plain = probe.prompt_log_probs(None)
    plain_shared = text_log_probs(plain, index, len(shared))
    discovery, evaluation = halves
    fixed = [_given_ids(subject, name, g) for name, g in zip(("targets", "anti_targets"), given, strict=True)]
    origin = " and ".join(dict.fromkeys("discovery prompts" if f is None else "given" for f in fixed))
    answers = Answers(own={}, random={}, mean_change={}, effect={}, targets={}, targets_from=origin)
    for feature in compared:
        if feature not in features:
            steered = probe.prompt_log_probs(steer(subject.own(feature), settings.reference))
            answers.own[feature] = text_log_probs(steered, index, len(shared)) - plain_shared
            counter.step()
            continue
        per_direction, answers.mean_change[feature], moved = [], [], []
        for direction in subject.directions(feature):
            steered = {}
            for strength in settings.strengths:
                steered[strength] = probe.prompt_log_probs(steer(direction, strength))
                counter.step()
            change = steered[settings.reference] - plain
            if feature not in answers.targets:  # chosen by the first direction, the feature's own
                found = most_moved(change[discovery].mean(0), subject.texts, settings.n_targets)
                sets = [f if g is None else g for f, g in zip(found, fixed, strict=True)]
                answers.targets[feature] = sets[0], sets[1]
            ids = answers.targets[feature]
            per_strength = [measures.set_effect(plain[evaluation], s[evaluation], *ids) for s in steered.values()]
            per_direction.append(torch.stack(per_strength))
            answers.mean_change[feature].append(change.mean(0))
            moved.append(text_log_probs(steered[settings.reference], index, len(shared)) - plain_shared)
        answers.own[feature], answers.random[feature] = moved[0], moved[1:]
        answers.effect[feature] = torch.stack(per_direction)
    return answers


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
