"""What is stitched and on which rows: dictionaries made comparable, documents to choose on and documents to judge on.

1. Dictionaries over the same spaces, in the first one's units; all of one kind of sparsity, or written as one that can
   hold them all (`as_kind`). topk is given a common cut-off: beside others a ranking means nothing.
2. Made portable: decoder rows of norm 1, so that values and thresholds of all are in the unit of rows. What each
   decodes stays what it was.
3. Where an L0 is asked for, each is brought to it by one common offset. Where values were shrunk by their price
   (relu+l1), factors are fitted again, all together: shrinkage leaves a part of every concept in the error, and then
   nearly everything looks novel (measured on planted ladders: .55 of the labels right without, .94 and more with).
4. Documents that training kept back judge; those that it saw choose and fit. Dictionaries of one training split only:
   otherwise nobody could say what the result may be judged on. Of dictionaries that were trained on other rows nothing
   is known; documents are then dealt out, and the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from suture.activations.batches import split_rows
from suture.activations.settings import View
from suture.activations.store import Store
from suture.activations.view import seen
from suture.dictionary.activation import common_kind
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.parts import as_kind, portable
from suture.dictionary.refit import check_l0, refitted, to_l0
from suture.dictionary.refit_settings import RefitSettings
from suture.dictionary.rows import LEAST_DOCUMENTS, matching_view, order_seed, whole_documents
from suture.errors import UserError
from suture.pipeline import artifact

DEALT = 0.5
"""Share of the documents that judge, where nobody was trained on them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One dictionary as it was given."""

    name: str
    setting: str
    """What the user calls it: `small`, `large` or `more`."""
    dictionary: Dictionary
    view: Mapping[str, Any] | None
    """Through which its store was seen."""
    training: Mapping[str, Any] | None
    """Its recorded settings, where it was trained on this very store."""

    @staticmethod
    def open(path: str | Path, store: Store, setting: str) -> Part:
        """Read a dictionary.

        Raises:
            ArtifactError: it cannot be read.
        """
        manifest = artifact.open_artifact(path, stage="dictionary", setting=setting)
        known = artifact.is_made_from(manifest, store.path) and "heldout" in manifest.settings
        return Part(
            name=str(path),
            setting=setting,
            dictionary=Dictionary.load(path),
            view=manifest.settings.get("view"),
            training=manifest.settings if known else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """Where dictionaries are stitched."""

    view: Store
    """The spaces, in the dictionaries' order."""
    fit: Int[Tensor, "train"]
    """Rows to choose and fit on."""
    judge: Int[Tensor, "heldout"]
    """Rows to judge on: no dictionary was trained on them."""
    split: Mapping[str, Any]
    """The settings that lead a later stage to the same documents."""
    unknown: tuple[str, ...]
    """Dictionaries that may have been trained on the rows that judge."""


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse what cannot be stitched.

    Raises:
        UserError: naming the dictionary that does not fit the first one.
    """
    small = parts[0]
    for part in parts[1:]:
        _check_other(small, part)
    large = parts[1]
    if large.dictionary.n_features < small.dictionary.n_features:
        problem = f"has {large.dictionary.n_features} features, fewer than the {small.dictionary.n_features} of the "
        raise UserError(large.setting, large.name, f"{problem}small one, {small.name}", "exchange the two")


def _check_other(small: Part, part: Part) -> None:
    one, other = small.dictionary, part.dictionary
    if Path(part.name).resolve() == Path(small.name).resolve() or _alike(one, other):
        problem = "is the small dictionary itself, which leaves nothing to stitch"
        raise UserError(part.setting, part.name, problem, "name one of another size or seed")
    places, own = (", ".join(f"{s.label} ({s.width} wide)" for s in d.spaces) for d in (one, other))
    same = len(one.spaces) == len(other.spaces) and all(
        a.stands_for(b) and a.width == b.width for a, b in zip(one.spaces, other.spaces, strict=True)
    )
    if not same:
        fix = "name dictionaries of the same spaces, in the same order"
        raise UserError(part.setting, part.name, f"is over {own}, the small one over {places}", fix)
    kinds = [(d.design.kind, d.design.flag, d.design.pad) for d in (one, other)]
    if kinds[0] != kinds[1]:
        problem = f"is a {other.design.kind}, the small one a {one.design.kind}"
        if other.design.kind == one.design.kind:
            problem = "has another flag or padding than the small one"
        raise UserError(part.setting, part.name, problem, "stitch dictionaries of one design")
    if one.masks_padding and not torch.equal(one.center, other.center):
        problem = "is pooled over unequal widths and centred elsewhere than the small one, which no bias can take up"
        raise UserError(part.setting, part.name, problem, "train both with one --seed")


def _alike(one: Dictionary, other: Dictionary) -> bool:
    if one.n_features != other.n_features or one.W_dec.shape != other.W_dec.shape:
        return False
    return torch.equal(one.W_dec, other.W_dec) and torch.equal(one.W_enc, other.W_enc)


def ground(store: Store, parts: Sequence[Part], *, n_rows: int, fit_rows: int) -> Ground:
    """The rows (4).

    Raises:
        UserError: the store has not the spaces; dictionaries of several splits; nothing was kept back, or too little.
    """
    small = parts[0]
    view = matching_view(small.dictionary, seen(store, View.from_json(small.view)))
    trained = [part for part in parts if part.training is not None]
    split: dict[str, Any] = {"heldout": DEALT, "seed": 0}
    if trained:
        own = [(float(part.training["heldout"]), order_seed(part.training)) for part in trained if part.training]
        for part, (_, seed) in zip(trained, own, strict=True):
            if seed != own[0][1]:
                problem = f"kept other documents back (data seed {seed}) than {trained[0].name} ({own[0][1]})"
                raise UserError(part.setting, part.name, problem, "train them with one --data-seed")
        split = {"heldout": min(share for share, _ in own), "seed": own[0][1]}
    train, heldout = split_rows(view, heldout=split["heldout"], seed=split["seed"])
    n_documents = len(view.documents[heldout].unique())
    if n_documents < LEAST_DOCUMENTS:
        problem = f"has {n_documents} documents that no dictionary was trained on, fewer than {LEAST_DOCUMENTS}"
        raise UserError("store", store.path, problem, "train with a larger --heldout, or give a store of other text")
    return Ground(
        view=view,
        fit=whole_documents(view.documents, train, fit_rows),
        judge=whole_documents(view.documents, heldout, n_rows),
        split=split,
        unknown=tuple(dict.fromkeys(part.name for part in parts if part.training is None)),
    )


@torch.no_grad()
def comparable(parts: Sequence[Part], where: Ground, settings: RefitSettings) -> list[Dictionary]:
    """The dictionaries, made so that their features can stand side by side (1 to 3).

    Raises:
        UserError: an L0 above the number of a dictionary's features.
    """
    scales = [space.scale for space in parts[0].dictionary.spaces]
    found = [_thresholded(part.dictionary.with_scales(scales), where, settings) for part in parts]
    common = common_kind(d.sparsity.kind for d in found)
    return [portable(as_kind(d, common)).requires_grad_(requires_grad=False) for d in found]


def _thresholded(dictionary: Dictionary, where: Ground, settings: RefitSettings) -> Dictionary:
    l0 = settings.l0
    if l0 is None and dictionary.sparsity.ranks:
        l0 = float(dictionary.sparsity.k)
    found = portable(dictionary)
    if l0 is not None:
        check_l0(l0, found)
        found = to_l0(found, where.view, where.fit, l0)
    if found.sparsity.activation.shrinks:
        scales = RefitSettings(fit=("scales",), penalty=settings.penalty)
        found = refitted(found, where.view, where.fit, scales)
    return found
