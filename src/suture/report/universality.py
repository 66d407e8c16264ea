"""The report's section on universality: which features many dictionaries have, and every family's members."""

from collections.abc import Sequence

import numpy as np

from suture import units
from suture.matching.universality import Found, Universality
from suture.pipeline.table import Table
from suture.report.html import Child, Html, join, tag
from suture.report.parts import section, table
from suture.uncertainty import Interval

N_FAMILIES = 60
"""Families listed of each size."""
_NOTE = (
    "A family has at most one feature of a dictionary; every two of its members reach the bar on documents that did "
    "not choose it, and are surely alike beyond the token. Below each share its 95 % interval over documents. The "
    "ceiling is what is found again in the dictionary's own second seed, random weights what is found in all when the "
    "last dictionary is of a model that learned nothing. A family is a count, not a proof: features that share half of "
    "their rows may reach the bar too."
)


def universality_section(found: Sequence[tuple[str, Universality]]) -> Html | None:
    """All of them, each with its name; None where there are none."""
    if not found:
        return None
    return section("universality", "Found in many", [_of(name, one) for name, one in found])


def _of(name: str, found: Universality) -> Html:
    s = found.summary
    counted = f"{units.count(s.n_rows)} rows of {units.count(s.n_documents)} documents; r of {s.bar:g} or more."
    sizes = ", ".join(f"{units.count(n)} of {size}" for size, n in enumerate(s.sizes, start=2))
    said = f"Families by the number of their dictionaries: {sizes}."
    parts: list[Child] = [
        tag("h3", name),
        tag("p", " ".join([counted, *s.statements]), class_="note"),
        _shares(s.dictionaries),
        tag("p", f"{said} {_NOTE}", class_="note"),
    ]
    for n in range(len(s.dictionaries), 1, -1):
        chosen = np.flatnonzero(found.families["n_members"] == n)
        if len(chosen):
            title = f"Families of {n} dictionaries"
            title += f", {N_FAMILIES} of {units.count(len(chosen))}" if len(chosen) > N_FAMILIES else ""
            listed = _families(found.families, chosen[:N_FAMILIES], title)
            parts.append(tag("details", tag("summary", title), listed, open=n == len(s.dictionaries)))
    return join(parts)


def _shares(found: Sequence[Found]) -> Html:
    head = ["Features of", "asked", "in all", "in most", "in another", "ceiling: second seed", "in all, random weights"]
    rows = [
        [
            one.name,
            units.count(one.n_features),
            _share(one.in_all, one.in_all_interval),
            _share(one.in_most, one.in_most_interval),
            _share(one.in_another, one.in_another_interval),
            _share(one.ceiling, one.ceiling_interval),
            _share(one.random, None),
        ]
        for one in found
    ]
    return table(head, rows, label="Shares of features found in several dictionaries")


def _share(value: float | None, ends: Interval | None) -> Child:
    if value is None:
        return units.DASH
    said = f"{units.percent(ends[0])} to {units.percent(ends[1])}" if ends is not None else None
    return join([units.percent(value), tag("small", said) if said else None])


def _families(found: Table, chosen: np.ndarray, label: str) -> Html:
    """Families with their members, the most alike first."""
    names = found.coordinates["dictionary"]
    numbers = [c for c in found.columns if c.name in ("r_weakest", "r_mean", "r_ctx_low", "rows")]
    head: list[Child] = ["Words", *names, *(tag("span", c.title, title=c.sentence) for c in numbers)]
    rows: list[list[Child]] = []
    for i in chosen:
        members = [units.DASH if m < 0 else units.count(int(m)) for m in found["member"][i]]
        rows.append([str(found["words"][i]) or units.DASH, *members, *(c.write(found[c.name][i]) for c in numbers)])
    return table(head, rows, label=label)
