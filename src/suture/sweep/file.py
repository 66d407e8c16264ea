"""A study file: what is collected, what is trained on it, and what is varied, read from TOML and laid out as cells.

1. [collect] holds options of `suture collect` by name; [train] those of `suture train`, and the store, if it exists.
2. [sweep] names settings of those tables, `"train.k" = [16, 32]`; every combination of the values is a cell.
3. Cells with the same [collect] values share one store.

Every cell's settings are made when the file is read, so a mistake in any of them is refused before anything runs.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.activations.settings import CollectSettings
from suture.errors import UserError
from suture.pipeline.settings import from_flat, read_toml
from suture.training.settings import TrainSettings

TABLES = ("collect", "train", "sweep")
SWEPT = ("collect", "train")
PER_MODEL = ("model", "at", "revision")
"""Settings of [collect] that may be a single name."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of settings: at most one store to collect and one dictionary to train on it."""

    name: str
    """What sets it apart, `train.k=16 train.seed=0`; empty where nothing is varied."""
    collect: CollectSettings | None
    """None where the store exists."""
    store: Path | None
    train: TrainSettings | None


@dataclass(frozen=True, kw_only=True)
class Study:
    """The tables of a study file."""

    collect: Mapping[str, Any] | None = None
    train: Mapping[str, Any] | None = None
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Setting, `train.k`, to the values it takes; the last varies fastest."""

    def cells(self) -> tuple[Cell, ...]:
        """Every combination, in the order of the file.

        Raises:
            UserError: settings that a step refuses.
        """
        return tuple(
            self._cell(dict(zip(self.sweep, values, strict=True))) for values in itertools.product(*self.sweep.values())
        )

    def _cell(self, chosen: Mapping[str, Any]) -> Cell:
        tables = {"collect": self.collect, "train": self.train}
        for key, value in chosen.items():
            table, _, name = key.partition(".")
            own = {n: v for n, v in (tables[table] or {}).items() if n.replace("-", "_") != name.replace("-", "_")}
            tables[table] = own | {name: value}
        collect, train = tables["collect"], tables["train"]
        store = None if train is None else train.get("store")
        if store is not None and not isinstance(store, str):
            raise UserError("train.store", store, "is no path", "write it between quotes")
        return Cell(
            name=" ".join(f"{key}={_short(value)}" for key, value in chosen.items()),
            collect=None if collect is None else _collect(collect),
            store=None if store is None else Path(store),
            train=None if train is None else from_flat(TrainSettings, {k: v for k, v in train.items() if k != "store"}),
        )


def read_study(path: str | Path) -> Study:
    """Read a study file and check every cell of it.

    Raises:
        UserError: it cannot be read, a table or setting is unknown, missing or of the wrong kind, or what is to be
            trained has no store to be trained on.
    """
    raw = read_toml(path, "study")
    for name, value in raw.items():
        if name not in TABLES:
            raise UserError(name, value, "is no table of a study", "use [collect], [train] and [sweep]")
        if not isinstance(value, dict):
            raise UserError(name, value, "is no table", f"write [{name}] and its settings below it")
    study = Study(collect=raw.get("collect"), train=raw.get("train"), sweep=_sweep(raw.get("sweep", {})))
    if study.collect is None and study.train is None:
        raise UserError("study", path, "asks for nothing", "add a [collect] or a [train] table")
    for table in {key.partition(".")[0] for key in study.sweep}:
        if raw.get(table) is None:
            raise UserError("sweep", table, "has no table to vary", f"add a [{table}] table")
    for cell in study.cells():
        if cell.train is not None and (cell.collect is None) == (cell.store is None):
            problem = "and [collect] are both given" if cell.store else "is missing, and so is [collect]"
            raise UserError("train.store", cell.store or "nothing", problem, "give one of them: the rows to train on")
    return study


def _collect(table: Mapping[str, Any]) -> CollectSettings:
    """[collect], where one name stands for a list of one."""
    lists = {name: [value] if name in PER_MODEL and isinstance(value, str) else value for name, value in table.items()}
    return from_flat(CollectSettings, lists, where="collect.")


def _sweep(raw: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Flat names to values; TOML reads `train.k` without quotes as a table in a table, which means the same."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    for key, values in flat.items():
        table, _, name = key.partition(".")
        if table not in SWEPT or not name:
            raise UserError(f"sweep.{key}", values, "names no setting", 'write "train.NAME" or "collect.NAME"')
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep.{key}", values, "is no list of values", f'write "{key}" = [first, second]')
    return flat


def _short(value: Any) -> str:
    """A swept value in a cell's name.

    >>> _short(["mlp0.out", "mlp1.out"]), _short(0.5)
    ('mlp0.out,mlp1.out', '0.5')
    """
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
