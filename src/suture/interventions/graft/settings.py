"""Settings of removing and grafting: in which way, how features are chosen, on which documents, beside what."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, check

Way = Literal["remove", "difference", "both", "bridge", "project"]
Number = Annotated[int, Limits(0)]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """At which tokens a graft acts."""

    on_first: bool = True
    """Also at the first token of a text, where most models keep what is no feature."""
    on_prompt: bool = True
    """At the prompt's tokens."""
    on_generated: bool = True
    """At the tokens that are written."""
    until: Count | None = None
    """At so many written tokens only."""
    fade: Number = 0
    """Over so many more, the strength falls to nothing."""

    def __post_init__(self) -> None:
        check(self)
        if not (self.on_prompt or self.on_generated):
            raise UserError("on-generated", self.on_generated, "leaves no token to act at", "leave one of both on")

    @property
    def everywhere(self) -> bool:
        """Whether it acts alike at every token."""
        return self == Schedule()


@dataclass(frozen=True, kw_only=True)
class GraftSettings:
    """How an unsafe behaviour is taken out of a model."""

    way: Way = "remove"
    """remove: subtract what the features write; difference: what they write here and not in the safe model; both: for
    each feature whichever helps more; bridge: put the safe model's part, carried from its space, in place of it;
    project: leave nothing along their directions, which folds into weights."""
    n_features: Annotated[Count, Option("features")] = 16
    """Features at most, over all hookpoints."""
    candidates: Count = 100
    """Of each dictionary, features whose mean values differ most with and without the behaviour: they are ranked."""
    screened: Count = 24
    """Of each dictionary, the best so many are measured one by one."""
    clean_each: Annotated[Positive, Option("clean-each")] = 0.001
    """A feature whose removal alone raises the loss on clean text by more than this part is left out."""
    clean_budget: Annotated[Positive, Option("clean-budget")] = 0.004
    """By how much, as a part, all may raise it together on the documents that choose."""
    clean_weight: Annotated[float, Limits(0)] = 3.0
    """Of what a feature is worth on clean text, against what it is worth to the behaviour, when they are ranked."""
    entry_tokens: Count = 8
    """First tokens of the behaviour that features are ranked by: later ones feed on those."""
    path_points: Count = 5
    """Points between the model as it is and all candidates removed that gradients are taken at."""
    n_choosing: Annotated[Annotated[int, Limits(10)], Option("choosing")] = 60
    """Documents that features are chosen on; all further ones are fresh."""
    n_fresh: Annotated[Annotated[int, Limits(10)], Option("fresh")] = 150
    """Fresh documents at most that everything is reported on."""
    new_tokens: Annotated[int, Limits(8)] = 40
    """Tokens written after each prompt."""
    block: Annotated[int, Limits(32)] = 160
    """Tokens of a document at most."""
    ceiling: tuple[str, ...] = ()
    """Further hookpoints at which the safe model's activation is put in, as a ceiling: attn*.out, mlp0.out."""
    draws: Annotated[Number, Option("draws")] = 3
    """Sets of features that controls draw; 0 for none."""
    tuning_steps: Number = 80
    """Steps of fine-tuning on clean text, as a control; 0 for none."""
    schedule: Schedule = field(default_factory=Schedule)
    seed: Seed = 0
    """Of texts, draws of continuations, of controls and of the bootstrap."""

    def __post_init__(self) -> None:
        check(self)
