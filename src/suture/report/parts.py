"""Pieces that every section of the report is made of: frames, tables, figures, labels."""

from collections.abc import Sequence

from suture.report import words
from suture.report.figures import Figure
from suture.report.html import Child, Html, embedded_json, tag


def section(id_: str, title: str, *children: Child) -> Html:
    """A top-level section; the style sheet numbers them."""
    return tag("section", tag("h2", title, id=f"{id_}-title"), *children, id=id_, aria_labelledby=f"{id_}-title")


def figure(spec: Figure, id_: str, *, title: str, caption: Child = None, height: int = 260) -> Html:
    """A figure's frame and its data; the page's script draws it."""
    box = tag("div", class_="plot", data_figure=id_, role="img", aria_label=spec["alt"], style=f"height:{height}px")
    heading = tag("figcaption", tag("strong", title), " ", caption)
    return tag("figure", heading, box, embedded_json(spec, id_=id_))


def table(head: Sequence[Child], rows: Sequence[Sequence[Child]], *, label: str, numeric: bool = True) -> Html:
    """A table in a box of its own that scrolls sideways on a narrow screen; its first column heads the rows."""
    header = tag("tr", [tag("th", h, scope="col") for h in head])
    body = [tag("tr", tag("th", r[0], scope="row"), [tag("td", c) for c in r[1:]]) for r in rows]
    inner = tag("table", tag("thead", header), tag("tbody", body), class_="numeric" if numeric else None)
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


def chip(label: str) -> Html:
    """A label with its mark."""
    mark = tag("span", class_="mark", aria_hidden="true")
    return tag("span", mark, words.label_words(label), class_=f"chip {words.label_class(label)}")


def badge(model: int) -> Html:
    """The letter of a model in its colour and shape."""
    letter = words.letter(model)
    return tag("b", letter, class_=f"letter letter-{letter.lower()}")


def legend(models: Sequence[str]) -> Html:
    """Which letter is which model."""
    items = [tag("span", badge(i), " ", m) for i, m in enumerate(models)]
    return tag("p", items, class_="models")
