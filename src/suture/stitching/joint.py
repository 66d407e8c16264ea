"""A joint dictionary's start from two dictionaries of one space each: what they share once, with both encoders.

1. Both in their store's units, with decoder rows of norm 1 and thresholds (topk: one common cut-off at its k).
2. Codes of the same training rows, matched one to one by correlation; pairs above a bar are shared.
3. A shared feature reads the mean of the two pre-activations in units of A's, and writes both rows. With
   c = sum f_a f_b / sum f_a^2:
       W_enc = [W_a / 2, W_b / 2c],  b_enc = b_a / 2 + b_b / 2c,  W_dec = [d_a, c d_b].
   (Of a crosscoder the code is the MEAN over models: its W_enc is twice that.) Throwing the encoders away, and starting
   each from its decoder row, is what once made this start look not robust.
4. A private one reads and writes its own space; of all, the strongest are kept, as many as there is room for.
5. One common threshold to the L0 of the single ones; least squares fill in what private features write into the other
   space, and what then is there twice goes. Or they stay zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix, vstack
from torch import Tensor
from torch.nn.functional import normalize

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.parts import PER_FEATURE, as_kind, portable, take
from suture.dictionary.pieces import as_sparse, pieces
from suture.dictionary.refit import refitted, to_l0
from suture.dictionary.refit_settings import RefitSettings
from suture.dictionary.rows import whole_documents
from suture.errors import UserError
from suture.matching.assign import one_to_one
from suture.matching.correlate import columns, top_correlations
from suture.stitching.joint_settings import JointSettings
from suture.training.settings import TrainSettings
from suture.training.start import Start

FILL_PENALTY = 1e-3
GENTLE = 1 / 3
"""Of the usual learning rate."""
# SmolLM2 x Gemma 3, 1,024 features, 33,000 rows, mean FVU: .171 with k at once and a third of the rate, .184 at the
# whole rate, .198 with k from four times its value (from scratch, 100,000 rows: .176). Planted, 50,000 rows: .161,
# .166, .141; where concepts are few and rows many, --k-start 4 and the whole rate are better.


def joint_settings(parts: Sequence[Design]) -> TrainSettings:
    """The settings by which dictionaries of one space each become one, where the user says nothing else.

    As many features as the larger has, its k, from the first step on; the rate is lowered once the other settings are
    known (`training.start.at_part`, `GENTLE`).
    """
    largest = max(parts, key=lambda design: design.n_features)
    k = max(design.sparsity.k for design in parts)
    design = Design(n_features=largest.n_features, sparsity=Sparsity(k=min(k, largest.n_features)))
    return TrainSettings(design=design, k_start=1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """A joint dictionary, and where its features are from."""

    dictionary: Dictionary
    a: Int[Tensor, "feature"]
    """The feature of A, or -1."""
    b: Int[Tensor, "feature"]
    """The feature of B, or -1."""

    @property
    def n_shared(self) -> int:
        """Features that both dictionaries have."""
        return int(((self.a >= 0) & (self.b >= 0)).sum())


def joint_start(paths: Sequence[str | Path], n_features: int, settings: JointSettings | None = None) -> Start:
    """Begin a crosscoder over two spaces with two dictionaries of one space each.

    Args:
        paths: of A and of B.
        n_features: of the crosscoder at most.
        settings: how they are joined.

    Raises:
        UserError: not two, or dictionaries of several spaces, or of one and the same.
        ArtifactError: one cannot be read.
    """
    settings = settings or JointSettings()
    folders = [Dictionary.folder_of(path, setting="start") for path in paths]
    if len(folders) != 2:
        problem = "dictionaries cannot be joined"
        raise UserError("start", len(folders), problem, "name one to go on with, or two of one space each")
    one, other = (Dictionary.load(folder) for folder in folders)
    for own, folder in ((one, folders[0]), (other, folders[1])):
        if own.n_spaces != 1:
            problem = f"is over {own.n_spaces} spaces, joined are dictionaries of one each"
            raise UserError("start", folder, problem, "name two made with --design sae, or one alone")
    if one.spaces[0].stands_for(other.spaces[0]):
        problem = f"is of {other.spaces[0].label}, as {folders[0]} is"
        raise UserError(
            "start", folders[1], problem, "name dictionaries of two spaces; suture stitch joins those of one"
        )

    def make(store: Store, rows: Int[Tensor, "row"]) -> Dictionary:
        return joined(one, other, store, rows, n_features=n_features, settings=settings).dictionary

    recorded = asdict(settings) | {"n_features": n_features}
    return Start(make=make, parents=tuple(folders), settings=recorded)


@torch.no_grad()
def joined(
    one: Dictionary,
    other: Dictionary,
    store: Store,
    rows: Int[Tensor, "row"],
    *,
    n_features: int,
    settings: JointSettings,
) -> Joined:
    """Two dictionaries of one space each as one over a store's two spaces, in the store's order.

    Raises:
        UserError: the store has not both spaces, or others too.
    """
    places = [_place(own, store) for own in (one, other)]
    if len(store.spaces) != 2 or places[0] == places[1]:
        have = ", ".join(space.label for space in store.spaces)
        fix = "name both dictionaries' spaces, and no other, with --space"
        raise UserError("start", one.path, f"and {other.path} are to be joined over {have}", fix)
    if places == [1, 0]:
        one, other = other, one
    rows = whole_documents(store.documents, rows, settings.start_rows)
    views = [store.select([m]) for m in range(2)]
    parts = [_comparable(own, view, rows) for own, view in zip((one, other), views, strict=True)]
    codes = [_codes(own, view, rows) for own, view in zip(parts, views, strict=True)]
    a, b = _matched(codes, settings.match_above)  # 2
    whole = _side_by_side(parts, codes, a, b, store)
    l0 = max(_l0(own) for own in codes)
    strongest = torch.argsort(whole.energy, descending=True)
    live = strongest[whole.energy[strongest] > 0]
    if len(live) == 0:
        raise UserError("start", one.path, "and the other never fire on these rows", "give rows of their own kind")
    made = to_l0(take(whole.dictionary, live), store, rows, min(l0, len(live)))  # 4, 5
    if settings.fill == "fit":
        made = refitted(made, store, rows, RefitSettings(fit=("decoder",), penalty=FILL_PENALTY))
        kept = torch.nonzero(first_of_their_kind(made.W_dec, settings.double_above))[:, 0]
        made, live = take(made, kept), live[kept]
    if len(live) > n_features:
        made, live = take(made, torch.arange(n_features)), live[:n_features]
    return Joined(dictionary=made.requires_grad_(requires_grad=False), a=whole.a[live], b=whole.b[live])


def _place(dictionary: Dictionary, store: Store) -> int:
    (own,) = dictionary.spaces
    for number, space in enumerate(store.spaces):
        if space.stands_for(own) and space.width == own.width:
            return number
    have = ", ".join(f"{space.label} ({space.width} wide)" for space in store.spaces)
    problem = f"is of {own.label} ({own.width} wide), the rows are of {have}"
    raise UserError("start", dictionary.path, problem, "train on a store of both dictionaries' spaces")


def _comparable(given: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> Dictionary:
    """1: written as a batchtopk dictionary, which is a ReLU above a threshold."""
    found = portable(given.with_scales([view.spaces[0].scale], setting="start"))
    if found.sparsity.ranks:
        found = to_l0(found, view, rows, float(found.sparsity.k))
    return as_kind(found, "batchtopk")


def _codes(dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> csr_matrix:
    return csr_matrix(vstack([as_sparse(piece.codes(dictionary)) for piece in pieces(dictionary, view, rows)]))


def _l0(codes: csr_matrix) -> float:
    assert codes.shape is not None
    return codes.nnz / codes.shape[0]


def _matched(codes: Sequence[csr_matrix], above: float) -> tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]:
    candidates = top_correlations(codes[0], codes[1])
    a, b = one_to_one(candidates)
    r = np.asarray(candidates.sparse()[a, b]).ravel()
    kept = r >= above
    return torch.from_numpy(a[kept]), torch.from_numpy(b[kept])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Whole:
    """All features of both, the shared ones once."""

    dictionary: Dictionary
    a: Int[Tensor, "feature"]
    b: Int[Tensor, "feature"]
    energy: Float[Tensor, "feature"]
    """Sum of squares of what a feature writes, over the rows."""


def _side_by_side(
    parts: Sequence[Dictionary],
    codes: Sequence[csr_matrix],
    a: Int[Tensor, "pair"],
    b: Int[Tensor, "pair"],
    store: Store,
) -> _Whole:
    """3 and 4."""
    products = codes[0][:, a.numpy()].multiply(codes[1][:, b.numpy()])
    squares = [torch.from_numpy(columns(own).square) for own in codes]
    together = torch.from_numpy(np.asarray(products.sum(axis=0), dtype=np.float64).ravel())
    c = (together / squares[0][a].clamp_min(1e-12)).clamp_min(1e-3).float()
    lone = [_others(own.n_features, pair) for own, pair in zip(parts, (a, b), strict=True)]
    n = len(a) + len(lone[0]) + len(lone[1])
    from_a, from_b = torch.full((n,), -1), torch.full((n,), -1)
    from_a[: len(a)], from_b[: len(b)] = a, b
    from_a[len(a) : len(a) + len(lone[0])], from_b[len(a) + len(lone[0]) :] = lone
    length = torch.ones(n)  # of B's values in units of the code
    length[: len(a)] = c
    share = torch.ones(n)
    share[: len(a)] = 0.5
    k = max(own.sparsity.k for own in parts)
    sparsity = Sparsity(kind="batchtopk", k=min(k, n))
    spaces = [replace(space, mean=None) for space in store.spaces]
    made = Dictionary(spaces, Design(kind="crosscoder", n_features=n, sparsity=sparsity))
    for m, (part, own, unit) in enumerate(zip(parts, (from_a, from_b), (torch.ones(n), length), strict=True)):
        has, columns_of = own >= 0, made.columns(m)
        weights = {name: tensor[own[has]] for name, tensor in part.state_dict().items() if name in PER_FEATURE}
        reads = (share / unit)[has]
        made.W_enc.data[has, columns_of] = 2 * weights["W_enc"] * reads[:, None]
        made.W_dec.data[has, columns_of] = weights["W_dec"] * unit[has][:, None]
        made.b_enc.data[has] += weights["b_enc"] * reads
        made.threshold[has] += weights["threshold"] * reads
        made.b_dec.data[columns_of], made.center[columns_of] = part.b_dec, part.center
    energy = torch.zeros(n, dtype=torch.float64)  # decoder rows of the parts have norm 1
    for own, square in zip((from_a, from_b), squares, strict=True):
        energy[own >= 0] += square[own[own >= 0]]
    return _Whole(dictionary=portable(made), a=from_a, b=from_b, energy=energy)


def _others(n: int, some: Int[Tensor, "some"]) -> Int[Tensor, "rest"]:
    left = torch.ones(n, dtype=torch.bool)
    left[some] = False
    return torch.nonzero(left)[:, 0]


def first_of_their_kind(rows: Float[Tensor, "feature D"], above: float) -> Bool[Tensor, "feature"]:
    """Features, the strongest first, without those whose row has this cosine with a stronger one that is kept."""
    unit = normalize(rows.detach(), dim=1)
    kept = torch.ones(len(unit), dtype=torch.bool)
    for feature in range(len(unit)):
        if kept[feature]:
            alike = unit[feature + 1 :] @ unit[feature] > above
            kept[feature + 1 :] &= ~alike
    return kept
