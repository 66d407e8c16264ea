"""Outlier rows as a dictionary knows them: how far from which centre its training drew rows in.

1. Per space a centre and a radius, raw units, as the view that the dictionary was trained on had them. They are kept
   with the weights, so that rows of any text are encoded as training rows were.
2. A dictionary stands for the row drawn in. What lies beyond it, the excess, is not its business: where a
   reconstruction takes a row's place, the excess stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.activations.outliers import clipped
from suture.activations.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class Clipping:
    """Per space of a dictionary the centre and radius, raw units, beyond which rows are drawn in; None: nowhere."""

    bounds: tuple[tuple[Float[Tensor, "_"], float] | None, ...]

    @staticmethod
    def none(n_spaces: int) -> Clipping:
        """Rows as they are."""
        return Clipping(bounds=(None,) * n_spaces)

    @staticmethod
    def of(store: Store) -> Clipping:
        """As a view of a store draws its rows in, space by space."""
        if store.radii is None:
            return Clipping.none(len(store.spaces))
        measured = [store.typical(space) for space in range(len(store.spaces))]
        radii = [store.radii[column] for column in store.columns]
        return Clipping(bounds=tuple(own and (own[0], radius) for own, radius in zip(measured, radii, strict=True)))

    def __bool__(self) -> bool:
        """Whether any row could be drawn in."""
        return any(bound is not None for bound in self.bounds)

    def rows(self, raw: Float[Tensor, "row width"], space: int) -> Float[Tensor, "row width"]:
        """A space's raw rows, those beyond the radius drawn in to it."""
        bound = self.bounds[space]
        return raw if bound is None else clipped(raw, bound[0].to(raw), bound[1])

    def excess(self, raw: Float[Tensor, "row width"], space: int) -> Float[Tensor, "row width"]:
        """What of a space's raw rows lies beyond the rows drawn in (2)."""
        return raw - self.rows(raw, space)

    def out(self, raw: Sequence[Float[Tensor, "row _"]]) -> Bool[Tensor, "row"]:
        """Which rows lie beyond the radius in some space."""
        beyond = torch.zeros(len(raw[0]), dtype=torch.bool, device=raw[0].device)
        for values, bound in zip(raw, self.bounds, strict=True):
            if bound is not None:
                beyond |= (values - bound[0].to(values)).norm(dim=1) > bound[1]
        return beyond

    def save(self, file: Path) -> None:
        """Write the bounds there are."""
        known = [(m, bound) for m, bound in enumerate(self.bounds) if bound is not None]
        centres = {f"centre.{m}": centre.float().cpu().contiguous() for m, (centre, _) in known}
        radii = {f"radius.{m}": torch.tensor(radius, dtype=torch.float64) for m, (_, radius) in known}
        save_file(centres | radii, file)

    @staticmethod
    def load(file: Path, n_spaces: int) -> Clipping:
        """What `save` wrote of a dictionary of so many spaces."""
        read = load_file(file)
        bounds = [
            (read[f"centre.{m}"], float(read[f"radius.{m}"])) if f"centre.{m}" in read else None
            for m in range(n_spaces)
        ]
        return Clipping(bounds=tuple(bounds))
