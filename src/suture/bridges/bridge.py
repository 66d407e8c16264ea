"""The stage `bridge`: maps between two models' spaces, fitted on paired rows and judged on documents kept back.

1. Two spaces of a store, documents to fit, to check and to judge (`ground`).
2. Every kind of map asked for, each way fitted in its own right (`fit`), and what it explains (`judge`).
3. The same of rows that do not belong together: the control.
4. Where models are at hand: each one's loss with the mapped rows in place of its activations.

| file               | content                                                         |
|--------------------|-----------------------------------------------------------------|
| maps.safetensors   | every kind's two maps, between rows in scaled units             |
| scores.safetensors | a table, a row per kind and way: R2, intervals, control, losses |
| bridge.json        | the spaces with their scales, counts                            |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from suture.activations.space import Space, are_null, spaces_from_json
from suture.activations.store import Store, as_store
from suture.bridges.columns import AXES, SCORES
from suture.bridges.fit import WAYS, fitted
from suture.bridges.ground import Ground, ground
from suture.bridges.judge import Score, judged
from suture.bridges.maps import Map, Pair, load_maps, save_maps
from suture.bridges.settings import BridgeSettings, Kind
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact
from suture.pipeline.result import read_typed
from suture.pipeline.table import Table, Tabular

STAGE = "bridge"
MAPS, TABLE, SUMMARY = "maps.safetensors", "scores.safetensors", "bridge.json"
WAY_NAMES = ("A to B", "B to A")
OnProgress = Callable[[str], None]
"""Told what begins."""


@dataclass(frozen=True, kw_only=True)
class MappedLoss:
    """One model's loss with mapped rows in place of its activations."""

    loss: float
    clean: float
    """Its own loss."""
    recovered: float | None
    """Of the loss that the mean in their place costs."""


Spliced = Callable[["Bridge"], Mapping[str, Sequence[MappedLoss]]]
"""Per kind of map, the losses of both ways' targets."""


@dataclass(frozen=True, kw_only=True)
class BridgeSummary:
    """The numbers of a bridge."""

    spaces: tuple[dict[str, Any], ...]
    """The two, as a store writes them."""
    n_fit: int
    n_check: int
    n_judge: int
    """Rows."""
    n_documents: int
    """That judge."""
    null: bool
    """Whether it is a model and a copy of itself."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Bridge(Tabular):
    """Maps between two spaces, of one or several kinds."""

    spaces: tuple[Space, Space]
    """A and B, with the scales that their rows were multiplied by."""
    maps: Mapping[str, Pair]
    """Per kind from A to B and from B to A, for rows in scaled units."""
    scores: Table
    """A row per kind and way."""
    summary: BridgeSummary
    path: Path | None = field(default=None, compare=False)

    @property
    def table(self) -> Table:
        """The scores."""
        return self.scores

    def __repr__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        places = " x ".join(f"{space.label} ({space.width})" for space in self.spaces)
        r2 = self.scores["r2"]
        found = "; ".join(f"{kind} R2 {one:.3f}, {other:.3f}" for kind, (one, other) in zip(self.maps, r2, strict=True))
        return f"Bridge{where}: {places}; {found}"

    def map(self, source: int, kind: str = "ridge") -> Map:
        """From a space's rows (0: A, 1: B) to the other's, scaled units.

        Raises:
            UserError: no such kind was fitted.
        """
        if kind not in self.maps:
            raise UserError("by", kind, "was not fitted", f"choose from {', '.join(self.maps)}, or fit it")
        return self.maps[kind][source]

    def carry(self, x: Float[Tensor, "row source"], source: int, kind: str = "ridge") -> Float[Tensor, "row target"]:
        """Activations of a space (0: A, 1: B) in the other's place, both in the models' own units."""
        return self.map(source, kind)(x * self.spaces[source].scale) / self.spaces[1 - source].scale

    def write(self, folder: Path) -> None:
        """Put maps, table and summary into a folder (of an artifact being written)."""
        save_maps(self.maps, folder / MAPS)
        self.scores.save(folder / TABLE)
        artifact.write_json(folder / SUMMARY, asdict(self.summary))

    @staticmethod
    def load(path: str | Path) -> Bridge:
        """Read what `bridge` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged, or something else.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="bridge")
        summary = read_typed(path / SUMMARY, BridgeSummary, setting="bridge")
        maps, scores = load_maps(path / MAPS), Table.load(path / TABLE)
        try:
            one, other = spaces_from_json(summary.spaces)
            in_order = {kind: maps[kind] for kind in scores.coordinates["kind"]}  # a file's tensors have no order
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError("bridge", path, f"files do not belong together ({error})", "fit it again") from None
        return Bridge(spaces=(one, other), maps=in_order, scores=scores, summary=summary, path=path)


