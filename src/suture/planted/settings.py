"""What a planted pair (or tuple) of models is made of: sizes, signatures, firing statistics, embedding, noise."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, Share, Weight, check

Embedding = Literal["rotation", "affine", "independent"]
Null = Literal["none", "same", "rotated"]
Magnitude = Literal["half-normal", "lognormal"]
BelowOne = Annotated[float, Limits(0, below=1, problem="is not a share below 1", fix="give a number from 0 to below 1")]


@dataclass(frozen=True, kw_only=True)
class PlantedSettings:
    """Everything that decides the planted truth and every row drawn from it."""

    widths: Annotated[tuple[Count, ...], Option("width")] = (64, 64)
    """Activation width of each model; its length is the number of models."""
    n_concepts: Annotated[Count, Option("concepts")] = 200
    """Number of ground-truth concepts; concept i has Zipf rank i, so concept 0 fires most."""
    exclusive: Share = 0.1
    """Share of the concepts that only model m has, for each m."""
    pairwise: Share = 0.0
    """Share of the concepts that exactly models m and n have, for each pair; needs three models or more."""
    graded: Share = 0.0
    """Share of the concepts that every model has, but all except one of them fainter: the boundary between "exclusive"
    and "shared", on which error rates can be measured (a concept that is quite absent is no hard case)."""
    graded_share: tuple[float, float] = (0.0, 0.5)
    """What a fainter model's share of such a concept is drawn from, uniformly; of two models 0.5 is as strong."""
    embedding: Embedding = "rotation"
    """How a concept's directions in two models relate: an orthogonal map, a Gaussian affine map, or not at all."""
    null: Null = "none"
    """`same`: every model IS model 0, noise included; `rotated`: model 0 turned by a random orthogonal matrix."""
    mean_active: Positive = 5.0
    """Expected number of concepts firing on a row."""
    zipf_exponent: Weight = 0.5
    """Firing rates fall as rank to the power of minus this (SynthSAEBench, 2602.14687, uses 0.5)."""
    max_rate: BelowOne = 0.4
    """No concept fires on a larger share of the rows than this."""
    child_share: BelowOne = 0.0
    """Share of the concepts that are children: they fire only where their parent fires."""
    correlation: BelowOne = 0.0
    """Share of the Gaussian copula's variance that comes from common factors, so that concepts fire together."""
    n_factors: Annotated[Count, Option("factors")] = 10
    """Number of common factors of the copula."""
    magnitude: Magnitude = "half-normal"
    """Strength of a firing concept: 1 + spread * |normal|, or exp(spread * normal)."""
    magnitude_spread: Weight = 0.25
    """Spread of the strengths; 0 makes every firing concept equally strong."""
    noise: tuple[Weight, ...] = (0.1,)
    """Root-mean-square length of the noise in each model (concept directions have length 1); one number for all models,
    or one per model."""
    offset: Weight = 1.0
    """Length of the constant that the affine embedding adds to each model's activations."""
    misaligned: Share = 0.0
    """Share of the rows on which models 1, 2, ... show another text position than model 0."""
    rows_per_document: Count = 32
    """Rows are grouped into pseudo-documents of this many, the unit of splits and of the bootstrap."""
    seed: Seed = 0
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
        check(self)
        if not self.widths:
            raise UserError("width", self.widths, "names no model", "pass e.g. (64, 64)")
        if len(self.noise) not in {1, self.n_models}:
            raise UserError("noise", self.noise, "is not one number, nor one per model", "pass e.g. (0.1,)")
        self._check_signatures()
        if self.mean_active > self.max_rate * self.n_concepts:
            problem = f"{self.n_concepts} concepts of rate <= {self.max_rate} cannot fire that often"
            raise UserError("mean-active", self.mean_active, problem, "lower it, or raise max-rate or concepts")

    def _check_signatures(self) -> None:
        m = self.n_models
        total = m * self.exclusive + m * (m - 1) / 2 * self.pairwise + self.graded
        if total > 1 + 1e-9:
            others = f"pairwise = {self.pairwise}, graded = {self.graded}"
            problem = f"with {others} and {m} models this asks for {total:.0%} of the concepts"
            raise UserError("exclusive", self.exclusive, problem, "lower exclusive, pairwise or graded")
        low, high = self.graded_share
        if not 0 <= low <= high <= 0.5:
            problem = "is no range of a fainter model's share"
            raise UserError("graded-share", self.graded_share, problem, "pass 0 <= low <= high <= 0.5")
        if self.pairwise > 0 and m < 3:
            raise UserError(
                "pairwise", self.pairwise, f"means nothing for {m} models", "pass three widths or more, or 0"
            )
        if self.null != "none" and total > 0:
            raise UserError("null", self.null, "needs every concept in every model", "use settings.as_null(...)")
        if self.null != "none" and len(set(self.widths)) > 1:
            raise UserError("null", self.null, f"needs equal widths, not {self.widths}", "use settings.as_null(...)")
