"""The designs that a study compares, as data: what each is, where it applies, and the settings it is trained with.

Matched between all of them, for M models of widths d_m and D = sum d_m:

1. Rows: the same store, split and number of training rows. A pooled batch holds single models' rows, so that a text
   position takes part in it M times less often than in a joint one; the number of rows is what is equal.
2. Weights: a crosscoder of F features has 2 F D of them in encoder and decoder, as many as M dictionaries of F features
   over one model each. `matched_features` gives every other design the number of features that makes its free weights
   as many (`n_weights`): a pooled dictionary of width d = max d_m has F D / d; entries that a dedicated feature may not
   use and decoder rows that are tied to one another are no weights of their own.
3. L0: k active features in every code, by TopK's and BatchTopK's own k, by the penalty where it decides (`penalty`).
   A joint design has one code for a text position, the others one for each model; `separate-split` and the designs
   with M k are there to compare at an equal number of active features for a text position in all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Share, check, from_flat
from suture.training.settings import TrainSettings

Widths = tuple[int, ...]

FIRST_L1 = 0.03
"""Where the search for a penalty starts."""


Inside = Annotated[float, Limits(above=0, below=1, problem="is not between 0 and 1", fix="give e.g. 0.2")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every design of a study is given alike."""

    n_features: Annotated[Count, Option("features")] = 384
    """Of the crosscoder; other designs have as many as make their weights as many."""
    k: Count = 8
    """Active features of a code."""
    n_rows: Annotated[Count, Option("rows")] = 400_000
    """Rows every design is trained on."""
    batch_size: Count = 1024
    """Rows per step."""
    learning_rate: Annotated[Positive, Option(also=("lr",))] = 1e-2
    """Adam's at its highest; with k-start and k-anneal what recovers most exclusive concepts of planted models."""
    # (2 x 128 dimensions, 1,000 concepts: 94 % of them, 11 % with the trainer's defaults)
    k_start: Annotated[float, Limits(1)] = 4.0
    """Begin with so many times k active features."""
    k_anneal: Share = 0.7
    """Share of the steps to come down to k."""
    heldout: Annotated[
        float, Limits(above=0, below=1, problem="leaves no rows to judge or to train by", fix="give e.g. 0.2")
    ] = 0.2
    """Share of the documents that are described and judged by, never trained on."""
    described_rows: Annotated[Count, Option("described")] = 20_000
    """Held-out rows that features are described on, at most."""
    model_dropout: Inside = 0.2
    """Of the designs that have it."""
    dedicated: Annotated[float, Limits(above=0, below=0.5, problem="is not between 0 and 0.5", fix="give e.g. 0.1")] = (
        0.1
    )
    """Share of the features dedicated to each model, in the design with a partition."""
    tied: Inside = 0.5
    """Share of the features designated shared, in the design with tied decoders."""
    device: str = "cpu"
    """Where dictionaries are trained: cpu, cuda, .."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """One row of the table."""

    name: str
    group: str
    says: str
    """What it is, in one sentence."""
    extra: Callable[[Recipe, Widths], Mapping[str, Any]]
    """Its options of `suture train` beyond what all designs are given."""
    needs: Literal["anything", "equal widths", "unequal widths"] = "anything"

    def skipped(self, widths: Widths) -> str | None:
        """Why it does not apply to models of these widths; None where it does."""
        equal = len(set(widths)) == 1
        if self.needs == "equal widths" and not equal:
            return f"{self.name} needs models of one width, these have {_in_words(widths)}"
        if self.needs == "unequal widths" and equal:
            return f"{self.name} needs models of different widths: nothing is padded where all are {widths[0]} wide"
        return None

    def options(self, recipe: Recipe, widths: Widths, seed: int) -> dict[str, Any]:
        """Its flat options of `suture train` (`separate`: of every model's own dictionary)."""
        own = dict(self.extra(recipe, widths))
        common = {
            "features": matched_features(own, recipe.n_features, widths),
            "k": recipe.k,
            "rows": recipe.n_rows,
            "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "k_start": recipe.k_start,
            "k_anneal": recipe.k_anneal,
            "heldout": recipe.heldout,
            "dead_after": max(20_000, recipe.n_rows // 20),
            "validate_every": max(1, recipe.n_rows // recipe.batch_size),
            "seed": seed,
            "precision": "float32",  # not the measured choice: a study is to find the same twice
            "device": recipe.device,
        }
        return common | own

    def settings(self, recipe: Recipe, widths: Widths, seed: int) -> TrainSettings:
        """The same as settings; what they cannot be is refused here."""
        return from_flat(TrainSettings, self.options(recipe, widths, seed))


def designs_for(n_models: int) -> tuple[StudyDesign, ...]:
    """Every design, in the order of the table, for so many models."""
    each = "both" if n_models == 2 else "all"
    return (
        StudyDesign(
            name="separate",
            group="separate",
            says="one dictionary per model with k active features each, features matched afterwards by their activity",
            extra=lambda _, __: {"design": "sae"},
        ),
        StudyDesign(
            name="separate-split",
            group="separate",
            says=f"the same with k / {n_models} active features each, so that a text position has k in all",
            extra=lambda recipe, widths: {"design": "sae", "k": max(1, round(recipe.k / len(widths)))},
        ),
        StudyDesign(
            name=f"separate-{n_models}k",
            group="separate",
            says=f"the same with {n_models} k active features each: what a joint code of {n_models} k is held against",
            extra=lambda recipe, widths: {"design": "sae", "k": recipe.k * len(widths)},
        ),
        StudyDesign(
            name="pooled",
            group="pooled",
            says="one dictionary trained on rows of all models, not told which model a row is from",
            extra=lambda _, __: {"design": "pooled"},
        ),
        StudyDesign(
            name="pooled-flag",
            group="pooled",
            says="the same, and the encoder is told which model a row is from",
            extra=lambda _, __: {"design": "pooled", "flag": True},
        ),
        StudyDesign(
            name="pooled-padded",
            group="pooled",
            says="pooled, with a narrower model's padding taken for data: zeros that are centred and reconstructed",
            extra=lambda _, __: {"design": "pooled", "pad": "zeros"},
            needs="unequal widths",
        ),
        StudyDesign(
            name="crosscoder",
            group="one loss or two",
            says="one code for a text position, read from and written to every model; one squared L2 over all of them",
            extra=lambda _, __: {},
        ),
        StudyDesign(
            name="crosscoder-per-model",
            group="one loss or two",
            says="crosscoder whose loss divides each model's squared L2 by that model's own variance",
            extra=lambda _, __: {"loss": "per_model"},
        ),
        StudyDesign(
            name="crosscoder-l2norm",
            group="one loss or two",
            says="crosscoder with unsquared L2 norms, one per model",
            extra=lambda _, __: {"loss": "l2norm"},
        ),
        StudyDesign(
            name=f"crosscoder-{n_models}k",
            group=f"K or {n_models}K",
            says=f"crosscoder with {n_models} k active features, as many as {n_models} separate codes have together",
            extra=lambda recipe, widths: {"k": recipe.k * len(widths)},
        ),
        StudyDesign(
            name="crosscoder-dropout",
            group="model dropout",
            says="crosscoder whose encoder sometimes misses a model, so that codes from one alone are trained too",
            extra=lambda recipe, _: {"model_dropout": recipe.model_dropout},
        ),
        StudyDesign(
            name="universal",
            group="universal",
            says=f"one code, each time from one model alone, that reconstructs {each} of them",
            extra=lambda _, __: {"design": "universal"},
        ),
        StudyDesign(
            name="dedicated",
            group="partition",
            says="crosscoder with some features dedicated to each model, which read and write that model alone",
            extra=lambda recipe, widths: {"dedicated": (recipe.dedicated,) * len(widths)},
        ),
        StudyDesign(
            name="tied",
            group="partition",
            says="crosscoder with some features designated shared: the same decoder row in every model",
            extra=lambda recipe, _: {"tied": recipe.tied},
            needs="equal widths",
        ),
        StudyDesign(
            name="crosscoder-batchtopk",
            group="sparsity",
            says="crosscoder in which k holds for the average row (BatchTopK)",
            extra=lambda _, __: {"sparsity": "batchtopk"},
        ),
        StudyDesign(
            name="crosscoder-l1",
            group="sparsity",
            says="crosscoder with an L1 penalty, chosen so that held-out rows have k active features on average",
            extra=lambda _, __: {"sparsity": "relu+l1", "l1": FIRST_L1},
        ),
    )


def chosen_designs(n_models: int, only: Sequence[str]) -> tuple[StudyDesign, ...]:
    """All designs, or those named, in the order of the table.

    Raises:
        UserError: a name that no design has.
    """
    everything = designs_for(n_models)
    known = [design.name for design in everything]
    for name in only:
        if name not in known:
            raise UserError("only", name, "is no design", f"choose from {', '.join(known)}")
    return tuple(design for design in everything if not only or design.name in only)


def matched_features(options: Mapping[str, Any], n_features: int, widths: Widths) -> int:
    """The number of features with which a design has the weights of a crosscoder of `n_features`.

    >>> matched_features({"design": "pooled"}, 512, (64, 64)), matched_features({"design": "sae"}, 512, (64, 64))
    (1024, 512)
    """
    return round(n_features * 2 * sum(widths) / weights_per_feature(options, widths))


def n_weights(options: Mapping[str, Any], widths: Widths) -> int:
    """Free weights of encoder and decoder (`sae`: of one dictionary per model); biases are not counted."""
    return round(options["features"] * weights_per_feature(options, widths))


def weights_per_feature(options: Mapping[str, Any], widths: Widths) -> float:
    """Free weights of the average feature (`sae`: of one feature in each model's own dictionary)."""
    kind, D, M = options.get("design", "crosscoder"), sum(widths), len(widths)
    if kind == "pooled":
        return float(2 * max(widths) + (M if options.get("flag") else 0))
    shut = sum(share * (D - own) for share, own in zip(options.get("dedicated", ()), widths, strict=False))
    return 2 * D - 2 * shut - options.get("tied", 0.0) * (D - D / M)


def _in_words(widths: Widths) -> str:
    return " and ".join(map(str, widths))
