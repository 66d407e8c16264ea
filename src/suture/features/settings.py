"""Settings of describing features: on which rows, with how many examples, and by which rule they are labelled."""

from dataclasses import dataclass, field
from typing import Annotated

from suture.dictionary.design import Missing
from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Seed, check

Draws = Annotated[int, Limits(20, problem="is too few for an interval", fix="use 500"), Option("draws")]
Number = Annotated[int, Limits(0, problem="is negative", fix="give 0 or more")]


@dataclass(frozen=True, kw_only=True)
class StatsSettings:
    """How the pass over the rows is made."""

    n_top: Annotated[Count, Option("top")] = 10
    """Top examples per feature."""
    n_per_document: Annotated[Count, Option("per-document")] = 2
    """At most so many of a feature's top examples come from one document."""
    n_groups: Annotated[Count, Option("groups")] = 50
    """Groups of documents that the bootstrap draws; fewer where there are fewer documents."""
    batch_rows: Count = 4096
    """Rows encoded at a time."""
    missing: Missing = "impute"
    """What stands in for the other models in a crosscoder's codes from one model alone."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """How much text goes with an example."""

    before: Number = 14
    """Rows shown before an example's."""
    after: Number = 9
    """Rows shown after it."""
    longer: Number = 40
    """Rows of text kept before and after those, to be shown on demand."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """Which examples are kept besides a feature's strongest."""

    n_store: Annotated[Number, Option("strongest")] = 3
    """Strongest rows of the whole store per feature."""
    n_searched: Annotated[Number, Option("searched")] = 2_000_000
    """Rows of the store searched for them at most, from its beginning; 0 leaves them out."""
    n_band: Annotated[Number, Option("band")] = 2
    """Rows drawn from each band of activation: the 50th to 90th percentile, the 10th to 50th, and below."""
    n_random: Annotated[Number, Option("random")] = 2
    """Rows drawn among all where the feature is active."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The rule, in numbers."""

    exclusive_share: Annotated[
        float, Limits(above=0, below=0.5, problem="is not between 0 and 0.5", fix="use 0.15")
    ] = 0.15
    """t: a model has a feature if its share is above, lacks it if below. Of M models: t · 2 / M."""
    raw_share: float = 0.3
    """A model whose share in the plain activations is at least this (of M: · 2 / M) does not lack the feature."""
    even_share: Annotated[float, Limits(below=0.5, problem="is not below 0.5", fix="use 0.3")] = 0.3
    """e: a model whose share is below has little of the feature, too little for it to be shared. Of M: e · 2 / M. Known
    features added to one of two real models have decoder shares of .05 to .24 in the other, where they carry noise;
    features that fire alike in both, .3 to .7."""
    cofiring: Annotated[float, Limits(above=-1, below=1, problem="is no correlation", fix="use 0.3")] = 0.3
    """c: the codes from two models alone, each with the other imputed, fire together if they correlate above it, apart
    if below. Known exclusive features of two real models: -.00 to .12; known shared ones: .97 to 1.00."""
    q: Annotated[float, Limits(above=0, below=1, problem="is not a rate", fix="use 0.05")] = 0.05
    """False-discovery rate of each question over all tested features."""
    min_rows: int = 10
    """A feature that fired on fewer held-out rows is ambiguous."""
    min_groups: int = 5
    """A feature that fired in fewer groups of documents is ambiguous."""
    n_draws: Draws = 500
    """Bootstrap draws."""
    seed: Seed = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        check(self)
        if self.even_share < self.exclusive_share:
            raise UserError("even-share", self.even_share, "is below exclusive-share", "use 0.3")
        if not self.exclusive_share <= self.raw_share <= 1:
            raise UserError("raw-share", self.raw_share, "is below exclusive-share or above 1", "use 0.3")


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How features are described and labelled."""

    n_rows: Annotated[Count, Option("rows")] = 200_000
    """Rows to describe them on at most, whole documents."""
    crossed: bool = True
    """Judge documents of the whole store, each half of them by what the other half fitted. Otherwise those that
    training left out (heldout), by about as many training rows: a tenth of the evidence."""
    n_promoted: Annotated[Count, Option("promoted")] = 10
    """Promoted and suppressed tokens kept per feature and model."""
    n_run: Annotated[Number, Option("run")] = 64
    """Features, those of most energy of every label, whose direction is run through the later layers of its model."""
    stats: StatsSettings = field(default_factory=StatsSettings)
    context: ContextSettings = field(default_factory=ContextSettings)
    choice: ChoiceSettings = field(default_factory=ChoiceSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)

    def __post_init__(self) -> None:
        check(self)
