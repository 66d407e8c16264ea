"""Settings of matching; the bars of the rule stand with it, in `kinds`."""

from dataclasses import dataclass
from typing import Annotated

from suture.pipeline.settings import Count, Limits, Option, check


@dataclass(frozen=True, kw_only=True)
class MatchSettings:
    """How the features of two dictionaries are paired and judged."""

    n_rows: Annotated[Count, Option("rows")] = 200_000
    """Rows at most, of whole documents that neither dictionary was trained on; half of them pair, half score."""
    space_a: Annotated[int | None, Limits(0)] = None
    """The space that the first dictionary's codes are read from, by number; all of its spaces by default."""
    space_b: Annotated[int | None, Limits(0)] = None
    """The second's."""
    keep: Count = 16
    """Candidates kept of every feature, on either side."""
    min_together: Count = 5
    """Pairs that fire together on fewer rows are no candidates."""
    min_rows: Count = 10
    """A feature that fires on fewer pairing rows is `silent`."""
    false_discoveries: Annotated[float, Limits(above=0, below=1)] = 0.05
    """Share of false ones among the pairs declared correlated (Benjamini-Hochberg)."""
    beyond_token: Annotated[float, Limits(above=0, below=1)] = 0.1
    """A pair is `token only` unless its correlation beyond the token surely reaches this."""
    memory_mib: Count = 64
    """Memory for blocks of products, in MiB."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)
