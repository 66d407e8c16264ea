"""Write docs/settings.md: every setting of every command, as its class declares it."""

from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Literal, get_args, get_origin

from suture.cli.app import COMMANDS
from suture.cli.options import Argument
from suture.pipeline.settings import Setting, declared, kind_in_words

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Every setting of every command: its option on the command line, its key in a study file (`[collect]` and `[train]`, with
`-` or `_`), and the field of the class that declares it. This page is written from those classes by
`scripts/write_settings.py`; a test holds it against them.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(part for kind, users in classes() for part in section(kind, users))])


def classes() -> Iterator[tuple[type, list[str]]]:
    """Every class that declares settings, with the commands that have them."""
    users: dict[type, list[str]] = {}
    for name, command in COMMANDS.items():
        for kind in dict.fromkeys(setting.part for setting in declared(command).values()):
            users.setdefault(kind, []).append(name)
    yield from users.items()


def section(kind: type, users: list[str]) -> Iterator[str]:
    """A class: what it is, where it is used, its settings."""
    if kind in COMMANDS.values():
        yield f"## `suture {users[0]}`\n"
    else:
        yield f"## {kind.__name__}\n"
        yield f"{(kind.__doc__ or '').splitlines()[0]} Of {', '.join(f'`suture {user}`' for user in users)}.\n"
    yield table(kind)


def table(kind: type) -> str:
    """The settings that a class declares itself."""
    rows = ["| setting | takes | default | |", "|---|---|---|---|"]
    rows += [row(setting) for setting in declared(kind).values() if setting.part is kind]
    return "\n".join(rows) + "\n"


def row(setting: Setting) -> str:
    """One setting."""
    place = next((marker for marker in setting.markers if isinstance(marker, Argument)), None)
    name = place.metavar if place else ", ".join((setting.name, *setting.also))
    default = "" if setting.default in (None, (), MISSING) else _plain(setting.default)
    default = "required" if setting.default is MISSING and not setting.optional else default
    return f"| `{name}` | {takes(setting)} | {default} | {_cell(setting.sentence)} |"


def takes(setting: Setting) -> str:
    """What values it takes, in words.

    >>> takes(declared(COMMANDS["train"])["k"])
    'a whole number, 1 or above'
    """
    words = kind_in_words(setting.kind)
    if get_origin(setting.each) is Literal:
        words = ", ".join(f"`{choice}`" for choice in get_args(setting.each))
        words = f"a list of {words}" if setting.n_values is None else words
    return _cell(", ".join([words, *(limit.words for limit in setting.limits)]))


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"`{_cell(_words(value))}`"


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
