"""Settings of bridges between two models' spaces, and of carrying dictionaries and directions over one."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from suture.activations.settings import View
from suture.dictionary.refit_settings import RefitSettings
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, Share, Weight, check

Kind = Literal["ridge", "reduced", "procrustes", "two-way", "relu", "anchors"]
AffineKind = Literal["ridge", "reduced", "procrustes", "two-way", "anchors"]
"""What a dictionary or a direction can be carried by."""
KINDS: tuple[Kind, ...] = ("ridge", "reduced", "procrustes", "two-way", "relu", "anchors")


@dataclass(frozen=True, kw_only=True)
class BridgeSettings:
    """Which maps are fitted between two spaces, on what, and how they are judged."""

    view: View = field(default_factory=View)
    kinds: Annotated[tuple[Kind, ...], Option("kind")] = KINDS
    """A kind of map to fit: ridge; reduced (ridge of low rank); procrustes (orthogonal, scaled); two-way (both maps
    together, each the other's inverse at a price); relu (one hidden layer); anchors (from mean activations of whole
    texts alone)."""
    n_rows: Annotated[Count, Option("rows")] = 200_000
    """Rows at most that maps are fitted on, of whole training documents."""
    penalties: Annotated[tuple[Positive, ...], Option("penalty")] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
        3e-2,
        1e-1,
        3e-1,
        1.0,
        10.0,
    )
    """A ridge penalty to try, as a part of the mean variance of a coordinate mapped from; each way has its own."""
    rank: Count = 64
    """reduced: the map's rank."""
    inversion: Weight = 0.1
    """two-way: price of both round trips, there and back, beside both errors (2506.06609)."""
    two_way_steps: Annotated[Count, Option("two-way-steps")] = 200
    """two-way: steps of Adam on the second moments."""
    hidden: Count | None = None
    """relu: width of the hidden layer; twice the narrower space where it is not given."""
    relu_rows: Annotated[Count, Option("relu-rows")] = 400_000
    """relu: rows it is trained on in all, going over those it has."""
    relu_rate: Annotated[Positive, Option("relu-rate")] = 1e-4
    """relu: Adam's learning rate at its highest. The map starts as the ridge map."""
    # 1e-3 forgets the ridge start in a hundred steps and is worse than it on 20,000 rows.
    anchors: Count = 300
    """anchors: texts at most, each a row of its mean activations (2605.09875)."""
    control: bool = True
    """Fit every kind also to rows that do not belong together: what no relation at all would score."""
    draws: Count = 400
    """Bootstrap samples of documents behind an interval."""
    heldout: Share = 0.1
    """Share of the documents that judge the maps; the same ones that training keeps out."""
    seed: Seed = 0
    """Of the split into documents, of the control's order, of the relu map and of the bootstrap."""

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class CarrySettings:
    """By which map a dictionary or a direction is carried, and what is fitted anew."""

    kind: Annotated[AffineKind, Option("by")] = "ridge"
    """The kind of map."""
    from_space: Annotated[Annotated[int, Limits(0, 1)] | None, Option("from-space")] = None
    """Of which of the bridge's two spaces a direction is; needed only where both are equally wide."""
    survives_above: Annotated[float, Limits(0, 1)] = 0.5
    """A feature survives whose carried code correlates so much with its own on held-out rows."""
    lost_below: Annotated[float, Limits(0, 1)] = 0.2
    """Below this it is lost; between the two it fades."""
    refit: RefitSettings = field(default_factory=lambda: RefitSettings(fit=("decoder", "bias")))

    def __post_init__(self) -> None:
        """Raise UserError for settings without meaning."""
        check(self)
