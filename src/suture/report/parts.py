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


def figure_choice(specs: Sequence[tuple[str, Figure]], id_: str, *, label: str, height: int = 260) -> Html:
    """A frame in which one of several figures is drawn, with a list to choose from; each spec comes with its name."""
    ids = [f"{id_}-{i}" for i in range(len(specs))]
    options = [tag("option", name, value=one) for one, (name, _) in zip(ids, specs, strict=True)]
    choice = tag("label", label, tag("select", options, data_figure_of=id_, autocomplete="off"))
    alt = specs[0][1]["alt"]
    box = tag("div", class_="plot", id=id_, data_figure=ids[0], role="img", aria_label=alt, style=f"height:{height}px")
    data = [embedded_json(spec, id_=one) for one, (_, spec) in zip(ids, specs, strict=True)]
    return tag("figure", tag("div", choice, class_="controls"), box, data)


def heat_table(
    head: Sequence[Child],
    rows: Sequence[tuple[Child, Sequence[tuple[Child, int | float]]]],
    *,
    label: str,
    small: bool = False,
) -> Html:
    """A table whose cells, each a text and a number from 0 to 1, are shaded by that number."""
    body = [tag("tr", tag("th", name, scope="row"), [_shaded(*cell) for cell in cells]) for name, cells in rows]
    header = tag("tr", tag("td"), [tag("th", one, scope="col") for one in head])
    inner = tag("table", tag("thead", header), tag("tbody", body), class_="heat small" if small else "heat")
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


def _shaded(content: Child, value: int | float) -> Html:
    shade = min(1.0, max(0.0, value))
    return tag("td", content, style=f"--v:{shade:.3f}", class_="strong" if shade > 0.55 else None)


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
