"""Build HTML in which every piece of text is escaped unless it was built here itself."""

import html
import json
import re
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"meta", "link", "input", "br", "hr", "col"})
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Html(str):
    """Text that is HTML already: `tag` puts it in as it is, and escapes every other string."""

    __slots__ = ()


Child: TypeAlias = "str | Html | Iterable[Child] | None"


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """One element. Attribute names lose a trailing `_` (`class_`, `for_`) and inner `_` become `-`.

    True gives a bare attribute; None and False leave it out. Children that are not `Html` are escaped.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(clean(str(value)), quote=True)}"')
    parts.append(">")
    if name in _VOID:
        return Html("".join(parts))
    parts.append(join(children))
    parts.append(f"</{name}>")
    return Html("".join(parts))


def join(children: Iterable[Child]) -> Html:
    """The children one after the other, escaped where they are plain text."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(clean(child), quote=False))
        else:
            parts.append(join(child))
    return Html("".join(parts))


def embedded_json(value: object, *, id_: str) -> Html:
    """A data block that a script reads by `id_`; strict JSON in which no `<` can end the block.

    Raises:
        ValueError: a NaN or an infinity is inside (not JSON).
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = clean(text.replace("<", "\\u003c"))
    return Html(f'<script type="application/json" id="{html.escape(id_, quote=True)}">{text}</script>')


def clean(text: str) -> str:
    """`text` with lone surrogates (halves of a character cut by a tokenizer) replaced, so that UTF-8 can hold it."""
    return _LONE_SURROGATE.sub("\ufffd", text)
