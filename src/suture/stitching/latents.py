"""Novel or reconstruction: what each feature of a larger dictionary would change in a smaller one's error, in one pass.

Small S, large L, e = x - S's reconstruction; f_i, d_i a feature of L, its values and its decoder row (2502.04878).

1. In one pass, at every active pair: the overlap f_i <e, d_i> and the energy f_i^2 |d_i|^2. Summed over rows, A_i, B_i.
2. Adding feature i changes the squared error by B_i - 2 A_i, exactly; beta_i = A_i / B_i is the factor that would lower
   it most, by A_i^2 / B_i.
3. Labels from a bootstrap over documents of that change: `novel` surely below zero (beta above 1/2), `reconstruction`
   surely above, `undecided`, `dead` where the feature never fires. If S has a row at cosine c with L's, beta is about
   1 - c^2: the border lies at c = .707.

Sums are float64: the change is a small difference of large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from suture.activations.store import Store
from suture.dictionary.codes import Codes
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.kernels.sparse import decode, sampled_product
from suture.dictionary.pieces import Piece, as_sparse, cuts, pieces
from suture.matching.correlate import size
from suture.uncertainty import Draws, ends

NOVEL, RECONSTRUCTION, UNDECIDED, DEAD = LABELS = ("novel", "reconstruction", "undecided", "dead")
FEATURES_AT_A_TIME = 4096
"""Of which the bootstrap's draws are in memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """Both dictionaries' values on some items, and what each of L's would change in S's error (1)."""

    small: csr_matrix
    """[item, feature of S], float64."""
    large: csr_matrix
    """[item, feature of L]."""
    overlap: Float64[ndarray, "active"]
    """f_i <e, d_i> at every pair of `large`."""
    energy: Float64[ndarray, "active"]
    """f_i^2 |d_i|^2 there."""
    kind: Int[ndarray, "item"]
    """Which columns an item has (`pieces.cuts`)."""
    document: Int[ndarray, "item"]
    """The rank of its document among those read."""
    n_numbers: int
    """Numbers that the items hold: what squared errors are divided by."""
    n_rows: int
    overlap_by_space: Float64[ndarray, "feature space"]
    energy_by_space: Float64[ndarray, "feature space"]
    numbers_by_space: Float64[ndarray, "space"]
    squared_error: Float64[ndarray, "space"]
    """Of S."""
    own_overlap: Float64[ndarray, "own"]
    """Sum of f_j <e, d_j> of each of S's own features."""

    @property
    def n_features(self) -> int:
        """Of L."""
        return size(self.large)[1]

    def summed(self, values: Float64[ndarray, "active"], among: Bool[ndarray, "item"] | None = None) -> ndarray:
        """Sum of numbers at L's pairs, feature by feature; of some items where they are named."""
        if among is None:
            return np.bincount(self.large.indices, values, self.n_features)
        kept = among[self.item]
        return np.bincount(self.large.indices[kept], values[kept], self.n_features)

    @cached_property
    def item(self) -> Int[ndarray, "active"]:
        """The item of each of L's pairs."""
        return np.repeat(np.arange(len(self.kind)), np.diff(self.large.indptr))

    @cached_property
    def per_document(self) -> csr_matrix:
        """Change of the squared error [document, feature of L]."""
        shape = (int(self.document.max(initial=-1)) + 1, self.n_features)
        change = self.energy - 2 * self.overlap
        return csr_matrix((change, (self.document[self.item], self.large.indices)), shape=shape)


