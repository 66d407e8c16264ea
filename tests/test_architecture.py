"""The house stands: imports point down, each heavy library has one door, nothing loads torch before it is needed."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "suture"

FLOORS = {
    "errors": 0, "axes": 0, "seeds": 0, "units": 0, "labels": 0,
    "pipeline": 1, "parallel": 1, "uncertainty": 1,
    "lm": 2,
    "activations": 3,
    "dictionary": 4,
    "training": 5, "features": 5, "planted": 5, "matching": 5, "bridges": 5, "formats": 5,
    "interventions": 6, "stitching": 6, "naming": 6,
    "report": 7, "estimate": 7, "sweep": 7,
    "studies": 8, "play": 8,
    "cli": 9, "__init__": 9, "__main__": 9,
}  # fmt: skip
"""A file imports from lower floors, or from its own room."""

SAME_FLOOR = {("estimate", "sweep"), ("features", "training"), ("__main__", "cli")}
"""What is left of the first drawing, to go with the doors."""

DOORS = {
    "transformers": {"lm"},
    "tokenizers": {"lm"},
    "datasets": {"lm"},
    "huggingface_hub": {"lm"},
    "pyarrow": {"lm"},
    "plotly": {"report"},
    "umap": {"matching"},
    "tyro": {"cli"},
    "msgspec": {"pipeline"},
    "lazy_loader": {"__init__"},
    "rich": {"cli"},
    "torch.distributed": {"parallel"},
    "triton": {"dictionary"},
    "ray": {"sweep"},
    "starlette": {"play"},
    "uvicorn": {"play"},
    "pickle": set(),
}
"""Which rooms may import a library."""


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(file: Path) -> str:
    """The folder below src/suture that a file is in, or its own name."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def imports(file: Path) -> list[tuple[str, bool, bool]]:
    """(module, inside a function, for type checking only) of every import."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return list(_imports(tree, inside=False, typing=False))


def _imports(node: ast.AST, *, inside: bool, typing: bool) -> Iterator[tuple[str, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            assert child.module is not None
            yield child.module, inside, typing
            if child.module == "suture":
                yield from ((f"suture.{alias.name}", inside, typing) for alias in child.names)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        only_typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        yield from _imports(child, inside=inside or is_function, typing=typing or only_typing)


def test_every_file_is_on_a_floor() -> None:
    assert {room(f) for f in files()} <= FLOORS.keys()


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_point_down(file: Path) -> None:
    own = room(file)
    for module, _, _ in imports(file):
        if not module.startswith("suture."):
            continue
        target = module.split(".")[1]
        allowed = target == own or FLOORS[target] < FLOORS[own] or (own, target) in SAME_FLOOR
        assert allowed, f"{file.name} on floor {FLOORS[own]} imports {module} on floor {FLOORS[target]}"


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(SOURCE)))
def test_heavy_libraries_have_one_door(file: Path) -> None:
    for module, _, _ in imports(file):
        for library, rooms in DOORS.items():
            if module == library or module.startswith(library + "."):
                assert room(file) in rooms, f"{file.name} imports {module}"


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(SOURCE)))
def test_only_the_command_line_imports_inside_functions(file: Path) -> None:
    if room(file) not in ("cli", "__init__", "__main__"):
        assert not [module for module, inside, _ in imports(file) if inside]


def test_there_are_no_rings_of_files() -> None:
    names = {"suture." + ".".join(f.relative_to(SOURCE).with_suffix("").parts): f for f in files()}
    graph = {n: {m for m, _, typing in imports(f) if m in names and not typing} for n, f in names.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("command", ["import suture", "import suture.cli.app", "from suture.__main__ import main"])
def test_importing_suture_loads_nothing_heavy(command: str) -> None:
    heavy = "torch transformers datasets plotly scipy sklearn numpy"
    code = f"import sys; {command}; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['suture', '--help']\n"
        "try:\n    runpy.run_module('suture', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    for step in ("demo", "collect", "train", "estimate", "features", "steer", "report", "study"):
        assert step in done.stdout


def test_every_public_name_exists() -> None:
    import suture

    for name in suture.__all__:
        assert getattr(suture, name) is not None
    with pytest.raises(AttributeError, match=r"attribute '?nothing"):
        _ = suture.nothing


def test_public_names_stay_functions_when_folders_of_the_same_name_are_loaded() -> None:
    code = (
        "import suture, suture.features.describe, suture.report.page; from suture.features.table import FeatureTable\n"
        "from suture import features, report\n"
        "assert callable(suture.features) and callable(suture.report) and callable(features) and callable(report)\n"
        "assert suture.features is features and suture.FeatureTable is FeatureTable"
    )
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=True)


def test_the_readme_names_every_file() -> None:
    """Its file table is the architecture: one line per file, the sentence the module's docstring begins with."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in files():
        if file.name == "__init__.py" and file.parent != SOURCE:
            continue
        name = file.relative_to(SOURCE).as_posix()
        assert f"`{name}`" in readme, f"README's file table lacks {name}"


def test_modules_say_in_one_sentence_what_they_do() -> None:
    for file in files():
        text = file.read_text(encoding="utf-8")
        if text.strip():
            docstring = ast.get_docstring(ast.parse(text))
            assert docstring, f"{file} has no docstring"
            assert re.match(r".+[.:|]", docstring.splitlines()[0]), f"{file}: {docstring.splitlines()[0]}"


def test_nothing_is_left_undone() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    for file in files():
        assert not marks.search(file.read_text(encoding="utf-8")), file


def test_no_pickle_is_ever_written_or_read() -> None:
    for file in files():
        text = file.read_text(encoding="utf-8")
        if room(file) != "formats":  # some libraries read nothing else; tensors alone go into it
            assert "torch.save(" not in text
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call
            assert room(file) == "formats"
