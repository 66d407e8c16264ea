"""The documentation's site: links in the pages lead where they lead in a clone, and every page is in its navigation."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HERE = "https://example.org/suture"

pytest.importorskip("mkdocs", reason="mkdocs is not installed")


def moved(text: str, folder: str) -> str:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts" / "docs_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.moved_text(text, ROOT / folder, HERE)


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
    ],
)
def test_links_lead_where_they_do_in_a_clone(folder: str, link: str, expected: str) -> None:
    assert moved(f"see [this]({link}), and that", folder) == f"see [this]({expected}), and that"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {"index.md", *(page.name for page in (ROOT / "docs").glob("*.md"))}
