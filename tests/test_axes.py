"""Every axis word of every shape in suture stands in the legend, and every word of the legend is used."""

import ast
import re
from pathlib import Path

import pytest

from suture import axes

SOURCE = Path(axes.__file__).parent
KINDS = re.compile(r"^(Bool|Float|Int|UInt|Num|Shaped|Real|Inexact|Integer|Complex)\d*$")


def legend() -> set[str]:
    """The words in the first column of the table."""
    first = [line.split("|")[1] for line in (axes.__doc__ or "").splitlines() if line.startswith("| `")]
    return {word for cell in first for word in re.findall(r"`([^`]+)`", cell)}


def used(file: Path) -> set[str]:
    """The axis words in the jaxtyping annotations of a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=[_, ast.Constant(value=str(shape))])):
                if KINDS.match(name):
                    found |= {word.lstrip("*#?") for word in shape.split()}
    return {word for word in found if word.isidentifier() and word != "_"}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_every_axis_word_stands_in_the_legend(file: Path) -> None:
    missing = used(file) - legend()
    assert not missing, f"{file.name} has shapes with {sorted(missing)}, which axes.py does not explain"


def test_the_legend_has_no_word_that_nothing_uses() -> None:
    unused = legend() - set().union(*(used(file) for file in SOURCE.rglob("*.py")))
    assert not unused
