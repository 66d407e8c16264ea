"""Hooks of mkdocs: README and notebooks become pages, and links that leave docs/ lead to the repository.

The README is the site's first page. Pages and notebooks are written to be read in a clone, nothing in them knows of the
site. Notebooks are shown as they were executed: nothing is run here.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
NOTEBOOKS = "docs/notebooks"
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s]+)(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as index.md, and a page for every notebook."""
    files.append(File.generated(config, "index.md", content=moved(ROOT / "README.md", config["extra"]["repository"])))
    for file in sorted((ROOT / NOTEBOOKS).glob("*.ipynb")):
        page = f"{NOTEBOOKS.removeprefix('docs/')}/{file.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(file, config["extra"]["repository"])))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the other pages."""
    del files
    is_done = page.file.generated_by is not None
    return markdown if is_done else moved_text(markdown, ROOT / "docs", config["extra"]["repository"])


def notebook_page(file: Path, repository: str) -> str:
    """An executed notebook as Markdown: its words, its code, and what each cell printed and drew."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(moved_text(text, ROOT / NOTEBOOKS, repository))
        else:
            parts += [fenced(text, "python"), *(shown(output) for output in cell["outputs"])]
    title, rest = parts[0].split("\n", 1)
    source = f"[This notebook]({file.name}) was executed as it stands here."
    return "\n\n".join([title, source, rest.strip(), *parts[1:]]) + "\n"


def shown(output: dict[str, Any]) -> str:
    """One output of a cell, in the richest form that a page can show."""
    if output["output_type"] == "stream":
        return fenced("".join(output["text"]), "text")
    if output["output_type"] == "error":
        raise ValueError(f"a notebook with an error is no page: {output['ename']}: {output['evalue']}")
    data = {kind: "".join(value) for kind, value in output["data"].items() if isinstance(value, str | list)}
    if "text/html" in data:
        plain = data["text/html"].replace('<table border="1" class="dataframe">', "<table>")  # in the site's own style
        return f'<div class="notebook-output" style="overflow-x:auto">{plain}</div>'
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    return fenced(data["text/plain"], "text")


def fenced(text: str, language: str) -> str:
    """A block of code, whatever stands in it."""
    return f"`````{language}\n{text.rstrip()}\n`````"


def moved(file: Path, repository: str) -> str:
    """A page's text with its links as the site has them."""
    return moved_text(file.read_text(encoding="utf-8"), file.parent, repository)


def moved_text(markdown: str, folder: Path, repository: str) -> str:
    """Links from `folder`: those into docs/ as the page of the same place has them, all others to the repository."""
    inside_docs = folder.is_relative_to(ROOT / "docs")
    here = folder.relative_to(ROOT / "docs").as_posix() if inside_docs else "."

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found.group(1).partition("#")
        inside = posixpath.normpath(posixpath.join(folder.relative_to(ROOT).as_posix(), path))
        page = "index.md" if inside == "README.md" else inside.removeprefix("docs/")
        if inside == "README.md" or (inside.startswith("docs/") and inside.endswith((".md", ".ipynb"))):
            return f"{posixpath.relpath(page, here).replace('.ipynb', '.md')}{hash_}{anchor}"
        return f"{repository}/blob/main/{inside}{hash_}{anchor}"

    return LINK.sub(link, markdown)
