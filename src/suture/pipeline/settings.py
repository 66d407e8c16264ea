"""Settings: a dataclass field declares its type, default, limits, option name and sentence once; all else reads them.

    @dataclass(frozen=True, kw_only=True)
    class Sizes:
        n_rows: Annotated[Count, Option("rows")] = 2_000_000
        \"\"\"Rows to train on in all.\"\"\"

        def __post_init__(self) -> None:
            check(self)

A field whose type is another such class is a part; the fields of all parts stand side by side under flat names, as
options (`--batch-size`), in files (`batch_size` or `batch-size`) and in messages. A file of settings imports no torch.
"""

import ast
import dataclasses
import inspect
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from itertools import pairwise
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from suture.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What a user calls a field, where that is not the field's own name."""

    name: str = ""
    also: tuple[str, ...] = ()
    """Other names for the same, `lr` for `learning-rate`."""
    raised: tuple[str, ...] = ()
    """What functions deeper down call it in their errors, where that is neither its name nor the field's."""


@dataclass(frozen=True)
class Limits:
    """Between which numbers a field, or every entry of a tuple, must lie; NaN and infinities never do."""

    least: int | float = -inf
    most: int | float = inf
    above: int | float = -inf
    below: int | float = inf
    problem: str = ""
    fix: str = ""

    def __contains__(self, value: int | float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    @property
    def words(self) -> str:
        """The range for people.

        >>> Limits(1).words, Limits(0, below=1).words, Limits(above=0).words
        ('1 or above', '0 or above and below 1', 'above 0')
        """
        parts = [] if self.least == -inf else [f"{self.least:g} or above"]
        parts += [] if self.above == -inf else [f"above {self.above:g}"]
        parts += [] if self.most == inf else [f"at most {self.most:g}"]
        parts += [] if self.below == inf else [f"below {self.below:g}"]
        return " and ".join(parts)


Count = Annotated[int, Limits(1, problem="is less than 1", fix="give a positive number")]
"""One or more."""
Share = Annotated[float, Limits(0, 1, problem="is not a share", fix="give a number from 0 to 1")]
"""From 0 to 1."""
Weight = Annotated[float, Limits(0)]
"""Nothing or more."""
Positive = Annotated[float, Limits(above=0, problem="is not positive and finite")]
"""More than nothing."""
Seed = Annotated[int, Limits(0, below=2**63, problem="is not a seed", fix="give a number from 0 to 2^63 - 1")]
"""Of random numbers."""


@dataclass(frozen=True)
class Given(Generic[T]):
    """What was given of a class of settings, to be laid over others or over their defaults; a field of commands."""

    kind: type[T]
    values: Mapping[str, Any]

    def over(self, base: T | None = None) -> T:
        """The settings.

        Raises:
            UserError: a setting without default is neither given nor in `base`, or the class refuses a value.
        """
        return from_flat(self.kind, self.values, base=base)


@dataclass(frozen=True)
class Without:
    """Names of a part's settings that its owner does not show."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One field as a user meets it."""

    name: str
    """With dashes, as an option is written."""
    also: tuple[str, ...]
    raised: tuple[str, ...]
    path: tuple[str, ...]
    """The fields that lead to it, `("design", "sparsity", "k")`."""
    part: type
    """The class that declares it."""
    kind: Any
    """Its type, without limits and names."""
    limits: tuple[Limits, ...]
    markers: tuple[Any, ...]
    """All that `Annotated` adds to its type."""
    default: Any
    """MISSING where it must be given."""
    optional: bool
    """It lies in a `Given`, so that it need not be given here."""
    sentence: str
    """The docstring under it."""

    @property
    def each(self) -> Any:
        """The type of one value: of an entry where the setting is a tuple, without None where it may be left out."""
        kind = self.kind
        if get_origin(kind) in (Union, UnionType):
            kind = next(inner for inner in get_args(kind) if inner is not NoneType)
        return get_args(kind)[0] if get_origin(kind) is tuple else kind

    @property
    def n_values(self) -> int | None:
        """How many values it holds; None for a tuple of any length."""
        kinds = (self.kind, *get_args(self.kind))
        inside = next((get_args(kind) for kind in kinds if get_origin(kind) is tuple), None)
        if inside is None:
            return 1
        return None if inside[-1] is ... else len(inside)

    def read(self, word: str) -> Any:
        """One value from a word of the command line.

        Raises:
            UserError: it is of another kind.
        """
        if self.each in (int, float):
            try:
                return self.each(word)
            except ValueError:
                pass
        return _taken(self.name, word, self.each, ())

    def taken(self, value: object) -> Any:
        """A value as its type wants it: a list as a tuple, a whole number as a float, a boolean as no number.

        Raises:
            UserError: it is of another kind, or beyond its limits.
        """
        return _taken(self.name, value, self.kind, self.limits)


@cache
def declared(kind: type) -> Mapping[str, Setting]:
    """Every setting of a class and its parts by flat name, in the order of the fields."""
    found: dict[str, Setting] = {}
    for setting in _declared(kind, (), MISSING):
        same = found.setdefault(setting.name, setting)
        assert same is setting or (setting.optional and same.kind == setting.kind), f"{setting.name} is two things"
    return found


def check(settings: Any) -> None:
    """Hold every field against its type and limits, when settings are made; a list is kept as a tuple.

    Raises:
        UserError: naming the field as the user does.
    """
    for own in dataclasses.fields(settings):
        hint = _hints(type(settings))[own.name]
        if _part(hint) is None:
            value = getattr(settings, own.name)
            kind, markers = _stripped(hint)
            kept = _taken(_name_of(own.name, markers), value, kind, _of(Limits, markers))
            object.__setattr__(settings, own.name, kept)


def from_flat(kind: type[T], given: Mapping[str, Any], *, base: T | None = None, where: str = "") -> T:
    """Settings from flat names, with dashes or underscores; what is left out is as in `base`, or has its default.

    Args:
        kind: the class of settings.
        given: flat names to values, as a TOML table holds them.
        base: settings of which only the given ones are replaced.
        where: what errors put before a setting's name, `"collect."`.

    Raises:
        UserError: an unknown name, one given twice, a missing one, or a value that its class refuses.
    """
    known = declared(kind)
    names = {name: s for s in known.values() for name in (s.name, *s.also)}
    places = {s.name: [] for s in known.values()}
    for setting in _declared(kind, (), MISSING):
        places[setting.name].append(setting.path)
    values: dict[tuple[str, ...], Any] = {}
    try:
        for written, value in given.items():
            name = written.replace("_", "-")
            if name not in names:
                raise UserError(name, value, f"is no setting of {words_of(kind)}", f"use {', '.join(sorted(known))}")
            if names[name].path in values:
                raise UserError(name, value, "is given twice", "leave one out")
            values |= dict.fromkeys(places[names[name].name], names[name].taken(value))
        if base is None:
            for name, setting in known.items():
                if setting.default is MISSING and setting.path not in values and not setting.optional:
                    raise UserError(name, "nothing", "is missing", f"add {name}")
        return _made(kind, (), values, base)
    except UserError as error:
        if not where:
            raise
        raise UserError(where + error.setting, error.value, error.problem, error.fix) from None


def to_flat(settings: Any) -> dict[str, Any]:
    """Every setting's value by flat name."""
    return {name: _at(settings, setting.path) for name, setting in declared(type(settings)).items()}


def from_mapping(kind: type[T], mapping: Mapping[str, Any]) -> T:
    """Settings from what `to_mapping` made of them, as a manifest holds it; what is left out has its default.

    Raises:
        UserError: a name that is not known, or a value that its class refuses.
    """
    flat: dict[str, Any] = {}
    names = {setting.path: name for name, setting in declared(kind).items()}
    for path, value in _leaves(mapping, (), names.keys()):
        if path not in names:
            raise UserError(".".join(path), value, f"is no setting of {words_of(kind)}", "another version wrote it")
        flat[names[path]] = value
    return from_flat(kind, flat)


def to_mapping(settings: Any) -> dict[str, Any]:
    """Settings as nested plain values that JSON can hold."""
    return msgspec.to_builtins(settings, enc_hook=str)


def diff(one: T, other: T) -> dict[str, tuple[Any, Any]]:
    """What differs between two settings of one class, by flat name: (in one, in the other)."""
    before, after = to_flat(one), to_flat(other)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def name_of(kind: type, raised: str) -> str:
    """What a user calls the setting that an error names as a function does: `n_rows` is `rows`.

    A name that is none of the class's settings stays as it is.
    """
    name = raised.replace("_", "-")
    if name not in declared(kind):
        for setting in declared(kind).values():
            if raised in (setting.path[-1], *setting.raised):
                return setting.name
    return name


def words_of(kind: type) -> str:
    """What a class of settings is called in a message.

    >>> class CollectSettings: ...
    >>> words_of(CollectSettings)
    'collect'
    """
    return kind.__name__.removesuffix("Settings").lower()


def read_toml(file: str | Path, setting: str) -> dict[str, Any]:
    """The tables of a TOML file, which the user named by `setting`.

    Raises:
        UserError: it is missing, or no TOML.
    """
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(setting, file, f"cannot be read ({problem})", "name a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(setting, file, f"is not TOML ({error})", "mend that line") from None


@cache
def sentences(kind: type) -> Mapping[str, str]:
    """The docstring under each field of a class, on one line."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(ancestor):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(ancestor))).body
        assert isinstance(tree, ast.ClassDef)
        for node, after in pairwise(tree.body):
            match node, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _declared(kind: type, path: tuple[str, ...], made: Any, *, optional: bool = False) -> Iterator[Setting]:
    """`made` is the part's default, where what holds it has one."""
    for own in dataclasses.fields(kind):
        hint, place = _hints(kind)[own.name], (*path, own.name)
        default = getattr(made, own.name) if made is not MISSING else _default(own)
        if (part := _part(hint)) is not None:
            hidden = {name for without in _of(Without, _stripped(hint)[1]) for name in without.names}
            given = _is_given(hint)
            parts = _declared(part, place, MISSING if given else default, optional=optional or given)
            yield from (setting for setting in parts if setting.name not in hidden)
            continue
        stripped, markers = _stripped(hint)
        options = _of(Option, markers)
        yield Setting(
            name=_name_of(own.name, markers),
            also=tuple(name for option in options for name in option.also),
            raised=tuple(name for option in options for name in option.raised),
            path=place,
            part=kind,
            kind=stripped,
            limits=_of(Limits, markers),
            markers=markers,
            default=default,
            optional=optional,
            sentence=sentences(kind).get(own.name, ""),
        )


def _default(own: Any) -> Any:
    return own.default if own.default_factory is MISSING else own.default_factory()


def _made(kind: type[T], path: tuple[str, ...], values: Mapping[tuple[str, ...], Any], base: T | None) -> T:
    given: dict[str, Any] = {}
    for own in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        place = (*path, own.name)
        part = _part(_hints(kind)[own.name])
        if part is None and place in values:
            given[own.name] = values[place]
        elif part is not None and _is_given(_hints(kind)[own.name]):
            below = {setting.path: name for name, setting in declared(part).items()}
            inside = {below[key[len(place) :]]: v for key, v in values.items() if key[: len(place)] == place}
            given[own.name] = Given(part, inside)
        elif part is not None and any(key[: len(place)] == place for key in values):
            default = _default(own) if base is None else getattr(base, own.name)
            given[own.name] = _made(part, place, values, None if default is MISSING else default)
    return kind(**given) if base is None else dataclasses.replace(base, **given)  # pyright: ignore[reportArgumentType]


def _leaves(mapping: Mapping[str, Any], path: tuple[str, ...], known: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in mapping.items():
        place = (*path, name)
        if isinstance(value, Mapping) and place not in known:
            yield from _leaves(value, place, known)
        else:
            yield place, value


def _at(settings: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        settings = getattr(settings, name)
    return settings


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _part(hint: Any) -> type | None:
    kind, _ = _stripped(hint)
    kind = get_args(kind)[0] if _is_given(hint) else kind
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _is_given(hint: Any) -> bool:
    return get_origin(_stripped(hint)[0]) is Given


@cache
def _stripped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without what `Annotated` adds to it, and what that was, at whatever depth."""
    if get_origin(hint) is Annotated:
        kind, markers = _stripped(hint.__origin__)
        return kind, (*markers, *hint.__metadata__)
    if get_origin(hint) in (Union, UnionType, tuple):
        parts = [_stripped(inner) for inner in get_args(hint)]
        markers = tuple(marker for _, own in parts for marker in own)
        kinds = tuple(kind for kind, _ in parts)
        return (tuple[kinds] if get_origin(hint) is tuple else Union[kinds]), markers  # noqa: UP007
    return hint, ()


def _of(kind: type[T], markers: tuple[Any, ...]) -> tuple[T, ...]:
    return tuple(marker for marker in markers if isinstance(marker, kind))


def _name_of(field: str, markers: tuple[Any, ...]) -> str:
    names = [option.name for option in _of(Option, markers) if option.name]
    return (names[-1] if names else field).replace("_", "-")


def _taken(name: str, value: object, kind: Any, limits: tuple[Limits, ...]) -> Any:
    try:
        kept = msgspec.convert(value, kind, dec_hook=_path)
    except msgspec.ValidationError:
        words = kind_in_words(kind)
        raise UserError(name, value, f"is not {words}", f"give {words}") from None
    for own in limits:
        for number in kept if isinstance(kept, tuple) else (kept,):
            if number is not None and number not in own:
                raise UserError(
                    name, kept, own.problem or f"is not {own.words}", own.fix or f"give a number {own.words}"
                )
    return kept


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError


def kind_in_words(kind: Any) -> str:
    """What a type of value is called, in a message.

    >>> kind_in_words(int | None), kind_in_words(tuple[float, ...]), kind_in_words(Literal["a", "b"])
    ('a whole number', 'a list, each a number', 'one of a, b')
    """
    if get_origin(kind) in (Union, UnionType):
        return kind_in_words(next(inner for inner in get_args(kind) if inner is not NoneType))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a list, each {kind_in_words(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a name", Path: "a path"}[kind]
