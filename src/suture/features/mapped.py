"""Decoder agreement across models: a feature's direction in one model, carried into the other by a fitted linear map.

1. Per pair of models (m, n) the ridge map P of the discovery rows (`activations/moments`), in scaled units.
2. The cosine of d_i^m P with d_i^n, for every feature. Defined where widths differ and no basis is common, and blind
   to what a linear map cannot carry: a low value is no proof of absence.
"""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from suture.activations.moments import Moments


def mapped_cosines(
    moments: Moments, decoders: list[Float[Tensor, "feature _"]]
) -> dict[tuple[int, int], Float[Tensor, "feature"]]:
    """Per pair of models m < n the cosine of each feature's mapped direction with its own; NaN where one is zero."""
    found = {}
    for m, n in combinations(range(len(decoders)), 2):
        carried = decoders[m].double() @ moments.map(m, n)
        there = decoders[n].double()
        length = carried.norm(dim=-1) * there.norm(dim=-1)
        dot = torch.einsum("fd,fd->f", carried, there)
        found[m, n] = torch.where(length > 0, dot / length, torch.nan).cpu()
    return found
