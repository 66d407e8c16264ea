"""Which layers of two models correspond, and how sure is that: every space of one against every space of the other.

1. Rows: as many of every document, documents evenly spaced over the store, outlier rows drawn in.
2. Each measure of likeness for every pair of spaces, with its chance bar, what the token alone gives, and how far every
   cell lies from the best one in errors (`calibrate`).
3. The same with a second model of random weights, where its store is given: what architecture and tokens share.
4. A table with a row for each pair, and one sentence for each measure: the best pair, and those not told apart from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from suture import units
from suture.activations.settings import View
from suture.activations.store import Store, as_store
from suture.activations.view import seen
from suture.errors import UserError
from suture.matching.calibrate import MEASURES, Grid, grid
from suture.matching.settings import LayerSettings, MeasureName
from suture.matching.similarity import even_rows
from suture.pipeline import artifact
from suture.pipeline.job import Tell, silent
from suture.pipeline.table import Column, Table, Tabular

STAGE, TABLE, SUMMARY = "layers", "layers.safetensors", "layers.json"
AXES = ("one", "other")
LEAST_DOCUMENTS = 20
"""Fewer say nothing about how sure a difference is."""
TITLES: dict[MeasureName, str] = {"cka": "CKA", "mutual_knn": "mutual k-NN", "rsa": "RSA", "svcca": "SVCCA"}


@dataclass(frozen=True, kw_only=True)
class Best:
    """What one measure says."""

    measure: MeasureName
    one: str
    other: str
    value: float
    bar: float
    token: float
    random: float | None
    """The largest value with random weights in the second model."""
    n_cells: int
    not_told_apart: tuple[tuple[str, str], ...]
    """The other cells that may well be the best."""

    @property
    def sentence(self) -> str:
        """It, in words."""
        parts = [f"chance stays below {units.fvu(self.bar)}", f"the token alone gives {units.fvu(self.token)}"]
        if self.random is not None:
            parts.append(f"random weights reach {units.fvu(self.random)}")
        n = len(self.not_told_apart)
        others = ", ".join(f"{one} with {other}" for one, other in self.not_told_apart[:3])
        more = f" and {n - 3} more" if n > 3 else ""
        apart = f"{n} of {self.n_cells - 1} other pairs are not told apart from it ({others}{more})"
        return (
            f"{self.one} and {self.other} are most alike, {units.fvu(self.value)} "
            f"({', '.join(parts)}); {apart if n else 'every other pair is surely less alike'}"
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Layers(Tabular):
    """Pairs of spaces, and how alike they are."""

    models: tuple[str, str]
    n_rows: int
    n_documents: int
    best: tuple[Best, ...]
    cells: Table
    path: Path | None = None

    @property
    def table(self) -> Table:
        """A row for each pair of spaces."""
        return self.cells

    @property
    def sentences(self) -> tuple[str, ...]:
        """One for each measure."""
        return tuple(f"{TITLES[best.measure]}: {best.sentence}" for best in self.best)

    def __repr__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        return (
            f"Layers({where}{self.models[0]} x {self.models[1]}, {len(self.cells)} pairs; {'; '.join(self.sentences)})"
        )

    def to_json(self) -> dict[str, Any]:
        """For `--json`, and for the folder."""
        kept = {name: getattr(self, name) for name in ("models", "n_rows", "n_documents")}
        return kept | {"best": [asdict(b) | {"sentence": b.sentence} for b in self.best], "cells": self.cells.records()}

    @staticmethod
    def load(path: str | Path) -> Layers:
        """Read it from its folder.

        Raises:
            ArtifactError: it is no such result, or broken.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE)
        said = artifact.read_json(path / SUMMARY)
        best = tuple(
            Best(**{k: v for k, v in b.items() if k not in ("sentence", "not_told_apart")}, not_told_apart=_pairs(b))
            for b in said["best"]
        )
        return Layers(
            models=(said["models"][0], said["models"][1]),
            n_rows=said["n_rows"],
            n_documents=said["n_documents"],
            best=best,
            cells=Table.load(path / TABLE),
            path=path,
        )


def layers(
    out: str | Path,
    store: Store | str | Path,
    settings: LayerSettings | None = None,
    *,
    random: Store | str | Path | None = None,
    tell: Tell = silent,
    overwrite: bool = False,
    command: str | None = None,
) -> Layers:
    """Compare every space of a store's first model with every space of its second.

    Args:
        out: the folder to be made.
        store: activations of two models, each at one hookpoint or several.
        settings: rows, measures and how often chance is drawn.
        random: a store of the same text whose second model has random weights (`studies.controls` makes one).
        tell: told (what, done, total, note).
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: a store of other than two models, or of too few documents.
    """
    settings = settings or LayerSettings()
    store = as_store(store)
    given = store if random is None else as_store(random)
    both = [seen(own, View(spaces=settings.space)) for own in dict.fromkeys((store, given))]
    sides, rows = _sides(both[0]), chosen_rows(both[0].documents, settings)  # 1
    parents = [own.path for own in dict.fromkeys((store, given))]
    with artifact.create(
        out, stage=STAGE, settings=asdict(settings), parents=parents, overwrite=overwrite, command=command
    ) as draft:
        found = _compared(both, sides, rows, settings, tell)
        found.cells.save(draft.folder / TABLE)
        artifact.write_json(draft.folder / SUMMARY, artifact.as_json(found.to_json()))
    return replace(found, path=Path(out))