def bridge(
    out: str | Path,
    store: Store | str | Path,
    settings: BridgeSettings | None = None,
    *,
    spliced: Spliced | None = None,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Bridge:
    """Fit maps between two spaces of a store, judge them on held-out documents, and write them to `out`.

    Args:
        out: the folder to be made.
        store: activations of both spaces at the same text positions.
        settings: which maps, and how.
        spliced: the models' losses with mapped rows in place of their activations; measured where it is given.
        on_progress: told what begins.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: a store without two spaces, or with too few documents.
        NumericalError: activations that are not finite.
        ArtifactError: the store cannot be read, or `out` is taken.
    """
    settings, store, say = settings or BridgeSettings(), as_store(store), on_progress or (lambda _: None)
    if not settings.kinds:
        raise UserError("kind", "(none)", "leaves nothing to fit", "name one, or leave the option out")
    where = ground(store, settings.view, n_rows=settings.n_rows, heldout=settings.heldout, seed=settings.seed)
    recorded = asdict(settings) | {"store": str(store.path)}
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=settings.seed, parents=(store.path,), overwrite=overwrite,
        command=command,
    ) as draft:  # fmt: skip
        found = bridged(where, settings, say)
        if spliced is not None:
            say("the models' losses with mapped rows")
            found = replace(found, scores=_with_losses(found.scores, spliced(found)))
        found.write(draft.folder)
    return Bridge.load(out)


def bridged(where: Ground, settings: BridgeSettings, say: OnProgress) -> Bridge:
    """2 and 3."""
    kinds = tuple(dict.fromkeys(settings.kinds))
    maps: dict[str, Pair] = {}
    penalties, seconds = [], []
    for kind in kinds:
        say(f"fitting {kind}")
        started = time.monotonic()
        own = fitted(kind, where, settings)
        maps[kind], seconds = own.maps, [*seconds, time.monotonic() - started]
        penalties.append(own.penalties)
    say("judging")
    scores = _scores(maps, where, settings)
    control = [[math.nan] * 2 for _ in kinds]
    if settings.control:
        shuffled = where.shuffled(settings.seed)
        wrong: dict[str, Pair] = {}
        for kind in kinds:
            say(f"fitting {kind} to rows that do not belong together")
            wrong[kind] = fitted(kind, shuffled, settings).maps
        control = [[one.r2 for one in own] for own in _scores(wrong, shuffled, settings)]
    one, other = (replace(space, mean=None) for space in where.view.spaces)
    summary = BridgeSummary(
        spaces=(one.to_json(), other.to_json()),
        n_fit=len(where.fit),
        n_check=len(where.check),
        n_judge=len(where.judge),
        n_documents=len(where.judge.documents.unique()),
        null=are_null(where.view.spaces),
    )
    return Bridge(
        spaces=(one, other), maps=maps, summary=summary, scores=_table(kinds, scores, control, penalties, seconds)
    )


def _scores(maps: Mapping[str, Pair], where: Ground, settings: BridgeSettings) -> list[list[Score]]:
    """Per kind, of both ways."""
    by_way = [
        judged([pair[source] for pair in maps.values()], where.judge, source, draws=settings.draws, seed=settings.seed)
        for source, _ in WAYS
    ]
    return [list(pair) for pair in zip(*by_way, strict=True)]


def _table(
    kinds: Sequence[Kind],
    scores: Sequence[Sequence[Score]],
    control: Sequence[Sequence[float]],
    penalties: Sequence[tuple[float, float]],
    seconds: Sequence[float],
) -> Table:
    unknown = np.full((len(kinds), 2), np.nan)
    values = {
        "r2": np.array([[one.r2 for one in own] for own in scores]),
        "r2_low": np.array([[one.interval[0] for one in own] for own in scores]),
        "r2_high": np.array([[one.interval[1] for one in own] for own in scores]),
        "control": np.array(control, dtype=float),
        "r2_texts": np.array([[one.r2_texts for one in own] for own in scores]),
        "penalty": np.array(penalties, dtype=float),
        "loss": unknown,
        "loss_clean": unknown.copy(),
        "recovered": unknown.copy(),
        "seconds": np.repeat(np.array(seconds)[:, None], 2, axis=1),
    }
    return Table(axes=AXES, columns=SCORES, values=values, coordinates={"kind": list(kinds), "way": list(WAY_NAMES)})


def _with_losses(scores: Table, losses: Mapping[str, Sequence[MappedLoss]]) -> Table:
    values = dict(scores.values)
    own = [losses[kind] for kind in scores.coordinates["kind"]]
    values["loss"] = np.array([[one.loss for one in pair] for pair in own])
    values["loss_clean"] = np.array([[one.clean for one in pair] for pair in own])
    values["recovered"] = np.array([[math.nan if one.recovered is None else one.recovered for one in p] for p in own])
    return replace(scores, values=values)
