"""Which known features are added to real activations, and how strong they are."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, check

SpikeKind = Literal["random", "documents", "token"]


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
