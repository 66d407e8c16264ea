"""Hooks of mkdocs: the README is the site's first page, and links that leave docs/ lead to the repository.

The Markdown files are written to be read in a clone; nothing in them knows of the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s]+)(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the README as index.md."""
    files.append(File.generated(config, "index.md", content=moved(ROOT / "README.md", config["repo_url"])))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the other pages."""
    del files
    return markdown if page.file.src_uri == "index.md" else moved_text(markdown, ROOT / "docs", config["repo_url"])


def moved(file: Path, repository: str) -> str:
    """A page's text with its links as the site has them."""
    return moved_text(file.read_text(encoding="utf-8"), file.parent, repository)


def moved_text(markdown: str, folder: Path, repository: str) -> str:
    """Links from `folder`: those into docs/ relative to it, all others to the repository."""

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found.group(1).partition("#")
        inside = posixpath.normpath(posixpath.join(folder.relative_to(ROOT).as_posix(), path))
        if inside == "README.md":
            return f"index.md{hash_}{anchor}"
        if inside.startswith("docs/") and inside.endswith(".md"):
            return f"{inside.removeprefix('docs/')}{hash_}{anchor}"
        return f"{repository}/blob/main/{inside}{hash_}{anchor}"

    return LINK.sub(link, markdown)
