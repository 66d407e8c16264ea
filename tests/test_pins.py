"""What was tested is written down: every direct dependency has a pin, within the range that pyproject.toml states."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def direct() -> list[Requirement]:
    """Of the package and all its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def pins(file: str) -> dict[str, list[str]]:
    """Name to versions; several where platforms or Pythons differ."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if requirement := line.partition("#")[0].strip():
            pin = Requirement(requirement)
            (specifier,) = pin.specifier
            assert specifier.operator == "==", f"{file}: {line} is no pin"
            found.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    return found


@pytest.mark.parametrize("needed", direct(), ids=lambda requirement: requirement.name)
def test_a_direct_dependency_is_pinned_within_its_range(needed: Requirement) -> None:
    versions = pins("constraints.txt").get(canonicalize_name(needed.name), [])
    assert versions, f"{needed.name} is not in constraints.txt: run make pins"
    assert all(needed.specifier.contains(version) for version in versions), f"{needed} is pinned to {versions}"


@pytest.mark.parametrize("needed", direct(), ids=lambda requirement: requirement.name)
def test_a_direct_dependency_states_a_lower_bound(needed: Requirement) -> None:
    """Which `make test-lowest` tries; without one it would try the oldest release there is."""
    assert any(specifier.operator in {">=", "==", "~="} for specifier in needed.specifier)


def test_the_pins_are_built_on_the_torch_that_was_chosen() -> None:
    for name, versions in pins("constraints-torch.txt").items():
        assert pins("constraints.txt")[name] == versions


IMPORTED_AS = {"scikit-learn": "sklearn"}
"""Distributions whose module has another name."""


def test_what_is_imported_is_declared() -> None:
    """Another package's dependency is not ours: it may be gone with that package's next version."""
    known = {"suture", *sys.stdlib_module_names}
    known |= {IMPORTED_AS.get(needed.name, needed.name.replace("-", "_")) for needed in direct()}
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            unknown = {name.partition(".")[0] for name in names} - known
            assert not unknown, f"{file} imports what pyproject.toml does not name: {unknown}"
