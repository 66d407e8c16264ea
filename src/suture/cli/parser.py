"""From the words of a command line to a command: tyro reads them by what the command's fields declare.

A command is a frozen dataclass. Its docstring is its help; its fields are settings (`pipeline.settings`), parts of
settings, and what is the command line's own. Every setting of every part is an option under its flat name, in a group
for each class that declares some.
"""

import inspect
import io
import re
import shutil
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from suture.cli.console import emit
from suture.cli.options import Argument, Command
from suture.errors import UsageError
from suture.pipeline.settings import Setting, declared, from_flat, words_of

C = TypeVar("C", bound=Command)
RULE = re.compile(r"[╭╮╰╯│─\s-]*")
"""A line of a box without words."""


def read(command: type[C], words: Sequence[str], *, prog: str) -> C:
    """The command that the words make; `--help` prints it and leaves by SystemExit.

    Raises:
        UserError: a value that a setting refuses, or one that is missing.
        UsageError: an option that the command has not, or one without its value.
    """
    said, wrong = io.StringIO(), io.StringIO()
    try:
        with _rules(command), redirect_stdout(said), redirect_stderr(wrong):
            given = tyro.cli(
                command,
                prog=prog,
                description=_folded(inspect.getdoc(command) or ""),
                args=list(words),
                config=(tyro.conf.UseAppendAction,),
            )
    except SystemExit as end:
        if end.code:
            raise UsageError(_unboxed(wrong.getvalue()), prog) from None
        emit({}, as_json=False, text="\n".join(line.rstrip() for line in said.getvalue().strip().splitlines()))
        raise
    assert isinstance(given, dict)
    for name, setting in declared(command).items():
        if setting.default is MISSING and not setting.optional and name not in given:
            place = _argument(setting)
            raise UsageError(f"Missing argument {place.metavar}" if place else f"Missing option --{name}", prog)
    return from_flat(command, given)


def _rules(command: type) -> ConstructorRegistry:
    """How tyro takes a command apart: its own settings, then a group for every class that declares some."""
    groups: dict[type, list[Setting]] = {}
    for setting in declared(command).values():
        groups.setdefault(setting.part, []).append(setting)
    own = groups.pop(command, [])
    kinds = {type(part.__name__, (), {"__doc__": part.__doc__}): tuple(found) for part, found in groups.items()}
    titles = dict(zip(kinds, (words_of(part) for part in groups), strict=True))
    registry = ConstructorRegistry()

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is command:
            parts = [
                StructFieldSpec(
                    name=kind.__name__,
                    type=Annotated[kind, tyro.conf.arg(name=titles[kind])],  # pyright: ignore[reportArgumentType]
                    default=tyro.MISSING,
                )
                for kind in kinds
            ]
            return _struct(own, parts)
        return _struct(kinds[info.type]) if info.type in kinds else None

    registry.struct_rule(rule)
    return registry


def _struct(settings: Sequence[Setting], parts: Sequence[StructFieldSpec] = ()) -> StructConstructorSpec:
    """Options that become a dictionary of what was given, by flat name."""
    names = {setting.name.replace("-", "_"): setting for setting in settings}

    def given(**values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            if name not in names:
                found |= value
            elif value != _not_given(setting := names[name]):
                found[setting.name] = tuple(map(setting.read, value)) if setting.n_values is None else value
        return found

    fields = tuple(StructFieldSpec(name=n, type=_type(s), default=_not_given(s)) for n, s in names.items())
    return StructConstructorSpec(instantiate=given, fields=(*fields, *parts))


def _not_given(setting: Setting) -> Any:
    """What stands for an option that is not there."""
    if setting.each is bool:
        return setting.default is True
    return [] if setting.n_values is None else None


def _type(setting: Setting) -> Any:
    marks: list[Any] = [
        tyro.conf.arg(
            name=setting.name,
            aliases=[f"--{name}" for name in setting.also] or None,
            prefix_name=False,
            help=setting.sentence,
            metavar=_metavar(setting) if setting.n_values is None else None,
            help_behavior_hint=_hint(setting),
        )
    ]
    if _argument(setting) is not None:
        marks.append(tyro.conf.Positional)
    if setting.each is bool:
        kind: Any = bool
        marks += [] if setting.default is True else [tyro.conf.FlagCreatePairsOff]
    elif setting.n_values is None:
        kind = list  # of words: tyro takes a quarter longer to start where it has to look into a tuple's type
    else:
        kind = Union[None, setting.each]  # noqa: UP007 (tyro looks for Union)
        marks.append(_words(setting))
    return Annotated[(kind, *marks)]


def _folded(text: str) -> str:
    """Paragraphs as wide as the terminal, a little to the right: tyro leaves such lines as they are."""
    width = min(shutil.get_terminal_size().columns, 100)
    return "\n".join(
        textwrap.fill(part, width, initial_indent="  ", subsequent_indent="  ") for part in text.split("\n\n")
    )


def _words(setting: Setting) -> PrimitiveConstructorSpec[Any]:
    """How a value is read; a word that will not do is refused as in a file."""
    n = setting.n_values or 1
    return PrimitiveConstructorSpec(
        nargs=n,
        metavar=" ".join([_metavar(setting)] * n),
        instance_from_str=lambda words: setting.read(words[0]) if n == 1 else tuple(map(setting.read, words)),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [str(value)],
    )


def _argument(setting: Setting) -> Argument | None:
    return next((marker for marker in setting.markers if isinstance(marker, Argument)), None)


def _metavar(setting: Setting) -> str:
    if (place := _argument(setting)) is not None:
        return place.metavar
    if get_origin(setting.each) is Literal:
        return "|".join(map(str, get_args(setting.each)))
    return {int: "N", float: "X", Path: "PATH"}.get(setting.each, "TEXT")


def _hint(setting: Setting) -> str:
    """What is said after an option's sentence: its default, that it may come again, that it must be there.

    >>> from suture.training.settings import TrainSettings
    >>> [_hint(declared(TrainSettings)[name]) for name in ("k", "track", "flag", "learning-rate")]
    ['[default: 32]', '[repeatable]', '', '']
    """
    default, words = setting.default, []
    if default is MISSING:
        words = [] if setting.optional else ["required"]
    elif default not in (None, (), "") and setting.each is not bool:
        words = [f"default: {' '.join(map(str, default)) if isinstance(default, tuple) else default}"]
    words += ["repeatable"] if setting.n_values is None else []
    return f"[{'; '.join(words)}]" if words else ""


def _unboxed(text: str) -> str:
    """What tyro says in a box, on one line: what is wrong, and what was perhaps meant.

    >>> _unboxed(
    ...     " Parsing error \\n------\\n Unrecognized options: --kk \\n----\\n Perhaps you meant:\\n   --k N\\n-----"
    ... )
    'Unrecognized options: --kk. Did you mean --k?'
    """
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        words = line.strip("│ ").strip()
        if RULE.fullmatch(line):
            sections.append([])
        else:
            sections[-1].append(words)
    said = [" ".join(words) for words in sections[1:] if words]
    meant = [
        option[0] for words in said[1:] if words.startswith("Perhaps") and (option := re.findall(r"--[\w-]+", words))
    ]
    return said[0] + (f". Did you mean {meant[0]}?" if meant else "")
