"""Frankenstein: a dictionary that takes from others, one after the other, what it lacks (2502.04878).

1. Candidates of the next dictionary are the features whose addition alone lowers the error of what has grown so far,
   on rows that choose; `greedy` takes them one by one by their exact effect given those taken, or all that are novel
   are taken.
2. They are put beside what has grown. Every feature keeps its encoder row, bias and threshold; all its spaces move
   together. So it goes through sizes, and through seeds, where what is taken is what only that seed found.
3. The whole is brought to one L0 and refitted (`dictionary.refit`): side by side the parts are more active than any of
   them, and a comparison at another L0 says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.parts import join, take
from suture.stitching.insert import changes, couplings, greedy
from suture.stitching.latents import NOVEL, Reading, latents, read
from suture.stitching.settings import StitchSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Grown:
    """A dictionary and where its features come from."""

    dictionary: Dictionary
    part: Int[ndarray, "feature"]
    """Which of the dictionaries given each feature is from, the small one 0."""
    feature: Int[ndarray, "feature"]
    """Its number there."""


@torch.no_grad()
def grow(
    parts: Sequence[Dictionary],
    view: Store,
    rows: Int[Tensor, "row"],
    settings: StitchSettings,
    *,
    first: Reading | None = None,
) -> Grown:
    """1 and 2, on rows of a store that holds the spaces; `first` is the reading of the first two, where it is known."""
    grown = parts[0]
    part, feature = np.zeros(grown.n_features, np.int64), np.arange(grown.n_features)
    for number, large in enumerate(parts[1:], start=1):
        room = None if settings.size is None else settings.size - grown.n_features
        if room is not None and room <= 0:
            break
        reading = first if number == 1 and first is not None else read(grown, large, view, rows)
        chosen = chosen_from(reading, large, settings, room)
        if len(chosen):
            grown = join([grown, take(large, chosen.tolist())])
            part = np.append(part, np.full(len(chosen), number))
            feature = np.append(feature, chosen)
    return Grown(dictionary=grown, part=part, feature=feature)


def chosen_from(
    reading: Reading, large: Dictionary, settings: StitchSettings, most: int | None
) -> Int[ndarray, "chosen"]:
    """The features of the larger dictionary to be taken, the most useful first."""
    change = changes(reading)
    if settings.insert == "novel":
        novel = latents(reading, draws=settings.draws, seed=settings.seed).having(NOVEL)
        return novel[np.argsort(change[novel], kind="stable")][:most]
    candidates = np.flatnonzero(change < 0)
    order, _ = greedy(change[candidates], couplings(reading, large, candidates), most=most)
    return candidates[order]
