"""The report's section on responses: do two models answer alike, label by label, and does a score predict it?"""

from collections.abc import Sequence

import numpy as np

from suture import units
from suture.interventions.responses.columns import SCORES
from suture.interventions.responses.relate import Group, Prediction
from suture.interventions.responses.responses import Responses
from suture.report import words
from suture.report.figures import Figure
from suture.report.gather import short_labels
from suture.report.html import Child, Html, join, tag
from suture.report.parts import figure, section, table
from suture.uncertainty import Interval

_SYMBOLS = {"shared": "circle", "one-sided": "diamond", "drifted": "square", "ambiguous": "x-thin"}
"""Of a label; letters of models have the triangle."""
SHOWN = ("r", "r_ctx", "evenness")
"""Scores that have a figure."""


def responses_section(found: Sequence[tuple[str, Responses]]) -> Html | None:
    """All studies of steering; None where there are none."""
    if not found:
        return None
    note = (
        "Each feature is steered in every model along its own direction there. Correlation: of the two models' changes "
        "of log-probability after the same prompts, over the texts that are one token of both. Mismatched: this "
        "feature in one model, others in the other. Agreement: the one less the other, with its 95\u00a0% interval "
        "over prompts; medians and rank correlations have theirs over features."
    )
    parts = [_one(name, own, i) for i, (name, own) in enumerate(found)]
    return section("responses", "Do the models respond alike?", parts, tag("p", note, class_="note"))


def _one(name: str, found: Responses, number: int) -> Html:
    s, titles = found.summary, {column.name: column.title for column in SCORES}
    figures = [
        figure(
            agreement_scatter(found, score), f"responses-{number}-{score}", height=280,
            title=f"Agreement by {titles[score]}",
            caption="a mark per feature; open marks: the same feature with mismatched ones",
        )
        for score in SHOWN
        if np.isfinite(found.responses[score]).any()
    ]  # fmt: skip
    where = " and ".join(short_labels(s.models))
    said = (
        f"{units.count(len(found.responses))} features of {where}, at {s.dose} {words.plain(s.reference)}, over "
        f"{units.count(s.n_texts)} texts."
    )
    return join(
        [
            tag("h3", name),
            tag("p", said, class_="note"),
            tag("div", figures, class_="grid three"),
            table(_HEAD, [_group(g, found) for g in s.groups], label=f"Agreement by label of {name}"),
            table(_SCORED, [_prediction(p, titles[p.score]) for p in s.predictions], label=f"Scores of {name}"),
        ]
    )


_HEAD = (
    "Label", "features", "correlation, median (95\u00a0%)", "mismatched", "agree for sure", "effect at equal KL",
    "of a control", "transferred", "other features moved",
)  # fmt: skip
_SCORED = ("Does it predict agreement?", "features", "Spearman (95\u00a0%)")


def _group(group: Group, found: Responses) -> list[Child]:
    labels = found.responses["label"].astype(str)
    own = (labels == group.label) if group.label in labels else np.ones(len(labels), dtype=bool)
    return [
        group.label,
        units.count(group.n),
        _within(group.correlation, group.correlation_interval),
        _within(group.mismatched, group.mismatched_interval),
        f"{group.n_agree} of {group.n}",
        *(_median(found.responses[name][own], name) for name in ("effect", "control", "transfer", "collateral")),
    ]


def _median(values: np.ndarray, name: str) -> str:
    """Model by model."""
    if not np.isfinite(values).any():
        return units.DASH
    write = units.percent if name == "transfer" else units.number
    columns = [column[np.isfinite(column)] for column in values.T]
    return ", ".join(write(float(np.median(own))) if len(own) else units.DASH for own in columns)


def _prediction(one: Prediction, title: str) -> list[Child]:
    return [title, units.count(one.n), _within(one.rho, one.interval)]


def _within(value: float | None, interval: Interval | None) -> Html | str:
    if value is None:
        return units.DASH
    said = units.correlation(value)
    if interval is None:
        return said
    low, high = (units.correlation(end) for end in interval)
    return join([said, tag("small", f" {low} to {high}")])


def agreement_scatter(found: Responses, score: str) -> Figure:
    """The correlation of the models' answers against a score, a mark per feature; open ones for mismatched pairs."""
    table_, data = found.responses, []
    labels = table_["label"].astype(str)
    for label in dict.fromkeys(sorted(labels)):
        own = (labels == label) & np.isfinite(table_[score]) & np.isfinite(table_["correlation"])
        if not own.any():
            continue
        symbol = _SYMBOLS.get(label, "triangle-up")
        for column, ending in (("correlation", ""), ("mismatched", "-open")):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": label if not ending else f"{label}, mismatched",
                    "x": [round(float(v), 4) for v in table_[score][own]],
                    "y": [None if np.isnan(v) else round(float(v), 4) for v in table_[column][own]],
                    "text": [f"feature {int(i)}, {label}" for i in table_["number"][own]],
                    "marker": {"symbol": f"{symbol}{ending}", "size": 7 if ending else 9},
                    "meta": {"role": label, "control": bool(ending)},
                    "hovertemplate": "%{text}: %{y:.2f} at %{x:.2f}<extra></extra>",
                }
            )
    title = next(column.title for column in SCORES if column.name == score)
    layout = {
        "xaxis": {"title": {"text": title}},
        "yaxis": {"title": {"text": "correlation of answers"}},
        "showlegend": False,
    }
    return {"data": data, "layout": layout, "alt": f"Correlation of the two models' answers against {title}."}
