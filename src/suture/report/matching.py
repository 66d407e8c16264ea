"""The report's section on matchings: how many features are the same, beside ceiling and control, and the pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from suture import units
from suture.matching.kinds import KINDS
from suture.matching.match import Matching
from suture.matching.shares import N_CURVE, Shares
from suture.pipeline.table import Table
from suture.report.figures import Figure
from suture.report.html import Html, join, tag
from suture.report.matching_maps import maps
from suture.report.parts import figure, section, table
from suture.report.payload import Limits
from suture.report.pieces import Beside

N_PAIRS = 20
"""Pairs listed of each end."""
SURELY = 0.025
SAME_BEYOND = "Of the features that fire, those with a partner that is the same and surely alike beyond the token."


def matching_section(found: Sequence[tuple[str, Matching]], limits: Limits, beside: Beside) -> Html | None:
    """All matchings, each with its name; None where there are none."""
    if not found:
        return None
    every = [_of(name, one, i, limits, beside) for i, (name, one) in enumerate(found)]
    return section("matching", "The same features?", every)


def _of(name: str, found: Matching, number: int, limits: Limits, beside: Beside) -> Html:
    s = found.summary
    rows, documents = units.count(s.n_rows), units.count(s.n_documents)
    counted = f"{rows} rows of {documents} documents, half of them to pair and half to score."
    every = [s.a, s.b, *s.ceilings, *([s.random] if s.random else [])]
    parts: list[Any] = [
        tag("h3", f"{name}: {s.spaces[0]} and {s.spaces[1]}"),
        tag("p", " ".join([counted, *s.statements]), class_="note"),
        _shares(every),
    ]
    curve = coverage_figure(found)
    if curve is not None:
        caption = "Features in order of their correlation with their partner on documents that did not choose it."
        parts.append(figure(curve, f"coverage-{number}", title="How many, how alike", caption=caption))
    shown = maps(found, number, limits, beside)
    if shown:
        parts += [tag("h4", "Both maps"), tag("p", _MAPS, class_="note"), *shown]
    if found.groups is not None:
        parts.append(_groups(found.groups))
    return join([*parts, _pairs(found)])


_MAPS = (
    "Every point is a feature, near those whose decoder rows point the same way; the second map is turned to lie like "
    "the first. A feature's partner lights up in the other map. Disagreement is the share of the rows where either of "
    "a pair fires on which only one does; listed are features with a partner that is something to them. Keys: arrows, "
    "Enter pins, space selects, B twice selects a box, + and - zoom."
)


def coverage_figure(found: Matching) -> Figure | None:
    """r with the partner against the share of features that reach it, both sides', the ceilings' and the control's;
    None where nothing has a partner."""
    s = found.summary
    lines = [("A", s.a, "A", "solid"), ("B", s.b, "B", "dash")]
    lines += [(f"{'AB'[i]}, second seed", one, "shared", "dot") for i, one in enumerate(s.ceilings)]
    lines += [("random weights", s.random, "ambiguous", "dashdot")] if s.random else []
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [i / (N_CURVE - 1) for i in range(N_CURVE)],
            "y": list(one.curve),
            "line": {"width": 2, "dash": dash},
            "meta": {"role": role},
            "hovertemplate": "%{x:.0%} of the features: r %{y:.2f} or more<extra>" + name + "</extra>",
        }
        for name, one, role, dash in lines
        if one.curve
    ]
    if not data:
        return None
    layout = {
        "xaxis": {"title": {"text": "share of the features"}, "tickformat": ".0%"},
        "yaxis": {"title": {"text": "r with the partner"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout, "alt": "Correlation with the partner against the share of features."}


def _groups(found: Table) -> Html:
    """Groups of features by subject, each score beside what as many random features have."""
    names = [c for c in found.columns if f"{c.name}_random" in found.values]
    head = ["Group", "features", *(tag("span", c.title, title=c.sentence) for c in names)]

    def cell(column: Any, i: int) -> Html:
        low, high = (column.write(found[f"{column.name}_random_{end}"][i]) for end in ("low", "high"))
        p = found[f"{column.name}_p"][i]
        value = column.write(found[column.name][i])
        return join([tag("b", value) if p <= SURELY else value, tag("small", f"{low} to {high}")])

    rows = [
        [name, units.count(found["n_features"][i]), *(cell(c, i) for c in names)]
        for i, name in enumerate(found.coordinates["group"])
    ]
    note = (
        "Features of A whose strongest rows are words of one subject. Below each score: where 95 % of draws of as many "
        "features lie. Bold: reached by at most 2.5 % of draws."
    )
    return join([tag("h4", "By subject"), table(head, rows, label="Groups of features"), tag("p", note, class_="note")])


def _shares(every: Sequence[Shares]) -> Html:
    head = [
        "Features of",
        "against",
        "asked",
        "r of 0.3",
        "beyond the token",
        "r of 0.7",
        "same, beyond the token",
        *KINDS,
    ]
    rows = [
        [
            one.of,
            one.against,
            units.count(one.n_features),
            *(units.percent(v) for v in (one.correlated, one.beyond_token, one.strong, one.same_beyond_token)),
            *(units.count(one.kinds.get(kind, 0)) for kind in KINDS),
        ]
        for one in every
    ]
    note = f"Second seeds are the ceiling, a model of random weights is what the token gives. {SAME_BEYOND}"
    return join([table(head, rows, label="Shares of features with a partner"), tag("p", note, class_="note")])


def _pairs(found: Matching) -> Html:
    """The surest pairs, and those that only the token makes."""
    features = found.features_a
    names = ("words", "kind", "partner", "r", "r_low", "r_ctx", "r_token", "rows")
    columns = [c for name in names for c in features.columns if c.name == name]
    has = np.flatnonzero((features["kind"] != "silent") & (features["partner"] >= 0))
    surest = has[np.argsort(-features["r_low"][has], kind="stable")][:N_PAIRS]
    token = has[(features["token_only"][has] > 0) & (features["r_low"][has] > 0)]
    token = token[np.argsort(-features["r_low"][token], kind="stable")][:N_PAIRS]
    head = ["Feature of A", *(tag("span", c.title, title=c.sentence) for c in columns)]

    def rows(chosen: np.ndarray) -> list[list[Any]]:
        return [[units.count(int(i)), *(c.write(features[c.name][i]) for c in columns)] for i in chosen]

    parts = [tag("summary", "The surest pairs"), table(head, rows(surest), label="The surest pairs")]
    blocks = [tag("details", parts)]
    if len(token):
        title = "The surest pairs that only the token makes"
        blocks.append(tag("details", tag("summary", title), table(head, rows(token), label=title)))
    return join(blocks)
