"""The notebooks: executed as they stand, small, in public names; and what runs them says what is wrong with one."""

import ast
import json
import re
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import pytest

import suture
from modules import module_of

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_the_four_notebooks_and_every_cell_was_executed_in_order() -> None:
    assert {file.stem for file in NOTEBOOKS} == {
        "base-against-fine-tune", "two-families", "public-dictionaries", "every-layer-pair",
    }  # fmt: skip
    for file in NOTEBOOKS:
        assert file.stat().st_size < 300_000
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), file.name
        assert code[-1]["outputs"], file.name
        assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for c in code for o in c["outputs"])


def test_a_notebook_names_only_public_names_of_suture_that_there_are() -> None:
    for file in NOTEBOOKS:
        source = "\n".join(code_of(file))
        names = {node.attr for node in ast.walk(ast.parse(source)) if is_name_of_suture(node)}
        assert names, file.name
        assert names <= set(suture.__all__), f"{file.name}: {names - set(suture.__all__)}"


def code_of(file: Path) -> list[str]:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def is_name_of_suture(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "suture"


def test_links_in_notebooks_lead_somewhere() -> None:
    for file in NOTEBOOKS:
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            for link in re.findall(
                r"\]\(([^)\s]+)\)", "".join(cell["source"]) if cell["cell_type"] == "markdown" else ""
            ):
                assert link.startswith("https://") or (file.parent / link.partition("#")[0]).exists(), link


# --- what runs them ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    return module_of(ROOT / "scripts" / "run_notebooks.py")


def written(file: Path, *sources: str) -> Path:
    cells = [
        {"cell_type": "code", "id": f"a{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for i, source in enumerate(sources)
    ]
    file.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return file


def test_a_notebook_that_runs_is_kept_with_what_it_printed_where_asked_to(runner: ModuleType, tmp_path: Path) -> None:
    file = written(tmp_path / "good.ipynb", "from pathlib import Path\nPath.cwd().name", "print(6 * 7)")
    before = file.read_text()
    assert runner.run(file) == []
    assert file.read_text() == before
    assert runner.run(file, write=True) == []
    found = json.loads(file.read_text())
    assert found["cells"][0]["outputs"][0]["data"]["text/plain"] == [repr(tmp_path.name)]
    assert found["cells"][1]["outputs"][0]["text"] == ["42\n"]
    assert all(cell["metadata"] == {} for cell in found["cells"])
    first = file.read_text()
    assert runner.run(file, write=True) == []
    assert file.read_text() == first, "nothing of the time or the machine is in it"


def test_an_error_in_a_cell_a_notebook_too_large_and_a_cell_that_hangs_are_said(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = written(tmp_path / "bad.ipynb", "1 / 0")
    (problem,) = runner.run(bad, write=True)
    assert problem.startswith("bad.ipynb: ")
    assert "ZeroDivisionError" in problem
    assert json.loads(bad.read_text())["cells"][0]["outputs"] == []
    large = written(tmp_path / "large.ipynb", "print('x' * 400_000)")
    (problem,) = runner.run(large, write=True)
    assert "more than 300,000" in problem
    monkeypatch.setattr(runner, "CELL_SECONDS", 1)
    hanging = written(tmp_path / "hanging.ipynb", "import time; time.sleep(60)")
    (problem,) = runner.run(hanging)
    assert problem.startswith("hanging.ipynb: ")
    assert "timed out" in problem


def test_what_is_wrong_with_one_fails_the_run(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong_two(file: Path, **_: bool) -> list[str]:
        return [f"{file.name}: wrong"] if file.stem == "two" else []

    monkeypatch.setattr(runner.sys, "argv", ["run_notebooks", "one", "two"])
    monkeypatch.setattr(runner, "run", wrong_two)
    assert runner.main() == 1
    assert capsys.readouterr().err == "two.ipynb: wrong\n"
    monkeypatch.setattr(runner.sys, "argv", ["run_notebooks", "one"])
    assert runner.main() == 0
