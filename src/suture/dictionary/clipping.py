"""Outlier rows as a dictionary's own view has them: how far from which centre its training drew rows in.

Codes of new text are those that the dictionary's stages give on its store only if the same rows are drawn in. The
bounds stand in the store that it was trained on; where that is not there, nothing is clipped, and a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from suture.activations.outliers import clipped
from suture.activations.settings import View
from suture.activations.store import Store
from suture.activations.view import seen
from suture.dictionary.dictionary import STAGE, Dictionary
from suture.dictionary.rows import matching_view
from suture.errors import UserError
from suture.pipeline import artifact


@dataclass(frozen=True, kw_only=True, eq=False)
class Clipping:
    """Per space of a dictionary the centre and radius, raw units, beyond which rows are drawn in; None: nowhere."""

    bounds: tuple[tuple[Float[Tensor, "_"], float] | None, ...]
    note: str = ""
    """Why nothing is clipped although training did."""

    @staticmethod
    def none(n_spaces: int, note: str = "") -> Clipping:
        """Rows as they are."""
        return Clipping(bounds=(None,) * n_spaces, note=note)

    @staticmethod
    def of(dictionary: Dictionary, store: Store | str | Path | None = None) -> Clipping:
        """As the view that the dictionary was trained on has it.

        `store` is the dictionary's own, where it lies elsewhere than it did; without it, it is looked for where it was
        and beside the dictionary.

        Raises:
            UserError: `store` is another one than the dictionary's.
            ArtifactError: it cannot be read.
        """
        if dictionary.path is None:
            return Clipping.none(dictionary.n_spaces)
        made = artifact.open_artifact(dictionary.path, stage=STAGE, setting="dictionary")
        view = View.from_json(made.settings.get("view"))
        if store is not None:
            place = artifact.folder_of(store, setting="store")
            artifact.open_artifact(place, setting="store")
            if not artifact.is_made_from(made, place):
                problem = f"is not the store that {dictionary.path} was trained on"
                raise UserError("store", place, problem, "name that one, or leave it out")
        elif view.outliers != "clip":
            return Clipping.none(dictionary.n_spaces)
        else:
            given = str(made.settings.get("store", ""))
            places = [Path(given), dictionary.path.parent / given, dictionary.path.parent / Path(given).name]
            found = next((p for p in places if given and artifact.is_made_from(made, p)), None)
            if found is None:
                note = "outlier rows are not drawn in as in training: the store that holds the bounds is not there"
                return Clipping.none(dictionary.n_spaces, note)
            place = found
        seen_by = matching_view(dictionary, seen(Store.open(place), view))
        if seen_by.radii is None or seen_by.extremes is None:
            return Clipping.none(dictionary.n_spaces)
        columns = seen_by.columns
        return Clipping(bounds=tuple((seen_by.extremes[c].centre, seen_by.radii[c]) for c in columns))

    def rows(self, raw: Float[Tensor, "row width"], space: int) -> Float[Tensor, "row width"]:
        """A space's raw rows, those beyond the radius drawn in to it."""
        bound = self.bounds[space]
        return raw if bound is None else clipped(raw, bound[0].to(raw), bound[1])

    def out(self, raw: Sequence[Float[Tensor, "row _"]]) -> Bool[Tensor, "row"]:
        """Which rows lie beyond the radius in some space."""
        beyond = torch.zeros(len(raw[0]), dtype=torch.bool, device=raw[0].device)
        for values, bound in zip(raw, self.bounds, strict=True):
            if bound is not None:
                beyond |= (values - bound[0].to(values)).norm(dim=1) > bound[1]
        return beyond
