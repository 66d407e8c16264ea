"""The report's section on matchings: how many features are the same, beside ceiling and control, and the pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from suture import units
from suture.matching.kinds import KINDS
from suture.matching.match import Matching, Shares
from suture.report.figures import Figure
from suture.report.html import Html, join, tag
from suture.report.parts import figure, section, table

N_PAIRS = 20
"""Pairs listed of each end."""
SAME_BEYOND = "Of the features that fire, those with a partner that is the same and surely alike beyond the token."


def matching_section(found: Sequence[tuple[str, Matching]]) -> Html | None:
    """All matchings, each with its name; None where there are none."""
    if not found:
        return None
    return section("matching", "The same features?", [_of(name, one, i) for i, (name, one) in enumerate(found)])


def _of(name: str, found: Matching, number: int) -> Html:
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
    return join([*parts, _pairs(found)])


def coverage_figure(found: Matching) -> Figure | None:
    """r with the partner against the share of features that reach it; None where nothing has a partner."""
    data = []
    for side, features, dash in (("A", found.features_a, "solid"), ("B", found.features_b, "dash")):
        asked = features["kind"] != "silent"
        r = np.sort(np.nan_to_num(features["r"][asked]))[::-1]
        if len(r):
            at = np.unique(np.linspace(0, len(r) - 1, 200).round().astype(int))
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": side,
                    "x": [float(f"{(i + 1) / len(r):.4g}") for i in at],
                    "y": [float(f"{r[i]:.4g}") for i in at],
                    "line": {"width": 2, "dash": dash},
                    "meta": {"role": side},
                    "hovertemplate": "%{x:.1%} of the features: r %{y:.2f} or more<extra>" + side + "</extra>",
                }
            )
    if not data:
        return None
    layout = {
        "xaxis": {"title": {"text": "share of the features"}, "tickformat": ".0%"},
        "yaxis": {"title": {"text": "r with the partner"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout, "alt": "Correlation with the partner against the share of features."}


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
    names = ("kind", "partner", "r", "r_low", "r_ctx", "r_token", "rows")
    columns = [next(c for c in features.columns if c.name == name) for name in names]
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
