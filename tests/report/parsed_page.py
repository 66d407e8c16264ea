"""A written page as a browser's parser sees it."""

import json
from html.parser import HTMLParser
from typing import Any

from suture.report.pieces import TYPE, unpacked


class Page(HTMLParser):
    """A page as a browser's parser sees it: elements with attributes, text outside scripts, data blocks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self.pieces: dict[str, Any] = {}
        self.text = ""
        self._script: dict[str, str | None] | None = None
        self._content: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._script, self._content = dict(attrs), []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style") and self._script is not None:
            if self._script.get("type") == "application/json":
                self.data[str(self._script["id"])] = json.loads("".join(self._content), parse_constant=_refuse)
            if self._script.get("type") == TYPE:
                self.pieces[str(self._script["id"])] = unpacked("".join(self._content))
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self._content.append(data)

    @property
    def ids(self) -> set[str]:
        return {str(a["id"]) for _, a in self.elements if "id" in a}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
