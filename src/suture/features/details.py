"""What a feature's own page draws: histograms of its values, and its neighbours by direction and by firing.

1. Values: bins half an octave wide, down from the largest value in any code; the last one holds all that is weaker. The
   code of all models together and those from each model alone are counted in the same bins.
2. Neighbours by direction: cosine of the decoder rows, all models' parts side by side in each model's unit length, and
   in each model by itself. Dead features are no one's neighbours.
3. Neighbours by firing: correlation of "fires on this row" (phi) in the code that examples are ranked by, counted by
   products of sparse matrices: no matrix of all features is held, but one of some against all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.dictionary.codes import Codes
from suture.dictionary.dictionary import Dictionary
from suture.features.stats import FeatureStats

FILE = "details.safetensors"
N_BINS = 20
PER_OCTAVE = 2
N_NEIGHBOURS = 8
CHUNK = 2**22
"""Cosines or counts held at a time."""
MAX_PAIRS = 2**28
"""Pairs of active features counted at most; where there are more, of evenly spread rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Details:
    """Of every feature; -1 and NaN fill up features with fewer neighbours."""

    largest: Float[Tensor, "feature"]
    """Upper end of the first bin; 0 where it never fires."""
    values: Int[Tensor, "code feature bin"]
    """Rows per bin, of the code of all models together, then of each model alone; the strongest first."""
    nearest: Int[Tensor, "feature neighbour"]
    cosine: Float[Tensor, "feature neighbour"]
    cosine_each: Float[Tensor, "feature neighbour space"]
    """In each model by itself."""
    together: Int[Tensor, "feature neighbour"]
    correlation: Float[Tensor, "feature neighbour"]
    n_rows: Int[Tensor, "one"]
    """Rows that firing was compared on."""

    def write(self, folder: Path) -> None:
        """Put it into a folder of an artifact being written."""
        save_file({f.name: getattr(self, f.name).contiguous() for f in fields(self)}, folder / FILE)

    @staticmethod
    def read(folder: Path) -> Details | None:
        """What `write` wrote; None where an older suture described the features.

        Raises:
            SafetensorError: a damaged file.
            KeyError: something is missing in it.
        """
        if not (folder / FILE).is_file():
            return None
        found = load_file(folder / FILE)
        return Details(**{f.name: found[f.name] for f in fields(Details)})


def details(dictionary: Dictionary, stats: FeatureStats) -> Details:
    """Everything above, from what the pass over the rows has kept."""
    largest, values = value_histograms([stats.joint, *stats.solo])
    alive = stats.joint.counts > 0
    own = [dictionary.decoder(m).detach().float().cpu() / float(stats.units[m]) for m in range(dictionary.n_spaces)]
    nearest, cosine, each = nearest_directions(own, alive)
    together, correlation, n_rows = fires_together(stats.joint)
    return Details(
        largest=largest,
        values=values,
        nearest=nearest,
        cosine=cosine,
        cosine_each=each,
        together=together,
        correlation=correlation,
        n_rows=torch.tensor([n_rows]),
    )


def value_histograms(codes: Sequence[Codes]) -> tuple[Float[Tensor, "feature"], Int[Tensor, "code feature bin"]]:
    """The largest value of every feature in any code, and how many values lie in each bin.  (1)"""
    n = codes[0].n_features
    largest = torch.zeros(n)
    for one in codes:
        largest.scatter_reduce_(0, one.feature.long(), one.value.float(), "amax")
    counts = []
    for one in codes:
        positive = one.value > 0
        feature, value = one.feature[positive].long(), one.value[positive].float()
        place = (PER_OCTAVE * torch.log2(largest[feature] / value)).long().clamp(0, N_BINS - 1)
        counts.append(torch.bincount(feature * N_BINS + place, minlength=n * N_BINS).view(n, N_BINS).int())
    return largest, torch.stack(counts)


