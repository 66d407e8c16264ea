"""Settings of naming: which features, how many examples a name is made from and tried on, and how sure it must be."""

from dataclasses import dataclass
from typing import Annotated

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Seed, check

Number = Annotated[int, Limits(0)]


@dataclass(frozen=True, kw_only=True)
class NameSettings:
    """How features are named, and names tried."""

    feature: tuple[Number, ...] = ()
    """Number of a feature to name; repeat for more. Without, so many are drawn as `n_features` says."""
    n_features: Annotated[Count, Option("features")] = 32
    """Features named where none are given: drawn among those that have examples enough."""
    n_shown: Annotated[Count, Option("shown")] = 6
    """Examples that a name is made from."""
    n_tried: Annotated[int, Limits(4, problem="is too few for an interval", fix="use 10"), Option("tried")] = 10
    """Other examples, of other documents, that a name is tried on at most; as many texts without the feature beside."""
    n_shuffled: Annotated[Count, Option("shuffled")] = 2
    """Names of other features that the same texts are tried with: chance."""
    n_before: Annotated[Count, Option("before")] = 12
    """Tokens shown before the marked one."""
    n_after: Annotated[Number, Option("after")] = 4
    """Tokens shown after it."""
    new_tokens: Count = 12
    """Longest name, in the labeler's tokens."""
    batch_size: Count = 16
    """Texts that the labeler reads at once."""
    n_draws: Annotated[int, Limits(20, problem="is too few for an interval", fix="use 1000"), Option("draws")] = 1000
    """Bootstrap draws of documents."""
    seed: Seed = 0
    """Of the features, the texts without the feature, the shuffled names and the draws."""

    def __post_init__(self) -> None:
        check(self)
        if len(set(self.feature)) < len(self.feature):
            raise UserError("feature", self.feature, "names one twice", "give each feature once")
