"""The codes that are matched: of rows that neither dictionary was trained on, in two halves of whole documents.

1. A dictionary trained on this very store kept documents back; of two such dictionaries those that both kept back are
   used. Of one trained on other rows nothing is known, and the result says so.
2. Documents are dealt into halves by their number: the first chooses pairs, the second scores them. Training documents
   would inflate r by a tenth, and the largest of many r is too large on the rows that chose it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from suture.activations.batches import split_rows
from suture.activations.settings import View
from suture.activations.store import Store, as_store
from suture.activations.view import seen
from suture.dictionary.codes import Codes, Pattern
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.pieces import as_sparse
from suture.dictionary.rows import LEAST_DOCUMENTS, matching_view, order_seed, whole_documents
from suture.errors import UserError
from suture.parallel import ALONE, Ranks
from suture.pipeline import artifact
from suture.uncertainty import deal_groups

BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """A dictionary, where it lies in a store, and which of its spaces its codes are read from."""

    folder: Path
    dictionary: Dictionary
    view: Store
    """The dictionary's spaces, in its order."""
    space: int | None
    """All spaces when None."""
    training: Mapping[str, Any] | None
    """Its recorded settings, where it was trained on this very store."""
    ranks: Ranks = ALONE.world
    """Those that share its rows."""

    @staticmethod
    def open(
        dictionary: Dictionary | str | Path,
        store: Store,
        *,
        space: int | None = None,
        setting: str = "dictionary",
        ranks: Ranks = ALONE.world,
    ) -> Side:
        """Read a dictionary and find its spaces.

        Raises:
            ArtifactError: it cannot be read.
            UserError: the store has not its spaces, or it has no such space.
        """
        path = Dictionary.folder_of(dictionary)
        dictionary = Dictionary.load(path, precision="auto")
        manifest = artifact.open_artifact(path)
        view = matching_view(dictionary, seen(store, View.from_json(manifest.settings.get("view"))))
        if space is not None and space >= dictionary.n_spaces:
            problem = f"{path} has {dictionary.n_spaces} spaces"
            raise UserError(setting, space, problem, "count them from 0")
        if space is None and not dictionary.design.joint and dictionary.n_spaces > 1:
            problem = f"{path} reads one model's rows at a time"
            raise UserError(setting, "(none)", problem, "name the space")
        training = manifest.settings if artifact.is_made_from(manifest, store.path) else None
        return Side(folder=path, dictionary=dictionary, view=view, space=space, training=training, ranks=ranks)

    @property
    def spaces(self) -> list[int]:
        """Those that its codes are read from."""
        return list(range(self.dictionary.n_spaces)) if self.space is None else [self.space]

    @property
    def label(self) -> str:
        """In words."""
        return " and ".join(self.view.spaces[m].label for m in self.spaces)

    @property
    def columns(self) -> slice:
        """The columns of a decoded row that belong to them."""
        return slice(0, self.dictionary.width) if self.space is None else self.dictionary.columns(self.space)

    def tokens(self, rows: Int[Tensor, "row"]) -> Int[Tensor, "row space"]:
        """The token of every row in each of these spaces."""
        return self.view.token_ids[rows][:, self.spaces]

    def batches(self, rows: Int[Tensor, "row"]) -> Iterator[tuple[Codes, Float[Tensor, "row D"]]]:
        """Codes of rows, and what they leave unexplained, in scaled units, a batch at a time."""
        d = self.dictionary
        for part in rows.split(BATCH_ROWS) if len(rows) else ():
            read = [self.view.read_space(part, m) if m in self.spaces else None for m in range(d.n_spaces)]
            codes = d.encode_raw(read).ordered
            scaled = [x * d.spaces[m].scale for m, x in enumerate(read) if x is not None]
            yield codes, torch.cat(scaled, dim=1) - d.decode(codes)[:, self.columns]

    def share(self, n_rows: int) -> slice:
        """This rank's part of so many rows: whole batches, so that they are the same as one rank's."""
        part = self.ranks.share(-(-n_rows // BATCH_ROWS))
        return slice(min(part.start * BATCH_ROWS, n_rows), min(part.stop * BATCH_ROWS, n_rows))

    def codes(self, rows: Int[Tensor, "row"]) -> csr_matrix:
        """Codes of rows, float64 [row, feature]; each rank encodes its share."""
        own = [codes.to("cpu") for codes, _ in self.batches(rows[self.share(len(rows))])] if len(rows) else []
        own = own or [Codes.from_dense(torch.zeros(0, self.dictionary.n_features))]
        mine = Codes.concatenate(own)
        lengths, feature, value = (
            self.ranks.concatenate(x) for x in (mine.crow.diff().int(), mine.feature.int(), mine.value)
        )
        crow = torch.cat([lengths.new_zeros(1), lengths.cumsum(0).to(lengths.dtype)])
        return as_sparse(Codes(Pattern(crow, feature, self.dictionary.n_features), value))


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Rows that nobody was trained on."""

    rows: Int[Tensor, "row"]
    scoring: Bool[Tensor, "row"]
    """The others pair."""
    unknown: tuple[str, ...]
    """Dictionaries that may have been trained on these rows."""

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Places among `rows` that pair, and that score."""
        return np.flatnonzero(~self.scoring.numpy()), np.flatnonzero(self.scoring.numpy())


def split(store: Store, sides: list[Side], n_rows: int) -> Halves:
    """1 and 2.

    Raises:
        UserError: too few documents are left.
    """
    free = torch.ones(len(store), dtype=torch.bool)
    unknown = []
    for side in sides:
        if side.training is None:
            unknown.append(str(side.folder))
            continue
        share = float(side.training.get("heldout", 0.1))
        _, heldout = split_rows(store, heldout=share, seed=order_seed(side.training))
        own = torch.zeros_like(free)
        own[heldout] = True
        free &= own
    rows = whole_documents(store.documents, torch.nonzero(free)[:, 0], n_rows)
    documents = store.documents[rows]
    n_documents = len(documents.unique())
    if n_documents < LEAST_DOCUMENTS:
        problem = f"has {n_documents} documents that no dictionary was trained on, fewer than {LEAST_DOCUMENTS}"
        fix = "train with one --data-seed and a larger --heldout, or give a store of other text"
        raise UserError("store", store.path, problem, fix)
    return Halves(rows=rows, scoring=deal_groups(documents, 2) == 1, unknown=tuple(dict.fromkeys(unknown)))


def same_rows(
    random: tuple[Dictionary | str | Path, Store | str | Path],
    store: Store,
    halves: Halves,
    ranks: Ranks = ALONE.world,
) -> Side:
    """The random model's dictionary, once its rows are known to be those of the store.

    Raises:
        UserError: they are others.
    """
    dictionary, other = random
    other = as_store(other)
    rows = halves.rows
    fits = len(other) == len(store) and torch.equal(_places(store)[rows], _places(other)[rows])
    if not fits:
        fix = "collect the model with random weights on the same text, with the same settings"
        raise UserError("random-weights", other.path, "holds other rows than the store", fix)
    return Side.open(dictionary, other, ranks=ranks)


def _places(store: Store) -> Int[Tensor, "row 2"]:
    """Of every row the rank of its document among those of the store, and where its token ends in that."""
    rank = torch.unique(store.documents, return_inverse=True)[1]
    return torch.stack([rank, store.ends.long()], dim=1)