def nearest_directions(
    decoders: Sequence[Float[Tensor, "feature _"]], alive: Bool[Tensor, "feature"], *, n_neighbours: int = N_NEIGHBOURS
) -> tuple[
    Int[Tensor, "feature neighbour"], Float[Tensor, "feature neighbour"], Float[Tensor, "feature neighbour space"]
]:
    """(features, cosine, cosine in each model) of every feature's nearest decoder rows.  (2)"""
    unit = torch.nn.functional.normalize(torch.cat(list(decoders), dim=-1), dim=-1)
    each = [torch.nn.functional.normalize(one, dim=-1) for one in decoders]
    n_features = len(unit)
    n = min(n_neighbours, n_features)
    found, values = [], []
    for rows in torch.arange(n_features).split(max(1, CHUNK // n_features)):
        cosine = unit[rows] @ unit.T
        cosine[:, ~alive] = -torch.inf
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        top = cosine.topk(n)
        found.append(torch.where(top.values.isfinite(), top.indices, -1))
        values.append(torch.where(top.values.isfinite(), top.values, torch.nan))
    feature, value = torch.cat(found), torch.cat(values)
    # neighbour by neighbour, since the rows of all neighbours at once would be as many copies of the decoder
    beside = [[(d * d[own.clamp_min(0)]).sum(-1) for d in each] for own in feature.unbind(1)]
    alone = torch.stack([torch.stack(one, dim=-1) for one in beside], dim=1)
    return feature, value, torch.where((feature >= 0)[:, :, None], alone, torch.nan)


def fires_together(
    codes: Codes, *, n_neighbours: int = N_NEIGHBOURS
) -> tuple[Int[Tensor, "feature neighbour"], Float[Tensor, "feature neighbour"], int]:
    """(features, correlation of firing) of those that fire on the same rows most, and the rows compared.  (3)

    A neighbour shares a row at least.
    """
    codes = _thinned(codes)
    n_rows, n_features, count = codes.n_rows, codes.n_features, codes.counts.double()
    ones = np.ones(len(codes.feature), dtype=np.int32)
    fires = csr_matrix((ones, codes.feature.numpy(), codes.crow.numpy()), shape=(n_rows, n_features))
    by_feature = fires.T.tocsr()
    n = min(n_neighbours, n_features)
    found, values = [], []
    for some in torch.arange(n_features).split(max(1, CHUNK // n_features)):
        shared = by_feature[some.numpy()] @ fires
        lengths = torch.from_numpy(np.diff(shared.indptr)).long()
        other = torch.from_numpy(shared.indices).long()
        own = torch.arange(len(some)).repeat_interleave(lengths)
        here, there = count[some][own], count[other]
        spread = (here * (n_rows - here)).sqrt() * (there * (n_rows - there)).sqrt()
        phi = (n_rows * torch.from_numpy(shared.data) - here * there) / spread
        dense = torch.full((len(some), n_features), -torch.inf)
        dense[own, other] = torch.where(phi.isfinite(), phi, -torch.inf).float()
        dense[torch.arange(len(some)), some] = -torch.inf
        top = dense.topk(n)
        found.append(torch.where(top.values.isfinite(), top.indices, -1))
        values.append(torch.where(top.values.isfinite(), top.values, torch.nan))
    return torch.cat(found), torch.cat(values), n_rows


def _thinned(codes: Codes) -> Codes:
    """The positive values, on as many evenly spread rows as `MAX_PAIRS` allows."""
    codes = codes.kept(codes.value > 0)
    n_pairs = int(codes.crow.diff().long().square().sum())
    if n_pairs <= MAX_PAIRS:
        return codes
    stride = -(-n_pairs // MAX_PAIRS)
    kept = codes.row.long() % stride == 0
    return Codes.from_pairs(
        codes.row[kept].long() // stride,
        codes.feature[kept].long(),
        codes.value[kept],
        n_rows=-(-codes.n_rows // stride),
        n_features=codes.n_features,
    )