def _compared(
    stores: Sequence[Store], sides: tuple[list[int], list[int]], rows: Tensor, settings: LayerSettings, tell: Tell
) -> Layers:
    """2 to 4, of the store and, where there is one, that of random weights."""
    whole = stores[0]
    names = [[whole.spaces[m].hookpoint for m in side] for side in sides]
    read = [_Rows.read(own, rows, sides) for own in stores]
    n_steps = len(settings.measures) * len(stores)
    grids: dict[MeasureName, Grid] = {}
    chance: dict[MeasureName, Grid] = {}
    for name in settings.measures:
        tell("comparing layers", len(grids) + len(chance), n_steps, TITLES[name])
        grids[name] = read[0].grid(name, settings)  # 2
        if len(read) > 1:
            chance[name] = read[1].grid(name, settings, n_draws=1, n_halves=2)  # 3
    return Layers(  # 4
        models=(whole.spaces[sides[0][0]].model, whole.spaces[sides[1][0]].model),
        n_rows=len(rows),
        n_documents=int(read[0].documents.unique().numel()),
        best=tuple(_best(name, own, chance.get(name), names) for name, own in grids.items()),
        cells=_table(grids, chance, names),
    )


def chosen_rows(documents: Int[Tensor, "row"], settings: LayerSettings) -> Int[Tensor, "chosen"]:
    """As many rows of every document, of documents evenly spaced over those that have so many.  (1)

    Raises:
        UserError: too few documents have so many rows.
    """
    rows = even_rows(documents, settings.per_document)
    n = len(rows) // settings.per_document
    if n < LEAST_DOCUMENTS:
        problem = f"{n} documents have so many rows, at least {LEAST_DOCUMENTS} are needed"
        raise UserError("per-document", settings.per_document, problem, "give fewer, or collect more documents")
    wanted = min(n, max(LEAST_DOCUMENTS, settings.n_rows // settings.per_document))
    every = torch.linspace(0, n - 1, wanted).round().long()
    return rows.view(n, settings.per_document)[every].flatten()


def _sides(store: Store) -> tuple[list[int], list[int]]:
    """The numbers of the first and of the second model's spaces."""
    models = list(dict.fromkeys(space.model for space in store.spaces))
    if len(models) != 2:
        problem = f"holds {len(models)} model{'s' if len(models) != 1 else ''} ({', '.join(models)})"
        raise UserError("store", store.path, problem, "collect two models, or choose the spaces of two with --space")
    one, other = ([m for m, space in enumerate(store.spaces) if space.model == model] for model in models)
    return one, other


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The chosen rows of both sides."""

    one: list[Tensor]
    other: list[Tensor]
    documents: Tensor
    tokens: Tensor

    @staticmethod
    def read(store: Store, rows: Tensor, sides: tuple[Sequence[int], Sequence[int]]) -> _Rows:
        one, other = ([store.read_space(rows, m) for m in side] for side in sides)
        tokens = store.token_ids[rows, sides[0][0]].long()
        if len(tokens.unique()) == 1:  # rows without text, of planted models: none is another's token
            tokens = torch.arange(len(rows))
        return _Rows(one=one, other=other, documents=store.documents[rows], tokens=tokens)

    def grid(
        self, name: MeasureName, settings: LayerSettings, *, n_draws: int | None = None, n_halves: int | None = None
    ) -> Grid:
        return grid(
            self.one,
            self.other,
            self.documents,
            self.tokens,
            MEASURES[name],
            n_draws=n_draws or settings.n_draws,
            n_halves=n_halves or settings.n_halves,
            seed=settings.seed,
        )


def _best(name: MeasureName, own: Grid, chance: Grid | None, names: Sequence[Sequence[str]]) -> Best:
    i, j = own.best
    near = [(names[0][a], names[1][b]) for a, b in np.argwhere(own.not_told_apart).tolist() if (a, b) != (i, j)]
    return Best(
        measure=name,
        one=names[0][i],
        other=names[1][j],
        value=float(own.value[i, j]),
        bar=own.bar,
        token=float(own.token[i, j]),
        random=None if chance is None else float(chance.value.max()),
        n_cells=own.value.size,
        not_told_apart=tuple(near),
    )


def _table(grids: dict[MeasureName, Grid], chance: dict[MeasureName, Grid], names: Sequence[Sequence[str]]) -> Table:
    parts = [part for name, own in grids.items() for part in _columns(name, own, chance.get(name))]
    return Table(
        axes=AXES,
        columns=tuple(column for column, _ in parts),
        values={column.name: values for column, values in parts},
        coordinates={axis: list(own) for axis, own in zip(AXES, names, strict=True)},
    )


def _columns(name: MeasureName, own: Grid, chance: Grid | None) -> Iterator[tuple[Column, np.ndarray]]:
    title = TITLES[name]
    said = f"{title} of the two spaces; see suture.matching.similarity."
    yield Column(name=name, title=title, sentence=said, format="correlation", group=title, better="high"), own.value
    said = f"0 where the largest cell of a grid of chance stays 19 times of 20 ({own.bar:.3f}), 1 at identity."
    column = Column(name=f"{name}_calibrated", title="above chance", sentence=said, format="share", group=title)
    yield column, own.calibrated
    said = "The mean over shuffles among rows of the same token: what any model that tells tokens apart reaches."
    yield Column(name=f"{name}_token", title="the token's", sentence=said, format="correlation", group=title), own.token
    if chance is not None:
        said = "The same cell with random weights in the second model."
        column = Column(name=f"{name}_random", title="random weights", sentence=said, format="correlation", group=title)
        yield column, chance.value
    said = "How often a grid without anything in common has a cell as large, of all draws."
    yield Column(name=f"{name}_p", title="p", sentence=said, format="p", group=title), own.p
    said = (
        "How far below the best cell, in standard errors of the difference (halves of the documents); below 1.96 the "
    )
    said += "two are not told apart."
    column = Column(name=f"{name}_z", title="errors below the best", sentence=said, group=title)
    yield column, own.z


def _pairs(record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((one, other) for one, other in record["not_told_apart"])
