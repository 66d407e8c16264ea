"""Dictionaries made of parts of others: some features, in any order, or those of several dictionaries side by side.

Weights are moved, never changed, so that what a feature reads and writes stays what it was. Two things are of a whole
dictionary and not of a feature: what is subtracted from rows before they are encoded (`center`), and what is added to
what is decoded (`b_dec`). Joined dictionaries have the first one's; the others' encoder biases take up the difference
of the centres, so that their pre-activations on complete rows are what they were.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from suture.dictionary.activation import SparsityKind
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError

PER_FEATURE = ("W_enc", "W_dec", "b_enc", "threshold")
"""What has a row for every feature, beside a kind of sparsity's own weights."""
THRESHOLDED = ("batchtopk", "relu+l1", "jumprelu")
"""Kinds that in use are a ReLU above a threshold."""


@torch.no_grad()
def take(
    dictionary: Dictionary, features: Int[Tensor, "chosen"] | Sequence[int], *, k: int | None = None
) -> Dictionary:
    """These features of a dictionary, in this order.

    Args:
        dictionary: not split over ranks.
        features: their numbers, each at most once.
        k: active features of the smaller dictionary; as many as before when not given, or all where they are fewer.

    Raises:
        UserError: no feature, one that is not there, or one twice.
    """
    assert dictionary.grid.features.size == 1, "take from `whole()`"
    chosen = torch.as_tensor(features, dtype=torch.int64, device=dictionary.W_dec.device)
    if chosen.numel() == 0 or int(chosen.min()) < 0 or int(chosen.max()) >= dictionary.n_features:
        problem = f"are not features of a dictionary of {dictionary.n_features}"
        raise UserError("features", chosen.tolist(), problem, "name at least one, counted from 0")
    if len(chosen.unique()) < len(chosen):
        raise UserError("features", chosen.tolist(), "name a feature twice", "name each once")
    taken = _empty(dictionary, _design([dictionary], len(chosen), k))
    for name, tensor in dictionary.state_dict().items():
        taken.state_dict()[name].copy_(tensor[chosen] if _is_per_feature(dictionary, name) else tensor)
    return taken


def reorder(dictionary: Dictionary, order: Int[Tensor, "feature"]) -> Dictionary:
    """All features in another order: feature `order[i]` becomes feature i.

    Raises:
        UserError: not every feature once.
    """
    if len(order) != dictionary.n_features:
        raise UserError("features", len(order), f"are not all {dictionary.n_features} features", "name each once")
    return take(dictionary, order)


@torch.no_grad()
def join(parts: Sequence[Dictionary], *, k: int | None = None) -> Dictionary:
    """The features of several dictionaries over the same spaces, one dictionary after the other.

    What is decoded is the sum of what the parts' features give, and the first part's `b_dec`. The second moments from
    which missing models are imputed are the first's.

    Args:
        parts: of one kind of design and of sparsity, over the same spaces in the same units.
        k: active features of the larger dictionary; the largest of the parts' when not given.

    Raises:
        UserError: parts of different designs, sparsities or spaces.
    """
    first = parts[0]
    for part in parts:
        assert part.grid.features.size == 1, "join what `whole()` gives"
        _check_alike(first, part)
    joined = _empty(first, _design(parts, sum(part.n_features for part in parts), k))
    centred = [_centred_as(part, first.center.to(part.center)) for part in parts]
    for name, tensor in joined.state_dict().items():
        own = [weights[name].to(tensor.device) for weights in centred]
        tensor.copy_(torch.cat(own) if _is_per_feature(first, name) else own[0])
    return joined


def _centred_as(part: Dictionary, center: Tensor) -> dict[str, Tensor]:
    """A part's weights for rows that another centre is subtracted from: its biases take up the difference."""
    weights, moved = part.state_dict(), center - part.center
    if bool(moved.any()):
        by = part.W_enc[:, : part.width] @ moved / (part.n_spaces if part.design.joint else 1)
        weights |= {"b_enc": part.b_enc + by, **part.sparsity.activation.shifted(part.own_weights, by)}
    return weights


