"""The report's figures as plain Plotly specifications; colours are roles that the page fills in for light and dark.

A trace names its role in `meta.role` ("A", "B", "shared", ...) and `meta.control` marks a control; the page's script
turns roles into the theme's colours. What tells traces apart without colour (pattern, dash, marker) is set here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from suture.features.columns import column_called
from suture.interventions.graft.make import Grafting
from suture.interventions.steer.effect import Effect, ModelEffect
from suture.report import words
from suture.training.run import TrainProgress
from suture.uncertainty import Interval

Figure = dict[str, Any]
"""`data` and `layout` as Plotly takes them, and `alt`, the sentence a screen reader says."""

SHARE_COLUMNS = ("refit_share", "decoder_share", "usage_share", "attribution")
"""Columns with B's share of a feature, best evidence first."""

_PATTERNS = {"shared": "", "A": "/", "B": "\\", "C": "-", "D": "|", "ambiguous": ".", "dead": "x"}
_TRIANGLE_SYMBOLS = {
    "shared": "circle",
    "A": "square",
    "B": "circle-open",
    "C": "triangle-up",
    "ambiguous": "x-thin-open",
}
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def per_model(columns: Mapping[str, Sequence[Any]], column: str) -> list[str]:
    """The names of a share's columns: itself with two models (B's), one per model with more; empty without it."""
    if column in columns:
        return [column]
    return [name for name in (f"{column}_{words.letter(m)}" for m in range(26)) if name in columns]


def simplex(columns: Mapping[str, Sequence[Any]], column: str) -> Figure | None:
    """The features of three models in a triangle of their shares; None with another number of models."""
    names = per_model(columns, column)
    if len(names) != 3:
        return None
    labels = columns["label"]
    shares = list(zip(*(columns[name] for name in names), strict=True))
    data = []
    for label in words.ordered_labels(dict.fromkeys(labels, 1)):
        own = [(i, s) for i, (s, one) in enumerate(zip(shares, labels, strict=True)) if one == label and None not in s]
        if not own:
            continue
        name = words.label_words(label)
        data.append(
            {
                "type": "scatterternary",
                "mode": "markers",
                "name": name,
                **{corner: [_rounded(s[m]) for _, s in own] for m, corner in enumerate("abc")},
                "text": [str(i) for i, _ in own],
                "marker": {"size": 6, "symbol": _TRIANGLE_SYMBOLS.get(label, "diamond")},
                "meta": {"role": label, "control": True},
                "hovertemplate": "feature %{text}: A %{a:.2f}, B %{b:.2f}, C %{c:.2f}<extra>" + name + "</extra>",
            }
        )
    axes = {
        f"{corner}axis": {"title": {"text": words.letter(m)}, "tickvals": [0.25, 0.5, 0.75], "ticks": ""}
        for m, corner in enumerate("abc")
    }
    layout = {"ternary": {"sum": 1, **axes}, "margin": {"l": 40, "r": 40, "t": 34, "b": 34}}
    title = column_called(names[0]).title.removesuffix(" of A").lower()
    return {"data": data, "layout": layout, "alt": f"Every feature in a triangle by its {title} of A, B and C."}


