"""The figures of a study as plain Plotly specifications: dots with intervals, scatters, bars and small histograms."""

import textwrap
from collections.abc import Sequence
from typing import Any

from suture.report.figures import Figure
from suture.report.study_numbers import Column, Estimate, Study


def dots(study: Study, column: Column) -> Figure:
    """A design per line: its mean with interval, and every seed; filled where best or not told apart from the best."""
    names, estimates = study.measured, [study.estimate(d, column.key) for d in study.measured]
    standing = study.standing(column.key)
    leading = {standing.best, *standing.level, *(standing.tied if standing.certain else ())} if standing else set(names)
    seeds = [(value, i, seed) for i, d in enumerate(names) for seed, value in study.values(d, column.key)]
    data: list[dict[str, Any]] = []
    if len(study.seeds) > 1:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [_short(v) for v, _, _ in seeds],
                "y": [i + 0.24 for _, i, _ in seeds],
                "marker": {"symbol": "circle", "size": 4},
                "meta": {"role": "ambiguous", "control": True},
                "customdata": [seed for _, _, seed in seeds],
                "hovertemplate": "seed %{customdata}: %{x:.4g}<extra></extra>",
            }
        )
    for role, symbol, wanted in (("accent", "circle", True), ("muted", "circle-open", False)):
        known = [(i, e) for i, e in enumerate(estimates) if e is not None and (names[i] in leading) is wanted]
        if known:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [_short(e.mean) for _, e in known],
                    "y": [i for i, _ in known],
                    "error_x": _whiskers([e for _, e in known]),
                    "marker": {"symbol": symbol, "size": 9, "line": {"width": 2 if symbol != "circle" else 0}},
                    "meta": {"role": role},
                    "customdata": [said(column, e) for _, e in known],
                    "text": [plain_text(names[i]) for i, _ in known],
                    "hovertemplate": "%{text}: %{customdata}<extra></extra>",
                }
            )
    layout = {"xaxis": {"tickformat": ".1~%"} if column.is_percent else {}, "yaxis": _lines(names), "margin": _MARGIN}
    return {"data": data, "layout": layout, "alt": f"{column.title} of every design, mean over seeds with interval."}


def scatter(study: Study, x: Column, y: Column) -> Figure | None:
    """Designs as numbered marks with intervals both ways; None where fewer than two are known."""
    known = [
        (i, name, across, up)
        for i, name in enumerate(arm.name for arm in study.designs)
        if (across := study.estimate(name, x.key)) and (up := study.estimate(name, y.key))
    ]
    if len(known) < 2:
        return None
    title_x, title_y = plain_text(x.title), plain_text(y.title)
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [_short(e.mean) for _, _, e, _ in known],
        "y": [_short(e.mean) for _, _, _, e in known],
        "error_x": _whiskers([e for _, _, e, _ in known]),
        "error_y": _whiskers([e for _, _, _, e in known]),
        "text": [str(i + 1) for i, _, _, _ in known],
        "textfont": {"size": 10},
        "textposition": "middle center",
        "cliponaxis": False,
        "marker": {"symbol": "circle", "size": 18, "line": {"width": 1}},
        "meta": {"role": "accent", "outline": "ground"},
        "customdata": [
            f"{plain_text(n)}<br>{title_x}: {said(x, across)}<br>{title_y}: {said(y, up)}" for _, n, across, up in known
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = {"xaxis": _axis(x), "yaxis": _axis(y)}
    return {"data": [trace], "layout": layout, "alt": f"{y.title} against {x.title}, a numbered mark per design."}


def null_bars(study: Study, real: Column, null: Column) -> Figure:
    """Per design two bars: the share labelled one model's own, and the same of a model against itself."""
    names = study.measured
    data = []
    for column, role, shape, name in ((real, "accent", "", "the two models"), (null, "ambiguous", "/", "null")):
        known = [(i, e) for i, d in enumerate(names) if (e := study.estimate(d, column.key)) is not None]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "x": [_short(e.mean) for _, e in known],
                "y": [i for i, _ in known],
                "error_x": _whiskers([e for _, e in known]),
                "marker": {"pattern": {"shape": shape, "size": 5, "solidity": 0.3}},
                "meta": {"role": role, "whiskers": "text"},
                "customdata": [f"{plain_text(names[i])}, {name}: {said(column, e)}" for i, e in known],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    axis = {"tickformat": ".1~%", "rangemode": "tozero"}
    layout = {"barmode": "group", "bargap": 0.35, "xaxis": axis, "yaxis": _lines(names), "margin": _MARGIN}
    return {"data": data, "layout": layout, "alt": "Share of features labelled one model's own, beside the null."}


def small_histogram(counts: Sequence[int | float], *, ends: tuple[str, str], alt: str) -> Figure:
    """A histogram over [0, 1] small enough to stand among others of its kind."""
    n = len(counts)
    trace = {
        "type": "bar",
        "x": [round((i + 0.5) / n, 4) for i in range(n)],
        "y": list(counts),
        "width": 0.88 / n,
        "meta": {"role": "accent"},
        "hovertemplate": "%{x}: %{y} features<extra></extra>",
    }
    layout = {
        "xaxis": {"range": [0, 1], "tickvals": [0, 1], "ticktext": list(ends), "showgrid": False},
        "yaxis": {"visible": False, "rangemode": "tozero"},
        "margin": {"l": 18, "r": 18, "t": 4, "b": 22},
    }
    return {"data": [trace], "layout": layout, "alt": alt}


def said(column: Column, estimate: Estimate) -> str:
    """`0.971 (0.950 – 0.990)`."""
    within = f" ({column.write_interval(estimate)})" if estimate.has_interval else ""
    return column.write(estimate.mean) + within


def plain_text(text: str) -> str:
    """Text in which Plotly finds no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_MARGIN = {"l": 20, "r": 16, "t": 4, "b": 36}


def _lines(names: Sequence[str]) -> dict[str, Any]:
    """A y axis with a name per line, the first on top; a long name takes two lines."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": ["<br>".join(plain_text(line) for line in _two_lines(name)) + " " for name in names],
        "range": [len(names) - 0.5, -0.5],
        "zeroline": False,
    }


def _two_lines(name: str, width: int = 20) -> list[str]:
    lines = textwrap.wrap(name, width) or [""]
    return lines if len(lines) <= 2 else [lines[0], lines[1][: width - 1] + "…"]


def _axis(column: Column) -> dict[str, Any]:
    share = {"tickformat": ".1~%"} if column.is_percent else {}
    return {"title": {"text": plain_text(column.title)}, "zeroline": False, **share}


def _whiskers(estimates: Sequence[Estimate]) -> dict[str, Any]:
    above = [_short(e.high - e.mean) if e.high is not None else 0 for e in estimates]
    below = [_short(e.mean - e.low) if e.low is not None else 0 for e in estimates]
    ends = {"symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2, "width": 3}
    return {"type": "data", "visible": any(e.has_interval for e in estimates), **ends}


def _short(value: int | float) -> int | float:
    return float(f"{value:.5g}")
