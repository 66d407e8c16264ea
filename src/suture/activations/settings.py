"""Settings of collecting and streaming, and of the view through which a store is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from suture.errors import UserError
from suture.lm.settings import ModelSettings, TextSettings
from suture.pipeline.settings import Count, Limits, Option, check

StoreType = Literal["bfloat16", "float32"]
Treatment = Literal["keep", "drop", "clip"]
"""What becomes of outlier rows."""
MULTIPLE = 10.0
"""Rows farther from the centre of a space than so many medians are outliers."""


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How activations are collected into a store."""

    models: ModelSettings
    text: TextSettings
    tokens: Annotated[Count, Option(raised=("n_rows",))]
    """Rows wanted: text positions that all models share."""
    block: Count = 128
    """Longest piece of text, in tokens, that a model sees at once."""
    dtype: StoreType = "bfloat16"
    """Precision of the activations on disk."""
    batch_tokens: Count | None = None
    """Tokens per forward pass; 1,024 on a CPU and 32,768 elsewhere where it is not given."""
    shard_rows: Count = 65536
    """Rows per file: what a killed run loses, and what a process computes at a time."""
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How rows are computed while they are trained on, with no store."""

    models: ModelSettings
    text: TextSettings
    block: Count = 128
    """Longest piece of text, in tokens, that a model sees at once."""
    fill_rows: Count = 262_144
    """Rows held in memory and shuffled at a time."""
    dtype: StoreType = "bfloat16"
    """Precision of the rows in memory."""
    batch_tokens: Count | None = None
    """Tokens per forward pass; by the device where it is not given."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class View:
    """A choice of a store's spaces, recorded with the result so that a later stage makes the same choice."""

    spaces: Annotated[tuple[int, ...], Option("space")] = ()
    """Number of a space of the store to use, in the order wanted; all of them where none is named."""
    null: bool = False
    """Pair the one space with a copy of itself: whatever is then called exclusive is called so falsely."""
    rotation_seed: int | None = None
    """With null: rotate the copy by a random orthogonal matrix, so that no coordinate gives the pairing away."""
    copies: Count = 1
    """With null: so many copies, each with a rotation of its own, for a null of more than two models."""
    side: Annotated[int, Limits(0)] | None = None
    """With null: only this one of them, 0 for the space itself, 1 for its first copy; all where it is not given."""
    outliers: Treatment = "clip"
    """Rows far from the centre of a space (attention sinks, massive activations): keep them, leave them out of every
    space (drop), or draw them in (clip). Nothing is changed where there are none."""
    # Four rows of 20,000 hold 60 % of the variance of SmolLM2-135M's resid20: kept, a crosscoder of it and resid10 has
    # FVU 1.36 and 3.31, clipped 0.26 and 0.20; planted sinks: macro-F1 0.3 and 0.95.
    outlier_multiple: Annotated[
        float, Limits(above=1, problem="is not above 1 and finite", fix="use 10, or 4 to clip harder")
    ] = MULTIPLE
    """How far is far: so many times the median distance."""

    def __post_init__(self) -> None:
        check(self)
        if len(set(self.spaces)) < len(self.spaces):
            raise UserError("space", self.spaces, "names one twice", "name each once; --null pairs one with a copy")
        if self.rotation_seed is not None and not self.null:
            raise UserError("rotation-seed", self.rotation_seed, "rotates the copy of a null", "add --null")
        if self.copies > 1 and not self.null:
            raise UserError("copies", self.copies, "is for a null", "add --null")
        if self.side is not None and not (self.null and self.side <= self.copies):
            fix = f"give 0 to {self.copies}" if self.null else "add --null"
            raise UserError("side", self.side, "is a side of a null", fix)

    @staticmethod
    def from_json(recorded: Mapping[str, Any] | None) -> View:
        """The view that a manifest records; of one that records none, the whole store."""
        if not recorded:
            return View(outliers="keep")
        return View(
            spaces=tuple(recorded["spaces"]),
            null=recorded["null"],
            rotation_seed=recorded["rotation_seed"],
            copies=recorded.get("copies", 1),
            side=recorded.get("side"),
            outliers=recorded.get("outliers", "keep"),
            outlier_multiple=recorded.get("outlier_multiple", MULTIPLE),
        )
