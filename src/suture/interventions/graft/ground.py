"""What a graft is made from: dictionaries over the unsafe model, which of their spaces is whose, and the ways to write.

1. A dictionary's space is the unsafe model's by its weights' fingerprint; another space is the safe model's.
2. Per dictionary, every feature is read from the unsafe model alone (`part.removal`), and can be written in each way.
3. A bridge carries rows from the safe model's space into the unsafe one's: the one given, or the ridge map of the
   second moments that the dictionary keeps of its training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from suture.activations.moments import AffineMap
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.interventions.graft.part import Removal, removal
from suture.interventions.graft.settings import Way
from suture.lm.hookpoints import width_of
from suture.lm.load import LanguageModel


@dataclass(frozen=True, eq=False)
class Site:
    """One dictionary, at one hookpoint of the unsafe model."""

    dictionary: Dictionary
    unsafe: int
    """Number of its space."""
    safe: int | None
    """Of the safe model's; None in a dictionary of the unsafe model alone."""
    bridge: AffineMap | None = None
    """Given, from the safe model's raw activations to the unsafe one's."""

    @property
    def hookpoint(self) -> str:
        """In the unsafe model."""
        return self.dictionary.spaces[self.unsafe].hookpoint

    @property
    def there(self) -> str | None:
        """The safe model's hookpoint."""
        return None if self.safe is None else self.dictionary.spaces[self.safe].hookpoint

    @property
    def alike(self) -> bool:
        """Whether both spaces are of one width, so that rows can be compared without a bridge."""
        widths = self.dictionary.widths
        return self.safe is not None and widths[self.unsafe] == widths[self.safe]

    @cached_property
    def whole(self) -> Removal:
        """Every feature, removed."""
        return self.way("remove")

    @cached_property
    def carried(self) -> AffineMap:
        """3.

        Raises:
            UserError: none is given and the dictionary keeps no second moments.
        """
        if self.bridge is not None:
            return self.bridge
        assert self.safe is not None
        if self.dictionary.imputation is None:
            problem = "keeps no second moments of its training rows, which a bridge is fitted from"
            raise UserError("dictionary", self.dictionary.path, problem, "train it again, or give a bridge")
        spaces = self.dictionary.spaces
        here, there = spaces[self.unsafe].scale, spaces[self.safe].scale
        fitted = self.dictionary.imputation.fit.affine(self.safe, self.unsafe)
        return AffineMap(
            (fitted.matrix * there / here).float(),
            (fitted.source_mean / there).float(),
            (fitted.target_mean / here).float(),
        )

    def way(self, way: Way) -> Removal:
        """Every feature, written in a way.

        Raises:
            UserError: a way that needs a safe model's space that is not there, or not of the same width.
        """
        features = range(self.dictionary.n_features)
        if way in ("remove", "project"):
            return removal(self.dictionary, self.unsafe, features)
        if self.safe is None:
            problem = "has the unsafe model's space alone"
            raise UserError(
                "way", way, f"{self.dictionary.path} {problem}", "use a crosscoder of both models, or remove"
            )
        instead = self.dictionary.raw_decoder(self.safe)
        if way == "bridge":
            instead = instead @ self.carried.matrix.to(instead)
        elif not self.alike:
            problem = "needs both models' spaces to be equally wide"
            raise UserError("way", way, problem, "use bridge")
        return removal(self.dictionary, self.unsafe, features, instead=instead)

    @property
    def share(self) -> Float[Tensor, "feature"]:
        """Of each feature, the length of its row in the unsafe model over both; NaN without a safe one."""
        norms = self.dictionary.decoder_norms()
        if self.safe is None or not self.dictionary.design.joint:
            return torch.full((self.dictionary.n_features,), torch.nan)
        own = norms[:, self.unsafe]
        return own / (own + norms[:, self.safe]).clamp_min(1e-12)


def sites(
    lm: LanguageModel,
    dictionaries: Sequence[Dictionary],
    *,
    safe: LanguageModel | None,
    bridges: Mapping[str, AffineMap],
) -> list[Site]:
    """1, for each dictionary.

    Raises:
        UserError: a dictionary without a space of the model, two at one hookpoint, or a hookpoint that never runs.
    """
    if not dictionaries:
        raise UserError("dictionary", "none", "nothing is given to take features from", "name one with --dictionary")
    found: list[Site] = []
    for dictionary in dictionaries:
        own = [i for i, space in enumerate(dictionary.spaces) if space.fingerprint == lm.fingerprint]
        if not own:
            trained = ", ".join(space.label for space in dictionary.spaces)
            problem = f"is of {trained}, whose weights are not those of {lm.name}"
            fix = "train one on this model's activations"
            raise UserError("dictionary", dictionary.path or "not saved", problem, fix)
        others = [i for i in range(dictionary.n_spaces) if i != own[0]]
        if safe is not None and others:
            wanted = [i for i in others if dictionary.spaces[i].fingerprint == safe.fingerprint]
            if not wanted:
                problem = f"has no space of {safe.name}"
                raise UserError("safe", safe.name, f"{dictionary.path} {problem}", "name the model it was trained with")
            others = wanted
        site = Site(dictionary, own[0], others[0] if others else None, bridges.get(dictionary.spaces[own[0]].hookpoint))
        if site.hookpoint in {one.hookpoint for one in found}:
            raise UserError("dictionary", dictionary.path, f"is a second one at {site.hookpoint}", "leave one out")
        width_of(lm, site.hookpoint)
        found.append(site)
    return found
