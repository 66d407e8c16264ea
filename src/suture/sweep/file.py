"""A study file: what is collected, what is trained on it, and what is varied, read from TOML and laid out as cells.

1. [collect] holds options of `suture collect` by name; [train] those of `suture train`, and the store, if it exists.
2. [sweep] names settings of those tables, `"train.k" = [16, 32]`; every combination of the values is a cell.
3. Cells with the same [collect] values share one store.

Every cell's settings are made when the file is read, so a mistake in any of them is refused before anything runs.
"""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from suture.errors import UserError
from suture.training.settings import TrainSettings

TABLES = ("collect", "train", "sweep")
SWEPT = ("collect", "train")
PER_MODEL = ("model", "at", "revision")


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """The options of `suture collect`, by name."""

    model: tuple[str, ...]
    at: tuple[str, ...]
    """One hookpoint per model; a single one serves all."""
    corpus: str
    tokens: int
    """Rows wanted."""
    revision: tuple[str, ...] = ()
    block: int = 128
    dtype: str = "bfloat16"
    lm_dtype: str = "auto"
    batch_tokens: int | None = None
    text_column: str = "text"
    separator: str = "<|endoftext|>"
    split: str = "train"
    device: str = "auto"
    offline: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("at", "revision"):
            values = getattr(self, name)
            if len(values) not in ((0, 1, len(self.model)) if name == "revision" else (1, len(self.model))):
                problem = f"has {len(values)} values for {len(self.model)} models"
                raise UserError(f"collect.{name}", list(values), problem, "give one per model, in order")
        for name in ("tokens", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"collect.{name}", getattr(self, name), "is too small", "give at least 1")
        if self.dtype not in ("bfloat16", "float32"):
            raise UserError("collect.dtype", self.dtype, "cannot be stored", "choose bfloat16 or float32")

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> "CollectSettings":
        """Settings from flat names, with underscores or dashes; what is left out has the command line's default.

        Raises:
            UserError: an unknown name, a missing one, or a value of the wrong kind.
        """
        known = {f.name: f for f in fields(CollectSettings)}
        given: dict[str, Any] = {}
        for option, value in options.items():
            name = option.replace("-", "_")
            if name not in known:
                have = ", ".join(sorted(known)).replace("_", "-")
                raise UserError(f"collect.{option}", value, "is no setting of collect", f"use {have}")
            given[name] = _of_kind(f"collect.{option}", value, name)
        for name, own in known.items():
            if own.default is MISSING and name not in given:
                raise UserError(f"collect.{name}", "nothing", "is missing", f"add {name} to [collect]")
        return CollectSettings(**given)

    @property
    def hookpoints(self) -> tuple[str, ...]:
        """One per model."""
        return self.at * len(self.model) if len(self.at) == 1 else self.at

    @property
    def revisions(self) -> tuple[str | None, ...]:
        """One per model."""
        if not self.revision:
            return (None,) * len(self.model)
        return self.revision * len(self.model) if len(self.revision) == 1 else self.revision


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
            collect=None if collect is None else CollectSettings.from_options(collect),
            store=None if store is None else Path(store),
            train=None
            if train is None
            else TrainSettings.from_options({k: v for k, v in train.items() if k != "store"}),
        )


def read_study(path: str | Path) -> Study:
    """Read a study file and check every cell of it.

    Raises:
        UserError: it cannot be read, a table or setting is unknown, missing or of the wrong kind, or what is to be
            trained has no store to be trained on.
    """
    raw = _read(Path(path))
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


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError("study", path, f"cannot be read ({problem})", "name a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError("study", path, f"is not TOML ({error})", "mend that line") from None


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


def _of_kind(setting: str, value: Any, name: str) -> Any:
    """The value as the setting holds it, which tells text from numbers from switches."""
    if name in PER_MODEL:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise UserError(setting, value, "is no list of names", "write names between quotes, in brackets")
        return tuple(values)
    kind = int if name in ("tokens", "block", "batch_tokens") else bool if _is_switch(name) else str
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", bool: "true or false", str: "text between quotes"}
        raise UserError(setting, value, f"is not {words[kind]}", f"give {words[kind]}")
    return value


def _is_switch(name: str) -> bool:
    return name in ("offline", "trust_remote_code")


def _short(value: Any) -> str:
    """A swept value in a cell's name.

    >>> _short(["mlp0.out", "mlp1.out"]), _short(0.5)
    ('mlp0.out,mlp1.out', '0.5')
    """
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