def share_histogram(columns: Mapping[str, Sequence[Any]], column: str) -> Figure | None:
    """How many features have which share of B, stacked by label; None where the column has no numbers."""
    if column not in columns or not any(v is not None for v in columns[column]):
        return None
    values, labels = columns[column], columns["label"]
    title = column_called(column).title
    ends = ("all A", "all B") if column in SHARE_COLUMNS else ("none", "all")
    present = {label: 0 for label in labels if label != "dead"}
    data = []
    for label in words.ordered_labels(present):
        if label not in present:
            continue
        x = [round(v, 4) for v, own in zip(values, labels, strict=True) if own == label and v is not None]
        data.append(
            {
                "type": "histogram",
                "name": words.label_words(label),
                "x": x,
                "xbins": {"start": 0, "end": 1.0001, "size": 0.025},
                "marker": {"pattern": {"shape": _PATTERNS.get(label, "+"), "size": 5, "solidity": 0.25}},
                "meta": {"role": label},
                "hovertemplate": "%{x}: %{y} features<extra>" + words.label_words(label) + "</extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "bargap": 0.06,
        "xaxis": {
            "range": [0, 1],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "ticktext": [
                f"0<br>{ends[0]}",
                "0.25",
                "0.5<br>equal" if column in SHARE_COLUMNS else "0.5",
                "0.75",
                f"1<br>{ends[1]}",
            ],
        },
        "yaxis": {"title": {"text": "features"}},
    }
    return {"data": data, "layout": layout, "alt": f"Histogram of {title}, stacked by label."}


def entropy_histogram(counts: Sequence[int]) -> Figure | None:
    """The usage-entropy histogram, from its counts over [0, 1]; None where there are none."""
    if not counts:
        return None
    edges = [i / len(counts) for i in range(len(counts) + 1)]
    middles = [round((a + b) / 2, 4) for a, b in pairwise(edges)]
    trace = {
        "type": "bar",
        "x": middles,
        "y": list(counts),
        "meta": {"role": "accent"},
        "hovertemplate": "entropy %{x}: %{y} features<extra></extra>",
    }
    axis = {
        "range": [0, 1],
        "tickvals": [0, 0.5, 1],
        "ticktext": ["0<br>one model only", "0.5", "1<br>all equally"],
    }
    layout = {"bargap": 0.06, "xaxis": axis, "yaxis": {"title": {"text": "features"}}, "showlegend": False}
    return {"data": [trace], "layout": layout, "alt": "Histogram of usage entropy."}


EffectMeasure = Literal["target_effect", "kl_neutral", "delta_ce", "strength"]

_DRAWN: dict[str, tuple[str, str]] = {
    "covariance": ("covariance-matched directions", "dot"),
    "decoder": ("other features' decoder rows", "dashdot"),
}
"""Kinds of controls that have a curve, with what it is called and its dash."""


def effect_curves(effect: Effect, measure: EffectMeasure, *, y_title: str, over_kl: bool = False) -> Figure | None:
    """One measure of a steering effect against strength or KL budget, a line per model and faint ones for controls.

    With `over_kl` against the KL on neutral text that each strength was measured to cost.
    """
    doses = effect.settings.doses
    data = []
    for number, model in enumerate(effect.models):
        role = words.letter(number)
        style = {"dash": _DASHES[number % 4], "width": 2.5}
        marker = {"symbol": _SYMBOLS[number % 4], "size": 7}
        open_marker = {"symbol": f"{_SYMBOLS[number % 4]}-open", "size": 6}
        x = doses if effect.settings.kl else model.kl_neutral if over_kl else model.strengths
        values, intervals = _measured(model, measure)
        if model.reached:
            values = [v if r else None for v, r in zip(values, model.reached, strict=True)]
        if values:
            over = "KL" if over_kl else "strength"
            curve = _curve(x, values, name=f"{role}: {model.model}", role=role, line=style, marker=marker, over=over)
            data.append(curve | _interval_bars(values, intervals))
        for name, dash, mean, bars, kl in _controls(model, measure):
            line = {"dash": dash, "width": 1.5}
            curve = _curve(
                kl if over_kl else x,
                mean,
                name=f"{role}: {name}",
                role=role,
                line=line,
                marker=open_marker,
                over="KL" if over_kl else "strength",
            )
            curve["meta"]["control"] = True
            data.append(curve | bars)
    if not data:
        return None
    over_kl = over_kl or bool(effect.settings.kl)
    by = "KL on neutral text (nats per token)" if over_kl else f"strength (× {words.UNITS[effect.settings.unit]})"
    layout = {"xaxis": {"title": {"text": by}}, "yaxis": {"title": {"text": y_title}}, "showlegend": False}
    if all(dose > 0 for trace in data for dose in trace["x"] if dose is not None):
        layout["xaxis"]["type"] = "log"  # doses are multiples of each other
    if measure in ("kl_neutral", "strength") and all(v is None or v > 0 for trace in data for v in trace["y"]):
        layout["yaxis"]["type"] = "log"  # over decades, and below 1 what costs little is told apart
    against = "KL" if over_kl else "steering strength"
    return {"data": data, "layout": layout, "alt": f"{y_title} against {against}."}


def _measured(model: ModelEffect, measure: EffectMeasure) -> tuple[Sequence[float | None], Sequence[Interval | None]]:
    """A measure's values and their intervals."""
    if measure == "target_effect":
        return model.target_effect, model.target_effect_interval
    if measure == "kl_neutral":
        return model.kl_neutral, model.kl_neutral_interval
    if measure == "delta_ce":
        return model.delta_ce, model.delta_ce_interval
    return model.strengths, (None,) * len(model.strengths)


def _controls(
    model: ModelEffect, measure: EffectMeasure
) -> Iterator[tuple[str, str, Sequence[float | None], dict[str, Any], Sequence[float | None]]]:
    """(name, dash, mean, error bars, KL) of every control with a curve; an old result has isotropic ones alone."""
    for control in model.controls:
        if control.kind in _DRAWN and control.n_directions:
            name, dash = _DRAWN[control.kind]
            values, intervals = {
                "strength": (control.strengths, None),
                "target_effect": (control.target_effect, control.target_effect_interval),
                "kl_neutral": (control.kl_neutral, control.kl_neutral_interval),
                "delta_ce": (control.delta_ce, control.delta_ce_interval),
            }[measure]
            yield name, dash, values, _interval_bars(values, intervals) if intervals else {}, control.kl_neutral
    old = model.random
    if old is not None and not any(c.kind in _DRAWN for c in model.controls) and measure != "strength":
        mean, spread = {
            "target_effect": (old.target_effect, old.target_effect_sd),
            "kl_neutral": (old.kl_neutral, old.kl_neutral_sd),
            "delta_ce": (old.delta_ce, old.delta_ce_sd),
        }[measure]
        bars = {"error_y": {"type": "data", "array": list(spread), "thickness": 1, "width": 3}}
        yield "isotropic random directions", "dot", mean, bars, old.kl_neutral


def graft_curve(found: Grafting) -> Figure:
    """Success against the rise of the clean loss: a line as features are added, a mark for everything beside it."""
    curve = found.curve
    cost = [100 * float(v) for v in curve["clean"]]
    success = [float(v) for v in curve["greedy"]]
    ends = [(float(low), float(high)) for low, high in zip(curve["greedy_low"], curve["greedy_high"], strict=True)]
    marker = {"symbol": _SYMBOLS[0], "size": 7}
    line = _curve(cost, success, name="features", role="accent", line={"width": 2.5}, marker=marker)
    line |= _interval_bars(success, ends) | {
        "text": [f"{i} features" for i in range(len(success))],
        "hovertemplate": "%{text}: success %{y:.1%}, clean loss %{x:+.2f} %<extra></extra>",
    }
    data = [line]
    names, groups = found.outcomes.coordinates["intervention"], found.outcomes["group"].tolist()
    for i, group in enumerate(("graft", "other way", "ceiling", "control")):
        own = [n for n, g in zip(names, groups, strict=True) if g == group]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": group,
                "x": [_rounded(100 * float(found.of(n)["clean"])) for n in own],
                "y": [_rounded(float(found.of(n)["greedy"])) for n in own],
                "text": [n.replace("<", "&lt;") for n in own],
                "marker": {"symbol": f"{_SYMBOLS[i % 4]}{'' if group == 'graft' else '-open'}", "size": 11},
                "meta": {"role": words.letter(i % 3)},
                "hovertemplate": "%{text}: success %{y:.1%}, clean loss %{x:+.2f} %<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "rise of the clean loss (%)"}},
        "yaxis": {"title": {"text": "success"}, "rangemode": "tozero", "tickformat": ".0%"},
        "showlegend": True,
    }
    return {"data": data, "layout": layout, "alt": "Success of the behaviour against the rise of the clean loss."}


