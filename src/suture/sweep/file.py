"""A study file: what is collected, what is trained on it, and what is varied, read from TOML and laid out as cells.

1. [collect] holds options of `suture collect` by name; [train] those of `suture train`, and the store, if it exists;
   [features] those of `suture features`. With [match], options of `suture match`, a cell is not one dictionary of all
   its spaces but one of each of two, matched; [import] in place of [train] names the two, made by others.
2. [sweep] names settings of those tables, `"train.k" = [16, 32]`; every combination of the values is a cell, less those
   that an entry of `exclude` matches.
3. `at` may hold several hookpoints for each model, in a list of their own, and patterns: `resid*.post`, `mlp[0-3].out`,
   counted out by each model's configuration. Every hookpoint of one model with every one of the others is a cell;
   with `pairs = "same"` only those of one name.
4. Cells that differ in their hookpoints alone share one store, which holds all of them; each trains on a view of it.
5. A file's name may be that of a preset, which comes with suture.

Every cell's settings are made when the file is read, so a mistake in any of them is refused before anything runs.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from suture.activations.settings import CollectSettings
from suture.errors import UserError
from suture.features.settings import FeatureSettings
from suture.formats.settings import ImportSettings
from suture.lm.hookpoints import expand
from suture.lm.load import layers_of
from suture.matching.settings import MatchSettings
from suture.pipeline.settings import from_flat, read_toml
from suture.training.settings import TrainSettings

TABLES = ("collect", "train", "import", "features", "match", "sweep")
SWEPT = ("collect", "train", "features", "match")
PRESETS = files("suture.sweep") / "presets"
PER_MODEL = ("model", "at", "revision")
"""Settings of [collect] that may be a single name."""
PAIRS, EXCLUDE = "pairs", "exclude"
"""What [sweep] holds besides the settings that it varies."""
IMPORTED = ("source", "file", "format", "revision", "scale")
"""What [import] takes: a value for both models, or a list with one for each."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A dictionary that another library made."""

    source: str
    """A folder or a hub repository."""
    settings: ImportSettings


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of settings: at most one store to collect and one dictionary to train on it."""

    name: str
    """What sets it apart, `train.k=16 train.seed=0`; empty where nothing is varied."""
    collect: CollectSettings | None
    """Of the store, with the hookpoints of all cells that share it; None where it exists."""
    store: Path | None
    train: TrainSettings | None
    features: FeatureSettings = field(default_factory=FeatureSettings)
    match: MatchSettings | None = None
    """How its two dictionaries are matched; None where it has one, which is described."""
    imports: tuple[Imported, ...] = ()
    """Its dictionaries, where they are imported and not trained."""
    at: tuple[str, ...] = ()
    """Its own hookpoint in each model."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """The values that it has of what is varied, hookpoints apart."""

    def trainings(self) -> tuple[TrainSettings, ...]:
        """What it trains: one dictionary, or, where two are matched, one of each of its two spaces."""
        if self.train is None or self.match is None:
            return () if self.train is None else (self.train,)
        own = self.train.of_one_space(least_heldout=0.0)
        spaces = self.train.view.spaces or (0, 1)
        return tuple(replace(own, view=replace(own.view, spaces=(space,))) for space in spaces)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The tables of a study file."""

    collect: Mapping[str, Any] | None = None
    train: Mapping[str, Any] | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    imported: Mapping[str, Any] | None = None
    match: Mapping[str, Any] | None = None
    sweep: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Setting, `train.k`, to the values it takes; the last varies fastest."""
    same_hookpoint: bool = False
    """Only hookpoints of one name are paired."""
    exclude: Sequence[Mapping[str, Any]] = ()
    """Combinations left out: those in which every setting named has the value named, or one of them."""

    def cells(self) -> tuple[Cell, ...]:
        """Every combination, in the order of the file.

        Raises:
            UserError: settings that a stage refuses; a pattern that a model has no layers for; nothing is left.
        """
        every = [
            cell
            for values in itertools.product(*self.sweep.values())
            for cell in self._cells(dict(zip(self.sweep, values, strict=True)))
        ]
        if not every:
            raise UserError("sweep.exclude", list(self.exclude), "leaves no cell", "exclude less")
        return tuple(_with_one_store(every))

    def _cells(self, chosen: Mapping[str, Any]) -> list[Cell]:
        """Those of one choice of values: one for each choice of hookpoints."""
        tables = {"collect": self.collect, "train": self.train, "features": self.features, "match": self.match}
        for key, value in chosen.items():
            table, _, name = key.partition(".")
            own = {n: v for n, v in (tables[table] or {}).items() if n.replace("-", "_") != name.replace("-", "_")}
            tables[table] = own | {name: value}
        collect, train = tables["collect"], tables["train"]
        store = None if train is None else train.get("store")
        if store is not None and not isinstance(store, str):
            raise UserError("train.store", store, "is no path", "write it between quotes")
        cells = []
        for at in [()] if collect is None else self._choices(collect):
            if any(_matches(entry, chosen, at) for entry in self.exclude):
                continue
            varied = {key: value for key, value in chosen.items() if key != "collect.at"}
            several = collect is not None and ("collect.at" in chosen or len(self._choices(collect)) > 1)
            cell = Cell(
                name=" ".join(
                    [f"{k}={_short(v)}" for k, v in varied.items()] + ([f"at={','.join(at)}"] if several else [])
                ),
                collect=None if collect is None else _collect(collect, at),
                store=None if store is None else Path(store),
                train=None
                if train is None
                else from_flat(TrainSettings, {k: v for k, v in train.items() if k != "store"}),
                features=from_flat(FeatureSettings, tables["features"] or {}, where="features."),
                match=None if tables["match"] is None else from_flat(MatchSettings, tables["match"], where="match."),
                imports=self._imports(collect, at),
                at=at,
                chosen=varied,
            )
            cells.append(cell)
        return cells

    def _imports(self, collect: Mapping[str, Any] | None, at: tuple[str, ...]) -> tuple[Imported, ...]:
        """[import] for these hookpoints; `{layer}` in a file's name is the number of the block."""
        if self.imported is None or collect is None:
            return ()
        for name in self.imported:
            if name not in IMPORTED:
                raise UserError(
                    f"import.{name}", self.imported[name], "is not known here", f"use {', '.join(IMPORTED)}"
                )
        models = _list(collect.get("model", ()))
        found = []
        for m, hookpoint in enumerate(at):
            given = {name: _each(name, value, len(at))[m] for name, value in self.imported.items()}
            if not isinstance(given.get("source"), str):
                raise UserError("import.source", given.get("source"), "is missing", "name a folder or hub repository")
            layer = re.search(r"\d+", hookpoint)
            if isinstance(given.get("file"), str):
                given["file"] = given["file"].replace("{layer}", layer.group() if layer else "")
            own = {k: v for k, v in given.items() if k != "source"} | {"model": [models[m]], "at": [hookpoint]}
            own |= {"scale": [own["scale"]]} if "scale" in own else {}
            own |= {"offline": True} if collect.get("offline") else {}
            found.append(Imported(source=given["source"], settings=from_flat(ImportSettings, own, where="import.")))
        return tuple(found)

    def _choices(self, collect: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """3: one hookpoint for each model."""
        models, at = _list(collect.get("model", ())), _list(collect.get("at", ()))
        if not models or not at or not all(isinstance(model, str) for model in models):
            return [tuple(map(str, at))]  # refused when the settings are made
        each = at * len(models) if len(at) == 1 else at
        if len(each) != len(models):
            return [tuple(map(str, each))]
        options = [self._expanded(model, own, collect) for model, own in zip(models, each, strict=True)]
        return [c for c in itertools.product(*options) if not self.same_hookpoint or len(set(c)) == 1]

    def _expanded(self, model: str, own: Any, collect: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        for pattern in _list(own):
            if not isinstance(pattern, str):
                raise UserError("collect.at", own, "is no hookpoint", 'write names between quotes, "mlp0.out"')
            has_layers = "*" in pattern or "[" in pattern
            found += expand(pattern, _layers(model, bool(collect.get("offline"))) if has_layers else 0)
        return tuple(dict.fromkeys(found))


@cache
def _layers(model: str, offline: bool) -> int:  # noqa: FBT001
    return layers_of(model, offline=offline)


def read_study(path: str | Path) -> Study:
    """Read a study file and check every cell of it.

    Raises:
        UserError: it cannot be read, a table or setting is unknown, missing or of the wrong kind, or what is to be
            trained has no store to be trained on.
    """
    raw = read_toml(preset(path), "study")
    for name, value in raw.items():
        if name not in TABLES:
            raise UserError(name, value, "is no table of a study", f"use {', '.join(f'[{t}]' for t in TABLES)}")
        if not isinstance(value, dict):
            raise UserError(name, value, "is no table", f"write [{name}] and its settings below it")
    sweep = dict(raw.get("sweep", {}))
    study = Study(
        same_hookpoint=_pairs(sweep.pop(PAIRS, "all")) == "same",
        exclude=_excluded(sweep.pop(EXCLUDE, [])),
        collect=raw.get("collect"),
        train=raw.get("train"),
        features=raw.get("features", {}),
        imported=raw.get("import"),
        match=raw.get("match"),
        sweep=_sweep(sweep),
    )
    _check_matched(study)
    if study.collect is None and study.train is None:
        raise UserError("study", path, "asks for nothing", "add a [collect] or a [train] table")
    for table in {key.partition(".")[0] for key in study.sweep} - {"features"}:
        if raw.get(table) is None:
            raise UserError("sweep", table, "has no table to vary", f"add a [{table}] table")
    for cell in study.cells():
        if cell.train is not None and (cell.collect is None) == (cell.store is None):
            problem = "and [collect] are both given" if cell.store else "is missing, and so is [collect]"
            raise UserError("train.store", cell.store or "nothing", problem, "give one of them: the rows to train on")
    return study


def presets() -> tuple[str, ...]:
    """The names of the studies that come with suture."""
    return tuple(sorted(file.name.removesuffix(".toml") for file in PRESETS.iterdir() if file.name.endswith(".toml")))


def preset(path: str | Path) -> Path:
    """5: the file of a preset, where `path` is the name of one and no file; `path` itself otherwise.

    Raises:
        UserError: it is no file and looks like a name, but is no preset's.
    """
    path = Path(path)
    if path.is_file() or len(path.parts) != 1 or path.suffix:
        return path
    if path.name not in presets():
        fix = f"name a TOML file, or one of {', '.join(presets())}"
        raise UserError("study", path, "is no file and no preset", fix)
    return Path(str(PRESETS / f"{path.name}.toml"))


def _check_matched(study: Study) -> None:
    """Raise UserError for tables that do not go together."""
    if study.imported is not None:
        if study.match is None:
            raise UserError("import", "", "has no table [match]", "add one: imported dictionaries are matched")
        if study.train is not None:
            raise UserError("import", "", "and [train] are both given", "give one of them: where dictionaries are from")
        if study.collect is None:
            raise UserError("import", "", "has no table [collect]", "add one: the text on which they are matched")
    if study.match is None:
        return
    if study.features:
        raise UserError("features", "", "has no place beside [match]", "leave it out: what is matched is not described")
    if study.train is None and study.imported is None:
        raise UserError("match", "", "has no dictionaries", "add a [train] or an [import] table")
    for cell in study.cells():
        n = len(cell.at) or len(cell.train.view.spaces if cell.train else ()) or 2
        if n != 2:
            raise UserError("collect.model", n, "is not two models", "match two at a time")


def _each(name: str, value: Any, n: int) -> list[Any]:
    """One value for each of n models.

    Raises:
        UserError: a list of another length.
    """
    each = _list(value) if isinstance(value, list | tuple) else [value] * n
    if len(each) != n:
        raise UserError(f"import.{name}", value, f"has {len(each)} entries for {n} models", "give one, or one for each")
    return each


def _with_one_store(cells: Sequence[Cell]) -> list[Cell]:
    """4: cells that collect the same but for their hookpoints get one collection, and a view of it."""
    places: dict[Any, dict[tuple[str, str], None]] = {}
    for cell in cells:
        if cell.collect is not None:
            known = places.setdefault(_apart_from_at(cell.collect), {})
            known |= dict.fromkeys(zip(cell.collect.models.model, cell.at, strict=True))
    found = []
    for cell in cells:
        if cell.collect is None:
            found.append(cell)
            continue
        spaces = list(places[_apart_from_at(cell.collect)])
        own = tuple(spaces.index(place) for place in zip(cell.collect.models.model, cell.at, strict=True))
        if len(spaces) == len(cell.at):
            found.append(cell)
            continue
        revision = dict(zip(cell.collect.models.model, cell.collect.models.revisions, strict=True))
        given = {"model": tuple(model for model, _ in spaces), "at": tuple(at for _, at in spaces)}
        if cell.collect.models.load.revision:
            given["revision"] = tuple(revision[model] or "" for model, _ in spaces)
        train = cell.train
        if train is not None:
            if train.view.spaces:
                fix = "leave it out: each cell has its own spaces"
                raise UserError("train.space", list(train.view.spaces), "is for a store of one cell", fix)
            train = replace(train, view=replace(train.view, spaces=own))
        found.append(replace(cell, collect=from_flat(CollectSettings, given, base=cell.collect), train=train))
    return found


def _apart_from_at(settings: CollectSettings) -> CollectSettings:
    return from_flat(CollectSettings, {"at": ("-",)}, base=settings)


def _matches(entry: Mapping[str, Any], chosen: Mapping[str, Any], at: tuple[str, ...]) -> bool:
    """Whether a combination is one that an entry of `exclude` leaves out."""
    for key, value in entry.items():
        if key == "at":
            patterns = _list(value) * len(at) if len(_list(value)) == 1 else _list(value)
            if len(patterns) != len(at) or not all(map(fnmatchcase, at, patterns)):
                return False
        elif key not in chosen:
            raise UserError("sweep.exclude", key, "is not varied", "name a setting of [sweep], or at")
        elif chosen[key] not in _list(value) and chosen[key] != value:
            return False
    return True


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _collect(table: Mapping[str, Any], at: tuple[str, ...]) -> CollectSettings:
    """[collect] with these hookpoints, where one name stands for a list of one."""
    lists = {name: _list(value) if name in PER_MODEL else value for name, value in table.items()}
    return from_flat(CollectSettings, lists | ({"at": list(at)} if "at" in table else {}), where="collect.")


def _pairs(value: Any) -> str:
    if value not in ("all", "same"):
        raise UserError("sweep.pairs", value, "is no way to pair hookpoints", 'write "all" or "same"')
    return value


def _excluded(entries: Any) -> list[dict[str, Any]]:
    """Entries with flat names; TOML reads `{train.k = 2}` as a table in a table."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError("sweep.exclude", entries, "is no list of tables", 'write exclude = [{"train.k" = 16}]')
    return [_flat(entry) for entry in entries]


def _flat(raw: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _sweep(raw: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Flat names to values; TOML reads `train.k` without quotes as a table in a table, which means the same."""
    flat = _flat(raw)
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
