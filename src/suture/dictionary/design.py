"""What a dictionary is, apart from its numbers: its design, its size, its spaces, its sparsity."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from suture.activations.space import Space
from suture.dictionary.sparsity import Sparsity
from suture.errors import UserError

DesignKind = Literal["sae", "crosscoder", "pooled", "universal"]
DESIGNS: tuple[DesignKind, ...] = ("sae", "crosscoder", "pooled", "universal")
Pad = Literal["native", "zeros"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a dictionary is, apart from its numbers."""

    kind: DesignKind = "crosscoder"
    n_features: int = 2048
    flag: bool = False
    """`pooled` only: the encoder is told which model a row comes from (one-hot, never reconstructed)."""
    pad: Pad = "native"
    """`pooled` over unequal widths only: what lies beyond a narrower space is nobody's to reconstruct (`native`), or
    data like any other, zeros to be centred, encoded and reconstructed (`zeros`)."""
    dedicated: tuple[float, ...] = ()
    """Per space, the share of the features that may read and write that space alone (2602.11729)."""
    tied: float = 0.0
    """Share of the features, designated shared, whose decoder is the same in every space (equal widths)."""
    sparsity: Sparsity = field(default_factory=Sparsity)

    def __post_init__(self) -> None:
        if self.kind not in DESIGNS:
            raise UserError("design", self.kind, "is unknown", f"use one of {', '.join(DESIGNS)}")
        if self.n_features < 1:
            raise UserError("features", self.n_features, "is less than 1", "give a positive number")
        if self.sparsity.selects_k and self.sparsity.k > self.n_features:
            raise UserError(
                "k", self.sparsity.k, f"exceeds the {self.n_features} features", "lower --k or raise --features"
            )
        if self.flag and self.kind != "pooled":
            raise UserError(
                "flag", self.flag, f"means nothing for the design {self.kind}", "use it with --design pooled"
            )
        if self.pad not in ("native", "zeros"):
            raise UserError("pad", self.pad, "is unknown", "use native or zeros")
        if self.pad == "zeros" and self.kind != "pooled":
            raise UserError("pad", self.pad, f"means nothing for the design {self.kind}", "use it with --design pooled")
        if (self.dedicated or self.tied) and self.kind not in ("crosscoder", "universal"):
            raise UserError(
                "dedicated" if self.dedicated else "tied",
                self.dedicated or self.tied,
                f"needs features over several spaces, not {self.kind}",
                "use --design crosscoder",
            )
        if not 0 <= self.tied <= 1:
            raise UserError("tied", self.tied, "is not a share", "give a number from 0 to 1")
        # written so that a NaN is refused too
        if not (all(s >= 0 for s in self.dedicated) and sum(self.dedicated) + self.tied <= 1):
            with_tied = f" (with --tied {self.tied})" if self.tied else ""
            problem = f"must be shares that sum to at most 1{with_tied}"
            raise UserError("dedicated", self.dedicated, problem, "lower them")

    @property
    def joint(self) -> bool:
        """Whether a row holds every space's activation (side by side), not one (stacked)."""
        return self.kind != "pooled"

    def check_spaces(self, spaces: Sequence[Space]) -> None:
        """Refuse spaces that the design cannot have.

        Raises:
            UserError: naming the setting.
        """
        if self.kind == "sae" and len(spaces) != 1:
            raise UserError(
                "design",
                self.kind,
                f"is for one space, the store has {len(spaces)}",
                "pick one with --space, or use another design",
            )
        if self.kind != "sae" and len(spaces) < 2:
            raise UserError("design", self.kind, "needs two spaces or more, the store has one", "use --design sae")
        if self.dedicated and len(self.dedicated) != len(spaces):
            raise UserError(
                "dedicated", self.dedicated, f"has not one share for each of {len(spaces)} spaces", "give one per space"
            )
        if self.pad == "zeros" and len({s.width for s in spaces}) == 1:
            raise UserError("pad", self.pad, "means nothing for spaces of one width", "leave it out")
        if self.tied and len({s.width for s in spaces}) > 1:
            raise UserError("tied", self.tied, f"needs equal widths, found {[s.width for s in spaces]}", "use --tied 0")
