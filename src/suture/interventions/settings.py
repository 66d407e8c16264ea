"""Settings of splicing, ablating and steering: what text is read, what is watched, and how strongly is steered."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, Weight, check

Number = Annotated[int, Limits(0)]
MatchedKind = Literal["covariance", "decoder", "shuffled", "means"]
"""Kinds of directions that steering is compared with (`steer.controls`), besides carried and isotropic ones."""
ControlKind = Literal["covariance", "decoder", "shuffled", "means", "carried", "isotropic"]
Unit = Literal["activation", "norm"]
"""Of the strength of steering: the feature's 99.9 % activation, or the typical norm of activations."""
USUAL_REFERENCE = 1.0


@dataclass(frozen=True, kw_only=True)
class SpliceSettings:
    """What the loss is measured on."""

    n_documents: Annotated[Count, Option("documents")] = 64
    """Documents of text at most."""
    block: Count = 128
    """Longest piece of text, in tokens, that a model sees at once."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """What is watched."""

    n_documents: Annotated[Count, Option("documents")] = 128
    """Documents of text at most; two dozen left three of five shared features undecided, two hundred none."""
    block: Count = 128
    """Longest piece of text, in tokens, that a model sees at once."""
    n_draws: Annotated[int, Limits(20, problem="is too few for an interval", fix="use 500"), Option("draws")] = 500
    """Bootstrap draws of documents."""
    seed: Seed = 0
    """Of the draws and of the control's features."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class SteerSettings:
    """How steering is measured; every field decides the result and is saved with it."""

    strengths: Annotated[tuple[Annotated[float, Limits()], ...], Option("strength")] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Multiple of the unit that is added along the feature's own direction."""
    unit: Unit = "activation"
    """What strength 1 adds in each model: the feature's 99.9 % activation, or (norm) as much along its row as the
    model's activations on the neutral text are typically long."""
    kl: tuple[Positive, ...] = ()
    """Instead of strengths: KL on neutral text, in nats per token, that the feature in every model, and every control,
    is brought to, each at the strength that costs so much."""
    reference: Annotated[float, Option("reference")] = USUAL_REFERENCE
    """The strength (with KL budgets: the budget) at which promoted tokens, targets and agreement are taken; the first
    where 1 is none of them."""
    kl_budget: Positive = 0.1
    """Efficiency is the effect at the strength where KL on neutral text is this many nats per token."""
    controls: Annotated[tuple[MatchedKind, ...], Option("control")] = ("covariance", "decoder", "shuffled", "means")
    """Kinds of directions of the same raw norm that the feature is compared with: drawn with the covariance of the
    model's activations; decoder rows of other live features; its own row with shuffled coordinates; the difference of
    mean activations where it fires and where it does not."""
    n_controls: Annotated[Number, Option("control-draws")] = 4
    """Directions of every such kind, of means one; 0 leaves these controls out."""
    n_random: Annotated[Number, Option("random")] = 1
    """Isotropic random directions of the same raw norm: no fair control where few coordinates hold most variance."""
    n_mismatched: Annotated[Number, Option("mismatched")] = 4
    """Other features that agreement is compared with."""
    n_targets: Annotated[Count, Option("targets")] = 10
    """Tokens in the target set, and in the anti-target set, where none are given."""
    n_top: Annotated[Count, Option("top")] = 10
    """Promoted and suppressed tokens listed."""
    n_generation_prompts: Annotated[Number, Option("continued")] = 1
    """The first so many prompts are continued at every strength."""
    max_new_tokens: Annotated[Count, Option("new-tokens")] = 30
    """Length of the continuations, in tokens."""
    temperature: Weight = 0.0
    """Of the continuations; 0 takes the most probable token."""
    block: Annotated[int, Limits(2)] = 128
    """Neutral texts are cut into pieces of at most this many tokens, the beginning-of-sequence token not counted."""
    batch_tokens: Count = 2048
    """Tokens in one forward pass; fewer where the vocabulary is large."""
    n_draws: Annotated[int, Limits(10), Option("draws")] = 1000
    """Bootstrap draws behind each interval."""
    seed: Seed = 0
    """Of the control directions, mismatched features, prompt halves, bootstrap and sampling."""

    @property
    def doses(self) -> tuple[float, ...]:
        """The KL budgets, or the strengths where none are given: what curves are drawn over."""
        return self.kl or self.strengths

    @property
    def reference_dose(self) -> int:
        """Number of the dose at which promoted tokens, targets and agreement are taken."""
        return self.doses.index(self.reference) if self.reference in self.doses else 0

    @property
    def equal_kl(self) -> float:
        """KL on neutral text at which the feature, its controls and the models are compared, nats per token."""
        return self.kl[self.reference_dose] if self.kl else self.kl_budget

    def __post_init__(self) -> None:
        check(self)
        self._check_kl()
        if len(set(self.controls)) < len(self.controls):
            raise UserError("control", " ".join(self.controls), "repeats one", "give each kind once")
        if not self.strengths:
            raise UserError("strength", self.strengths, "must be numbers", "give for example 0.5, 1, 2 and 4")
        if len(set(self.strengths)) < len(self.strengths):
            raise UserError("strength", self.strengths, "repeats one", "give each strength once")
        if not self.kl and self.reference not in self.strengths:
            raise UserError("reference", self.reference, f"is not among {self.strengths}", "add it to the strengths")
        if self.reference == 0:
            raise UserError("strength", self.reference, "is no steering at all", "give another strength")

    def _check_kl(self) -> None:
        written = " ".join(f"{budget:g}" for budget in self.kl)
        if self.kl and self.strengths != SteerSettings.strengths:
            raise UserError("kl", written, "cannot be given with strengths", "leave one of them out")
        if len(set(self.kl)) < len(self.kl):
            raise UserError("kl", written, "repeats one", "give each budget once")
        if self.kl and self.reference not in (*self.kl, USUAL_REFERENCE):
            raise UserError("reference", self.reference, f"is none of the KL budgets {written}", "add it to --kl")


@dataclass(frozen=True, kw_only=True)
class ResponseSettings:
    """Which features are steered to see whether two models respond alike."""

    each_label: Count = 8
    """Features of every label, evenly spaced in order of their co-firing."""
    causal: bool = False
    """Take them out of both models, too, and say whether the two shifts go together."""
    seed: Seed = 0
    """Of steering, and of the causal check."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ActivateSettings:
    """What is shown of the features that fire on a text."""

    feature: tuple[Number, ...] = ()
    """Number of a feature to show; repeat for more. Without, those on which the models differ most come first, then the
    strongest."""
    top: Count = 10
    """Features shown at most where none are named."""
    block: Count = 128
    """Longest text, in tokens, that is read; the rest is left out, and that is said."""

    def __post_init__(self) -> None:
        check(self)
        if len(set(self.feature)) < len(self.feature):
            raise UserError("feature", self.feature, "names one twice", "give each feature once")


@dataclass(frozen=True, kw_only=True)
class AttributeSettings:
    """How a logit is attributed to features."""

    top: Count = 10
    """Features per model that are listed, and taken out one by one to check their attribution."""
    path_points: Count = 16
    """Points of the path from the model as it is to the model without the features, at which gradients are taken."""

    def __post_init__(self) -> None:
        check(self)