def _check_alike(first: Dictionary, part: Dictionary) -> None:
    spaces = [[(s.label, s.width, s.scale) for s in d.spaces] for d in (first, part)]
    if spaces[0] != spaces[1]:
        raise UserError("dictionaries", spaces[1], "are over other spaces or scales", "join those of one store")
    kinds = [(d.design.kind, d.design.flag, d.design.pad, d.sparsity.kind, d.flag_scale) for d in (first, part)]
    if kinds[0] != kinds[1]:
        raise UserError(
            "dictionaries", kinds[1], f"differ in design or sparsity from {kinds[0]}", "join like with like"
        )
    if part.masks_padding and not torch.equal(first.center.to(part.center), part.center):
        problem = "pooled ones over unequal widths cannot take up another centre"
        raise UserError("dictionaries", part.design.kind, problem, "start them from the same rows")


def _design(parts: Sequence[Dictionary], n_features: int, k: int | None) -> Design:
    """The first part's, of another size; which features are dedicated or tied is not known by their number any more."""
    design = parts[0].design
    most = min(k or max(part.sparsity.k for part in parts), n_features)
    sparsity = replace(design.sparsity, k=most if design.sparsity.selects_k else design.sparsity.k)
    return replace(design, n_features=n_features, dedicated=(), tied=0.0, sparsity=sparsity)


def _empty(like: Dictionary, design: Design) -> Dictionary:
    made = Dictionary(like.spaces, design, flag_scale=like.flag_scale).to(like.W_dec)
    made.precision, made.imputation, made.clipping = like.precision, like.imputation, like.clipping
    return made.requires_grad_(requires_grad=False)


def _is_per_feature(dictionary: Dictionary, name: str) -> bool:
    return name in PER_FEATURE or name in dictionary.own_weights


# --- the same features, written otherwise -----------------------------------------------------------------------------


@torch.no_grad()
def as_kind(dictionary: Dictionary, kind: SparsityKind) -> Dictionary:
    """A dictionary with thresholds as one of another kind of sparsity: the same function.

    A ReLU above a threshold is a jumprelu, and a batchtopk and relu+l1 in use; any is a gated one whose magnitudes are
    its pre-activations.

    Raises:
        UserError: a topk dictionary, which has no thresholds; a gated one as anything else.
    """
    own = dictionary.sparsity.kind
    if own == kind:
        return dictionary
    if own not in THRESHOLDED or kind not in (*THRESHOLDED, "gated"):
        fix = "bring it to an L0 first" if dictionary.sparsity.ranks else "use dictionaries of one kind"
        raise UserError("sparsity", own, f"cannot be written as {kind}", fix)
    design = replace(dictionary.design, sparsity=replace(dictionary.sparsity, kind=kind))
    made = _empty(dictionary, design)
    for name, tensor in dictionary.state_dict().items():
        made.state_dict()[name].copy_(tensor)
    if kind == "gated":
        made.own_weights["magnitude_bias"].copy_(dictionary.b_enc)
    return made


@torch.no_grad()
def portable(dictionary: Dictionary) -> Dictionary:
    """Decoder rows of norm 1 over all columns, the norms moved into the values: what is decoded stays what it was.

    Values of features are then in one unit, that of rows, so that thresholds of several dictionaries can be compared
    and moved together. Which features are active stays too, unless they are ranked by their values (topk): a ranking
    changes with its unit.
    """
    norms = dictionary.W_dec.norm(dim=1).clamp_min(1e-12)
    made = _empty(dictionary, dictionary.design)
    weights = dictionary.state_dict()
    weights |= {name: weights[name] * norms for name in ("b_enc", "threshold")}
    weights |= {"W_enc": weights["W_enc"] * norms[:, None], "W_dec": weights["W_dec"] / norms[:, None]}
    weights |= dictionary.sparsity.activation.stretched(dictionary.own_weights, norms)
    for name, tensor in weights.items():
        made.state_dict()[name].copy_(tensor)
    return made
