"""What a planted pair (or tuple) of models is made of: sizes, signatures, firing statistics, embedding, noise."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Option

Embedding = Literal["rotation", "affine", "independent"]
Null = Literal["none", "same", "rotated"]
Magnitude = Literal["half-normal", "lognormal"]


@dataclass(frozen=True, kw_only=True)
class PlantedSettings:
    """Everything that decides the planted truth and every row drawn from it."""

    widths: Annotated[tuple[int, ...], Option("width")] = (64, 64)
    """Activation width of each model; its length is the number of models."""
    n_concepts: Annotated[int, Option("concepts")] = 200
    """Number of ground-truth concepts; concept i has Zipf rank i, so concept 0 fires most."""
    exclusive: float = 0.1
    """Share of the concepts that only model m has, for each m."""
    pairwise: float = 0.0
    """Share of the concepts that exactly models m and n have, for each pair; needs three models or more."""
    graded: float = 0.0
    """Share of the concepts that every model has, but all except one of them fainter: the boundary between "exclusive"
    and "shared", on which error rates can be measured (a concept that is quite absent is no hard case)."""
    graded_share: tuple[float, float] = (0.0, 0.5)
    """What a fainter model's share of such a concept is drawn from, uniformly; of two models 0.5 is as strong."""
    embedding: Embedding = "rotation"
    """How a concept's directions in two models relate: an orthogonal map, a Gaussian affine map, or not at all."""
    null: Null = "none"
    """`same`: every model IS model 0, noise included; `rotated`: model 0 turned by a random orthogonal matrix."""
    mean_active: float = 5.0
    """Expected number of concepts firing on a row."""
    zipf_exponent: float = 0.5
    """Firing rates fall as rank to the power of minus this (SynthSAEBench, 2602.14687, uses 0.5)."""
    max_rate: float = 0.4
    """No concept fires on a larger share of the rows than this."""
    child_share: float = 0.0
    """Share of the concepts that are children: they fire only where their parent fires."""
    correlation: float = 0.0
    """Share of the Gaussian copula's variance that comes from common factors, so that concepts fire together."""
    n_factors: Annotated[int, Option("factors")] = 10
    """Number of common factors of the copula."""
    magnitude: Magnitude = "half-normal"
    """Strength of a firing concept: 1 + spread * |normal|, or exp(spread * normal)."""
    magnitude_spread: float = 0.25
    """Spread of the strengths; 0 makes every firing concept equally strong."""
    noise: tuple[float, ...] = (0.1,)
    """Root-mean-square length of the noise in each model (concept directions have length 1); one number for all models,
    or one per model."""
    offset: float = 1.0
    """Length of the constant that the affine embedding adds to each model's activations."""
    misaligned: float = 0.0
    """Share of the rows on which models 1, 2, ... show another text position than model 0."""
    rows_per_document: int = 32
    """Rows are grouped into pseudo-documents of this many, the unit of splits and of the bootstrap."""
    seed: int = 0
    """Decides everything: truth and rows."""

    @property
    def n_models(self) -> int:
        """Number of models."""
        return len(self.widths)

    @property
    def noise_of(self) -> tuple[float, ...]:
        """The noise of each model."""
        return self.noise * self.n_models if len(self.noise) == 1 else self.noise

    def as_null(self, null: Literal["same", "rotated"]) -> "PlantedSettings":
        """These settings for a model against itself: every concept shared, all widths that of model 0."""
        widths = (self.widths[0],) * self.n_models
        return replace(self, null=null, exclusive=0.0, pairwise=0.0, graded=0.0, widths=widths, noise=self.noise_of[:1])

    def __post_init__(self) -> None:
        """Raise UserError for settings that cannot be met."""
        self._check_sizes()
        self._check_signatures()
        for name in ("child_share", "misaligned"):
            _in_unit(name, getattr(self, name), below_one=name == "child_share")
        _in_unit("correlation", self.correlation, below_one=True)
        _in_unit("max_rate", self.max_rate, below_one=True)
        if self.mean_active <= 0 or self.mean_active > self.max_rate * self.n_concepts:
            problem = f"{self.n_concepts} concepts of rate <= {self.max_rate} cannot fire that often"
            raise UserError("mean_active", self.mean_active, problem, "lower it, or raise max_rate or n_concepts")
        for name in ("zipf_exponent", "magnitude_spread", "offset"):
            if getattr(self, name) < 0:
                raise UserError(name, getattr(self, name), "is negative", "pass 0 or more")

    def _check_sizes(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise UserError("widths", self.widths, "names no model, or one without coordinates", "pass e.g. (64, 64)")
        for name in ("n_concepts", "n_factors", "rows_per_document"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "is below 1", "pass a positive number")
        if len(self.noise) not in {1, self.n_models} or min(self.noise) < 0:
            raise UserError("noise", self.noise, "is not one number >= 0, nor one per model", "pass e.g. (0.1,)")
        if not 0 <= self.seed < 2**63:
            raise UserError("seed", self.seed, "is not a whole number in [0, 2^63)", "pass e.g. 0")

    def _check_signatures(self) -> None:
        m = self.n_models
        total = m * self.exclusive + m * (m - 1) / 2 * self.pairwise + self.graded
        if min(self.exclusive, self.pairwise, self.graded) < 0 or total > 1 + 1e-9:
            others = f"pairwise = {self.pairwise}, graded = {self.graded}"
            problem = f"with {others} and {m} models this asks for {total:.0%} of the concepts"
            raise UserError("exclusive", self.exclusive, problem, "lower exclusive, pairwise or graded")
        low, high = self.graded_share
        if not 0 <= low <= high <= 0.5:
            problem = "is no range of a fainter model's share"
            raise UserError("graded_share", self.graded_share, problem, "pass 0 <= low <= high <= 0.5")
        if self.pairwise > 0 and m < 3:
            raise UserError(
                "pairwise", self.pairwise, f"means nothing for {m} models", "pass three widths or more, or 0"
            )
        if self.null != "none" and total > 0:
            raise UserError("null", self.null, "needs every concept in every model", "use settings.as_null(...)")
        if self.null != "none" and len(set(self.widths)) > 1:
            raise UserError("null", self.null, f"needs equal widths, not {self.widths}", "use settings.as_null(...)")


def _in_unit(name: str, value: float, *, below_one: bool) -> None:
    if value < 0 or value > 1 or (below_one and value == 1):
        raise UserError(name, value, "is a share outside [0, 1)", "pass a number from 0 to below 1")