@torch.no_grad()
def read(small: Dictionary, large: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> Reading:
    """One pass over rows of a store that holds the spaces of both, in their order and units."""
    columns, M = cuts(small), small.n_spaces
    bases = small.W_dec.detach().double(), large.W_dec.detach().double()
    norms = [bases[1][:, cut].square().sum(1) for cut in columns]
    n = large.n_features
    sides: tuple[list[csr_matrix], list[csr_matrix]] = ([], [])
    parts: dict[str, list[ndarray]] = {name: [] for name in ("overlap", "energy", "kind", "row")}
    by_space = np.zeros((2, n, M))
    numbers, error, mine = np.zeros(M), np.zeros(M), np.zeros(small.n_features)
    for piece in pieces(small, view, rows):
        codes = piece.codes(large)
        own, value = piece.codes(small), codes.value.double()
        cut = columns[piece.kind]
        e = residual(small, bases[0], own, piece)[:, cut].contiguous()
        projected = value * sampled_product(codes.pattern, e, bases[1][:, cut].contiguous())
        kept = own.value.double() * sampled_product(own.pattern, e, bases[0][:, cut].contiguous())
        mine += np.bincount(own.feature.cpu().numpy(), kept.cpu().numpy(), small.n_features)
        energy = value.square() * norms[piece.kind][codes.feature.long()]
        sides[0].append(as_sparse(own))
        sides[1].append(as_sparse(codes))
        parts["overlap"].append(projected.cpu().numpy())
        parts["energy"].append(energy.cpu().numpy())
        parts["kind"].append(np.full(len(piece.rows), piece.kind))
        parts["row"].append(piece.rows.numpy())
        for m, inside in spaces_of(small, piece):
            numbers[m] += len(piece.rows) * (inside.stop - inside.start)
            error[m] += float(e[:, inside].square().sum())
            if small.design.joint and M > 1:
                w = bases[1][:, inside].contiguous()
                shared = value * sampled_product(codes.pattern, e[:, inside].contiguous(), w)
                power = value.square() * w.square().sum(1)[codes.feature.long()]
            else:
                shared, power = projected, energy
            index = codes.feature.cpu().numpy()
            by_space[0, :, m] += np.bincount(index, shared.cpu().numpy(), n)
            by_space[1, :, m] += np.bincount(index, power.cpu().numpy(), n)
    at = np.concatenate(parts["row"])
    documents = view.documents[torch.from_numpy(at)].numpy()
    return Reading(
        small=csr_matrix(vstack(sides[0], format="csr")),
        large=csr_matrix(vstack(sides[1], format="csr")),
        overlap=np.concatenate(parts["overlap"]),
        energy=np.concatenate(parts["energy"]),
        kind=np.concatenate(parts["kind"]),
        document=np.unique(documents, return_inverse=True)[1].astype(np.int64),
        n_numbers=int(numbers.sum()),
        n_rows=len(rows),
        overlap_by_space=by_space[0],
        energy_by_space=by_space[1],
        numbers_by_space=numbers,
        squared_error=error,
        own_overlap=mine,
    )


def residual(
    dictionary: Dictionary, basis: Float[Tensor, "feature D"], codes: Codes, piece: Piece
) -> Float[Tensor, "item D"]:
    """What a dictionary leaves of a piece's items, float64; `basis` is its decoder in float64."""
    rebuilt = decode(codes.value.double(), basis, codes.pattern) + dictionary.b_dec.detach().double()
    return piece.x.double() - rebuilt


def spaces_of(dictionary: Dictionary, piece: Piece) -> list[tuple[int, slice]]:
    """The spaces that a piece's items hold, each with its columns."""
    if dictionary.design.joint:
        return [(m, dictionary.columns(m)) for m in range(dictionary.n_spaces)]
    assert piece.model is not None
    space = int(piece.model[0])
    return [(space, cuts(dictionary)[piece.kind])]


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """What adding each feature of L, by itself, changes (2, 3); errors are means over all numbers of the rows."""

    label: Int[ndarray, "feature"]
    """Places in `LABELS`."""
    delta: Float64[ndarray, "feature"]
    delta_low: Float64[ndarray, "feature"]
    delta_high: Float64[ndarray, "feature"]
    beta: Float64[ndarray, "feature"]
    """NaN where the feature never fires."""
    gain: Float64[ndarray, "feature"]
    delta_space: Float64[ndarray, "feature space"]
    rows: Int[ndarray, "feature"]

    def having(self, label: str) -> Int[ndarray, "chosen"]:
        """The features with a label."""
        return np.flatnonzero(self.label == LABELS.index(label))

    @property
    def counts(self) -> dict[str, int]:
        """How many features have each label."""
        return {name: len(self.having(name)) for name in LABELS}


def latents(reading: Reading, *, draws: int = 400, seed: int = 0) -> Latents:
    """Judge every feature of L on what was read."""
    A, B = reading.summed(reading.overlap), reading.summed(reading.energy)
    low, high = intervals(reading.per_document, draws=draws, seed=seed)
    by_space = reading.energy_by_space - 2 * reading.overlap_by_space
    rows = np.bincount(reading.large.indices, minlength=reading.n_features)
    N = reading.n_numbers
    with np.errstate(invalid="ignore", divide="ignore"):
        beta = A / B
    return Latents(
        label=labelled(low, high, rows),
        delta=(B - 2 * A) / N,
        delta_low=low / N,
        delta_high=high / N,
        beta=beta,
        gain=np.divide(A**2, B, out=np.zeros_like(A), where=B > 0) / N,
        delta_space=by_space / reading.numbers_by_space,
        rows=rows,
    )


def intervals(
    per_document: csr_matrix, *, draws: int, seed: int
) -> tuple[Float64[ndarray, "feature"], Float64[ndarray, "feature"]]:
    """95 % of the sums over documents drawn anew."""
    n_documents, n_features = size(per_document)
    counts = Draws.make(n_documents, draws, seed).counts.numpy()
    columns = per_document.tocsc()
    low, high = np.empty(n_features), np.empty(n_features)
    for first in range(0, n_features, FEATURES_AT_A_TIME):
        part = slice(first, first + FEATURES_AT_A_TIME)
        drawn = columns[:, part].T @ counts.T
        low[part], high[part] = (end.numpy() for end in ends(torch.from_numpy(drawn.T)))
    return low, high


def labelled(
    low: Float64[ndarray, "feature"], high: Float64[ndarray, "feature"], rows: Int[ndarray, "feature"]
) -> Int[ndarray, "feature"]:
    """3."""
    return np.select([rows == 0, high < 0, low > 0], [3, 0, 1], 2)
