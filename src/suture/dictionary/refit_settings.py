"""Settings of refitting a dictionary: how many features are to be active, and what is fitted anew."""

from dataclasses import dataclass
from typing import Annotated, Literal

from suture.pipeline.settings import Count, Option, Positive, check

Fitted = Literal["scales", "decoder", "bias"]


@dataclass(frozen=True, kw_only=True)
class RefitSettings:
    """What of a dictionary is fitted anew, on rows of its training documents."""

    l0: Positive | None = None
    """Active features of the average row: one common offset of all thresholds reaches it, topk becoming batchtopk.
    Where it is not given, thresholds stay."""
    fit: tuple[Fitted, ...] = ("scales", "decoder", "bias")
    """Fitted by least squares in this order: one factor per decoder row, all together (scales); every entry of every
    decoder row (decoder); what is added to each row (bias)."""
    penalty: Positive = 1e-3
    """Ridge that draws them towards what they are, as a part of the mean square of a feature's values."""
    # 1e-3 to 1e-2 were measured to do (FVU differs in the third digit); less lets rare features fit their few rows.
    fit_rows: Annotated[Count, Option("fit-rows")] = 50_000
    """Rows at most, of whole training documents."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)
