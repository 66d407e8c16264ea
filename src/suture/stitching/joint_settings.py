"""Settings of a joint dictionary's start from two dictionaries of one space each."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.pipeline.settings import Count, Limits, Option, check

Fill = Literal["fit", "zeros"]


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """How two single dictionaries become one over both spaces."""

    fill: Fill = "fit"
    """What a feature of one dictionary alone writes into the other space: what least squares gives it (fit), or nothing
    (zeros), the safer start where exclusive features are the question."""
    match_above: Annotated[float, Limits(0, 1)] = 0.5
    """Features whose values correlate so much at the same text positions become one."""
    double_above: Annotated[float, Limits(above=0, most=1)] = 0.8
    """With fit: a feature whose filled row has this cosine with a stronger one's is that one again, and left out; 1
    keeps all."""
    start_rows: Annotated[Count, Option("start-rows")] = 20_000
    """Training rows at most that features are matched and fitted on, of whole documents."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)
