"""The documentation's site: links in the pages lead where they lead in a clone, and every page is in its navigation."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from modules import module_of

ROOT = Path(__file__).parents[1]
HERE = "https://example.org/suture"
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

pytest.importorskip("mkdocs", reason="mkdocs is not installed")


def hooks() -> ModuleType:
    return module_of(ROOT / "scripts" / "docs_site.py")


def moved(text: str, folder: str) -> str:
    return hooks().moved_text(text, ROOT / folder, HERE)


@pytest.mark.parametrize(
    ("folder", "link", "expected"),
    [
        ("", "docs/guide.md#2-train", "guide.md#2-train"),
        ("", "benchmarks/RESULTS.md", f"{HERE}/blob/main/benchmarks/RESULTS.md"),
        ("docs", "concepts.md#labels", "concepts.md#labels"),
        ("docs", "../README.md", "index.md"),
        ("docs", "../src/suture/seeds.py", f"{HERE}/blob/main/src/suture/seeds.py"),
        ("docs", "https://arxiv.org/abs/2406.04093", "https://arxiv.org/abs/2406.04093"),
        ("docs", "#here", "#here"),
        ("docs", "notebooks/two-families.ipynb", "notebooks/two-families.md"),
        ("", "docs/notebooks/two-families.ipynb", "notebooks/two-families.md"),
        ("docs/notebooks", "../concepts.md#labels", "../concepts.md#labels"),
        ("docs/notebooks", "two-families.ipynb", "two-families.md"),
        ("docs/notebooks", "../../README.md", "../index.md"),
        ("docs/notebooks", "../../src/suture/seeds.py", f"{HERE}/blob/main/src/suture/seeds.py"),
    ],
)
def test_links_lead_where_they_do_in_a_clone(folder: str, link: str, expected: str) -> None:
    assert moved(f"see [this]({link}), and that", folder) == f"see [this]({expected}), and that"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    notebooks = {f"notebooks/{page.stem}.md" for page in NOTEBOOKS}
    assert named == {"index.md", *pages, *notebooks}


def test_a_notebook_becomes_a_page_with_its_words_code_and_outputs(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "``` two"]},
        {
            "output_type": "execute_result",
            "data": {"text/plain": ["plain"], "text/html": ['<table border="1" class="dataframe">', "</table>"]},
        },
        {"output_type": "display_data", "data": {"text/plain": ["figure"], "image/png": "aGk=\n"}},
        {"output_type": "execute_result", "data": {"text/plain": ["7"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "See [this](../guide.md)."]},
        {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": outputs},
    ]
    (tmp_path / "made.ipynb").write_text(json.dumps({"cells": cells}))
    page = hooks().notebook_page(tmp_path / "made.ipynb", HERE)
    assert page == (
        "# Title\n\n[This notebook](made.ipynb) was executed as it stands here.\n\nSee [this](../guide.md).\n\n"
        "`````python\nx = 1\nx\n`````\n\n`````text\none\n``` two\n`````\n\n"
        '<div class="notebook-output" style="overflow-x:auto"><table></table></div>\n\n'
        '<img alt="" src="data:image/png;base64,aGk=">\n\n`````text\n7\n`````\n'
    )


def test_a_notebook_with_an_error_is_not_shown() -> None:
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        hooks().shown({"output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero"})
