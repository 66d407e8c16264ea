"""Settings of stitching dictionaries: on which rows, what is inserted, what is swapped, what is fitted; of a ladder."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from suture.dictionary.refit_settings import RefitSettings
from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Seed, check

Insert = Literal["greedy", "novel"]
Link = Literal["cosine", "correlation"]


@dataclass(frozen=True, kw_only=True)
class StitchSettings:
    """How features of larger dictionaries are judged against a smaller one and put into it."""

    n_rows: Annotated[Count, Option("rows")] = 200_000
    """Rows at most that features are labelled on, of whole documents that no dictionary was trained on."""
    draws: Count = 400
    """Bootstrap samples of documents behind a label's interval."""
    insert: Insert = "greedy"
    """What is taken from a larger dictionary: greedy, one feature after the other, each time the one that lowers the
    error most, as long as one does; or all that are novel by themselves."""
    size: Count | None = None
    """Features of the result at most."""
    link: Link = "cosine"
    """What makes features parts of one swap: the cosine of their decoder rows, or the correlation of their values."""
    link_above: Annotated[float, Limits(above=0, most=1)] = 0.7
    """The least of it."""
    cap: Annotated[int, Limits(2)] = 8
    """Features that are swapped together at most; the strongest links are made first."""
    path_rows: Annotated[Count, Option("path-rows")] = 20_000
    """Rows at most that the path from the small to the large dictionary is ordered on, and as many that it is measured
    on."""
    loss_steps: Annotated[int, Option("loss-steps"), Limits(2)] = 9
    """Steps of the path at which the models' losses are measured, where models are at hand, both ends among them."""
    refit: RefitSettings = field(default_factory=RefitSettings)
    seed: Seed = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class LadderSettings:
    """The ladder of sizes."""

    ladder: Annotated[tuple[Count, ...], Option("rung")] = (128, 256, 512, 1024, 2048)
    """Size of a dictionary; three or more, rising."""
    finetune_rows: Annotated[int, Option("finetune-rows"), Limits(0)] = 100_000
    """Rows that the stitched dictionary of all sizes is trained on once it is put together; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        check(self)
        if len(self.ladder) < 3 or any(b <= a for a, b in pairwise(self.ladder)):
            problem = "is no rising ladder of three sizes or more"
            raise UserError("rung", self.ladder, problem, "give for example 128, 256 and 512")
