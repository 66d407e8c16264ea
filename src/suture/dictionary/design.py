"""What a dictionary is, apart from its numbers: its design, its size, its sparsity."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from suture.dictionary.activation import Sparsity
from suture.errors import UserError
from suture.pipeline.settings import Count, Option, Share, check

DesignKind = Literal["sae", "crosscoder", "pooled", "universal"]
Pad = Literal["native", "zeros"]
Missing = Literal["impute", "zero"]
"""What stands in for a missing model: its rows as the map has them, or nothing."""
Precision = Literal["auto", "float32", "bfloat16"]
"""Of the one dense product; the chosen features and their values are those of float32 either way."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a dictionary is, apart from its numbers."""

    kind: Annotated[DesignKind, Option("design")] = "crosscoder"
    """How models share the dictionary."""
    n_features: Annotated[Count, Option("features")] = 2048
    """Size of the dictionary."""
    flag: bool = False
    """pooled: the encoder is told which model a row comes from (one-hot, never reconstructed)."""
    pad: Pad = "native"
    """pooled over unequal widths: what lies beyond a narrower space is nobody's to reconstruct (native), or data like
    any other, zeros to be centred, encoded and reconstructed (zeros)."""
    dedicated: tuple[Share, ...] = ()
    """Share of the features that may read and write one space alone (2602.11729); one per space."""
    tied: Share = 0.0
    """Share of the features, designated shared, with one decoder row for all spaces (of equal widths)."""
    sparsity: Sparsity = field(default_factory=Sparsity)

    def __post_init__(self) -> None:
        check(self)
        if self.sparsity.selects_k and self.sparsity.k > self.n_features:
            raise UserError(
                "k", self.sparsity.k, f"exceeds the {self.n_features} features", "lower --k or raise --features"
            )
        if self.flag and self.kind != "pooled":
            raise UserError(
                "flag", self.flag, f"means nothing for the design {self.kind}", "use it with --design pooled"
            )
        if self.pad == "zeros" and self.kind != "pooled":
            raise UserError("pad", self.pad, f"means nothing for the design {self.kind}", "use it with --design pooled")
        if (self.dedicated or self.tied) and self.kind not in ("crosscoder", "universal"):
            raise UserError(
                "dedicated" if self.dedicated else "tied",
                self.dedicated or self.tied,
                f"needs features over several spaces, not {self.kind}",
                "use --design crosscoder",
            )
        if sum(self.dedicated) + self.tied > 1:
            with_tied = f" (with --tied {self.tied})" if self.tied else ""
            problem = f"must be shares that sum to at most 1{with_tied}"
            raise UserError("dedicated", self.dedicated, problem, "lower them")

    @property
    def joint(self) -> bool:
        """Whether a row holds every space's activation (side by side), not one (stacked)."""
        return self.kind != "pooled"

    def check_widths(self, widths: Sequence[int]) -> None:
        """Refuse spaces, one width for each, that the design cannot have.

        Raises:
            UserError: naming the setting.
        """
        if self.kind == "sae" and len(widths) != 1:
            raise UserError(
                "design",
                self.kind,
                f"is for one space, the store has {len(widths)}",
                "pick one with --space, or use another design",
            )
        if self.kind != "sae" and len(widths) < 2:
            raise UserError("design", self.kind, "needs two spaces or more, the store has one", "use --design sae")
        if self.dedicated and len(self.dedicated) != len(widths):
            raise UserError(
                "dedicated", self.dedicated, f"has not one share for each of {len(widths)} spaces", "give one per space"
            )
        if self.pad == "zeros" and len(set(widths)) == 1:
            raise UserError("pad", self.pad, "means nothing for spaces of one width", "leave it out")
        if self.tied and len(set(widths)) > 1:
            raise UserError("tied", self.tied, f"needs equal widths, found {list(widths)}", "use --tied 0")
