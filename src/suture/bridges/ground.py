"""The rows that bridges stand on: two spaces of a store, documents to fit, to choose penalties by, and to judge.

1. Held-out documents judge, by the split that training makes. Of the others, as many whole ones as fit.
2. Of those, three quarters fit and one quarter checks: penalties and steps are chosen by what they explain of it.
3. The control has the same rows of the first space beside those of the second in another order, each part by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture import seeds
from suture.activations.batches import split_rows
from suture.activations.moments import Moments
from suture.activations.settings import View
from suture.activations.store import Store
from suture.activations.view import seen
from suture.bridges.settings import BridgeSettings
from suture.dictionary.imputation import checking_documents
from suture.dictionary.rows import LEAST_DOCUMENTS, whole_documents
from suture.errors import UserError
from suture.uncertainty import by_unit, hashed_rank

BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows of two spaces, those of the second perhaps in another order than those of the first."""

    view: Store
    first: Int[Tensor, "row"]
    second: Int[Tensor, "row"]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def documents(self) -> Int[Tensor, "row"]:
        """Of the first space's rows."""
        return self.view.documents[self.first]

    def read(self, places: Int[Tensor, "some"]) -> tuple[Float[Tensor, "some width_a"], Float[Tensor, "some width_b"]]:
        """Some of them, in scaled units."""
        x, y = (
            self.view.read_space(rows[places], m) * self.view.spaces[m].scale
            for m, rows in enumerate((self.first, self.second))
        )
        return x, y

    def batches(self) -> Iterator[tuple[Int[Tensor, "some"], Tensor, Tensor]]:
        """(places, rows of the first space, rows of the second), all of them in order."""
        for places in torch.arange(len(self)).split(BATCH_ROWS):
            yield places, *self.read(places)

    @cached_property
    def moments(self) -> Moments:
        """Of both spaces side by side."""
        found = Moments([space.width for space in self.view.spaces])
        for _, x, y in self.batches():
            found.add(torch.cat([x, y], dim=1))
        return found

    @cached_property
    def texts(self) -> Float[Tensor, "document D"]:
        """Mean rows of every document, both spaces side by side, documents in hashed order."""
        unit = hashed_rank(self.documents)
        n = int(unit.max()) + 1
        count = torch.bincount(unit, minlength=n).double()[:, None]
        total = torch.zeros(n, sum(space.width for space in self.view.spaces), dtype=torch.float64)
        for places, x, y in self.batches():
            total += by_unit(torch.cat([x, y], dim=1), unit[places], n)
        return total / count

    def some(self, at_most: int) -> Rows:
        """Evenly spread ones."""
        every = slice(None, None, max(1, -(-len(self) // at_most)))
        return replace(self, first=self.first[every], second=self.second[every])

    def shuffled(self, seed: int) -> Rows:
        """The same with the second space's rows in another order (3)."""
        order = torch.randperm(len(self), generator=seeds.generator("bridge control", seed))
        return replace(self, second=self.second[order])


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """Where a bridge is fitted and judged."""

    view: Store
    """Its two spaces."""
    fit: Rows
    check: Rows
    judge: Rows

    def shuffled(self, seed: int) -> Ground:
        """The control's (3)."""
        return replace(self, **{name: getattr(self, name).shuffled(seed) for name in ("fit", "check", "judge")})


def two_spaces(store: Store, view: View) -> Store:
    """The two spaces of a store between which a bridge is to be.

    Raises:
        UserError: not two.
    """
    found = seen(store, view)
    n = len(found.spaces)
    if n != 2:
        have = ", ".join(f"{i}: {space.label}" for i, space in enumerate(store.spaces))
        problem = f"has {n} spaces to be bridged ({have})" if n > 1 else "has one space alone"
        fix = "name two with --space" if len(store.spaces) > 1 else "collect two models, or two hookpoints"
        raise UserError("store", store.path, problem, fix)
    return found


def heldout_texts(store: Store, settings: BridgeSettings) -> Iterator[str]:
    """The documents that judge, as text, in their order.

    Raises:
        UserError: a store without two spaces.
    """
    spaces = two_spaces(store, settings.view)
    _, judge = split_rows(spaces, heldout=settings.heldout, seed=settings.seed)
    for document in spaces.documents[judge].unique().tolist():
        yield store.text(document)


def ground(store: Store, view: View, *, n_rows: int, heldout: float, seed: int) -> Ground:
    """The rows (1, 2).

    Raises:
        UserError: a store without two spaces, or with too few documents.
    """
    spaces = two_spaces(store, view)
    train, judge = split_rows(spaces, heldout=heldout, seed=seed)
    n_judging, n_training = (len(spaces.documents[rows].unique()) for rows in (judge, train))
    if min(n_judging, n_training) < LEAST_DOCUMENTS:
        what = f"{n_judging} documents to judge by" if n_judging < LEAST_DOCUMENTS else f"{n_training} to fit on"
        problem = f"leaves {what}, fewer than {LEAST_DOCUMENTS}"
        raise UserError("store", store.path, problem, "collect more text, or change --heldout")
    train = whole_documents(spaces.documents, train, n_rows)
    checks = checking_documents(spaces.documents[train])
    fit, check, judging = (Rows(view=spaces, first=own, second=own) for own in (train[~checks], train[checks], judge))
    return Ground(view=spaces, fit=fit, check=check, judge=judging)