def training_curves(metrics: Sequence[TrainProgress], *, max_points: int = 200) -> Figure | None:
    """FVU per model over the training steps, thinned to `max_points`; None where training left no metrics."""
    points = [m for m in metrics if m.fvu]
    if len(points) < 2:
        return None
    stride = -(-len(points) // max_points)
    points = [*points[:-1][::stride], points[-1]]
    data = []
    for model in range(len(points[0].fvu)):
        role = words.letter(model)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": role,
                "x": [p.step for p in points],
                "y": [_rounded(p.fvu[model]) for p in points],
                "line": {"dash": _DASHES[model % 4], "width": 2},
                "meta": {"role": role},
                "hovertemplate": "step %{x}: FVU %{y:.3f}<extra>" + role + "</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "training step"}},
        "yaxis": {"title": {"text": "FVU"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout, "alt": "Fraction of variance unexplained over the training steps."}


def _curve(
    x: Sequence[float | None],
    values: Sequence[float | None],
    *,
    name: str,
    role: str,
    line: Figure,
    marker: Figure,
    over: str = "strength",
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [_rounded(v) for v in x] if over == "KL" else list(x),
        "y": [_rounded(v) for v in values],
        "line": line,
        "marker": marker,
        "meta": {"role": role},
        "hovertemplate": over + " %{x}: %{y:.3g}<extra>" + name.replace("<", "&lt;") + "</extra>",
    }


def _interval_bars(values: Sequence[float | None], intervals: Sequence[Interval | None]) -> dict[str, Any]:
    """Nothing where there is no value or no interval."""
    if not any(intervals):
        return {}
    known = [
        (0.0, 0.0, 0.0) if value is None or within is None else (value, *within)
        for value, within in zip(values, intervals, strict=True)
    ]
    above = [_rounded(max(0.0, high - value)) for value, _, high in known]
    below = [_rounded(max(0.0, value - low)) for value, low, _ in known]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}
    return {"error_y": bars}


def _rounded(value: int | float | None) -> int | float | None:
    return None if value is None else float(f"{value:.4g}")
