"""Collateral features: how many others move when one is steered.

1. On rows of the neutral text, every feature's mean activation per text, encoded from this model alone; its spread is
   the standard deviation of these means over texts, and at least the median over features that fire.
2. The same rows with the vector added: a feature moved where its mean over all rows changed by more than `FAR` spreads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds
from suture.dictionary.dictionary import Dictionary
from suture.interventions.steer.probe import Probe
from suture.uncertainty import by_unit

FAR = 3.0
MOST_ROWS = 1024
"""Rows that are encoded anew for every vector at every dose."""


@dataclass(frozen=True, kw_only=True)
class Bystanders:
    """All features on some neutral rows of a model left alone."""

    dictionary: Dictionary
    space: int
    rows: Float[Tensor, "row width"]
    """Raw units."""
    mean: Float[Tensor, "feature"]
    spread: Float[Tensor, "feature"]

    @staticmethod
    def of(dictionary: Dictionary, space: int, probe: Probe, seed: int) -> Bystanders | None:
        """1; None of a single text, which has no spread."""
        read = list(probe.neutral_rows())
        rows, text = torch.cat([r for r, _ in read]), torch.cat([t for _, t in read])
        order = torch.randperm(len(rows), generator=seeds.generator("bystanders", seed, space))[:MOST_ROWS]
        rows, text = rows[order.to(rows.device)].float().to(dictionary.W_dec.device), text[order]
        known, number = torch.unique(text, return_inverse=True)
        if len(known) < 2:
            return None
        sums = _sums(dictionary, space, rows, number, len(known))
        own = sums / torch.bincount(number).double()[:, None]
        spread, fires = own.std(0), sums.sum(0) > 0
        floor = float(spread[fires].median()) if bool(fires.any()) else 0.0
        return Bystanders(
            dictionary=dictionary,
            space=space,
            rows=rows,
            mean=sums.sum(0) / len(rows),
            spread=spread.clamp_min(floor),
        )

    def moved(self, vector: Float[Tensor, "width"], feature: int) -> Bool[Tensor, "feature"]:
        """2: which features other than the steered one a vector (raw units) moves."""
        rows = self.rows + vector.to(self.rows)
        at = torch.zeros(len(rows), dtype=torch.int64)
        mean = _sums(self.dictionary, self.space, rows, at, 1)[0] / len(rows)
        far = (mean - self.mean).abs() > FAR * self.spread
        far[feature] = False
        return far


def _sums(
    dictionary: Dictionary, space: int, rows: Float[Tensor, "row width"], text: Int[Tensor, "row"], n_texts: int
) -> Float[Tensor, "text feature"]:
    """Of each text, the sum of every feature's activation, encoded from this model alone."""
    alone: list[Tensor | None] = [None] * dictionary.n_spaces
    alone[space] = rows
    with torch.no_grad():
        codes = dictionary.encode_raw(alone)
    place = text[codes.row.long().cpu()] * dictionary.n_features + codes.feature.long().cpu()
    return by_unit(codes.value.cpu(), place, n_texts * dictionary.n_features).reshape(n_texts, dictionary.n_features)
