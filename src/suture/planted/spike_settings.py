"""Which known features, or known pairs of features, are added to real activations, and how strong they are."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, check

SpikeKind = Literal["random", "documents", "token"]
Relation = Literal["shared", "half", "super", "split", "exclusive"]


@dataclass(frozen=True, kw_only=True)
class SpikeSettings:
    """Known features: every strength in every class, one model's only (per model) and all models'."""

    strengths: Annotated[tuple[Positive, ...], Option("strength")] = (0.1, 0.2, 0.3, 0.5, 0.8)
    """Multiples of each space's median distance from its mean."""
    n_each: Count = 4
    """Known features of every strength in each class."""
    rate: Annotated[float, Limits(above=0, below=0.5)] = 0.004
    """Share of the rows that carry one."""
    kinds: Annotated[tuple[SpikeKind, ...], Option("spike-kind")] = ("random", "documents")
    """How their rows are chosen, in turn: any, a tenth of the rows of some documents, a fifth of a token's rows."""
    spike_seed: Seed = 0
    """Of directions, rows and values."""

    def __post_init__(self) -> None:
        check(self)
        if not self.strengths or not self.kinds:
            empty = "spike-kind" if self.strengths else "strength"
            raise UserError(empty, (), "is empty", "leave it out for the default")


@dataclass(frozen=True, kw_only=True)
class RelatedSettings:
    """Known pairs of features, for the control of a matching."""

    relations: Annotated[tuple[Relation, ...], Option("relation")] = ("shared", "half", "super", "split", "exclusive")
    """What the second model has of the first's feature: all its rows, half of them and as many others, all and three
    times others, two features on its halves, nothing."""
    n_pairs: Annotated[Count, Option("pairs")] = 10
    """Of each."""
    related_strength: Positive = 0.6
    """Multiple of each space's median distance from its mean."""
    related_rate: Annotated[float, Limits(above=0, below=0.2)] = 0.004
    """Share of the rows that the first model's feature fires on."""
    related_seed: Seed = 0
    """Of directions, rows and values."""

    def __post_init__(self) -> None:
        check(self)
        if not self.relations or len(set(self.relations)) < len(self.relations):
            raise UserError("relation", self.relations, "names none, or one twice", "name each once")
