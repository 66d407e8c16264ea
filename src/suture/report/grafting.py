"""The report's section on grafting: a model with a fault before and after, the curve, and every control beside."""

import math

from suture import units
from suture.interventions.graft.make import GRAFT, Grafting
from suture.report.figures import graft_curve
from suture.report.gather import Gathered
from suture.report.html import Child, Html, join, tag
from suture.report.parts import figure, section, table

HEAD = (
    "On fresh documents", "Features", "Success", "at temperature 1", "Clean loss", "KL", "Loss of what is written",
    "Success at the graft's cost",
)  # fmt: skip

DETECTED = ("What tells the behaviour, on fresh documents", "ROC-AUC, first tokens", "from the cue on")


def grafts(gathered: Gathered) -> Html | None:
    """A table and a figure for each grafting; None where there is none."""
    found = gathered.results(Grafting)
    if not found:
        return None
    note = (
        "Success: the part of prompts with the cue that are continued with the behaviour, greedily, with its "
        "95\u00a0% interval. Clean loss: its rise on documents over the unedited model's. A ceiling puts the safe "
        "model's own activation in: no edit at that place can do better. The last column is of controls that cost more "
        "than the graft, at the strength where they cost as much."
    )
    parts = [_one(a.name, own, i) for i, (a, own) in enumerate(found)]
    return section("graft", "A behaviour taken out", parts, tag("p", note, class_="note"))


def _one(name: str, found: Grafting, number: int) -> Html:
    s, before, after = found.summary, found.of("as it is"), found.of(GRAFT)
    places = ", ".join(f"{len(own)} at {place}" for place, own in zip(s.hookpoints, s.features, strict=True))
    said = join(
        [
            f"{s.n_features} features ({places}) of {s.model}: success ",
            tag("b", f"{units.percent(before['greedy'])} → {units.percent(after['greedy'])}"),
            f", clean loss {_signed(after['clean'])}, on {s.n_fresh} documents that chose nothing.",
        ]
    )
    rows = [_row(found, one) for one in found.outcomes.coordinates["intervention"]]
    shown = figure(graft_curve(found), f"graft-{number}", title="Success against clean loss,", height=360,
                   caption="as features are added one by one, and everything beside it.")  # fmt: skip
    detected = [
        [name, units.fvu(first), units.fvu(every)]
        for name, first, every in zip(
            found.detectors.coordinates["detector"], found.detectors["auc_first"], found.detectors["auc_all"],
            strict=True,
        )
    ]  # fmt: skip
    statements = [tag("p", text, class_="note") for text in s.statements]
    return join(
        [
            tag("h3", name),
            tag("p", said),
            shown,
            table(HEAD, rows, label=f"Interventions of {name}"),
            table(DETECTED, detected, label=f"Detectors of {name}"),
            statements,
        ]
    )


def _row(found: Grafting, name: str) -> list[Child]:
    own = found.of(name)
    within = f"{units.percent(own['greedy_low'])} – {units.percent(own['greedy_high'])}"
    ends = f"{_signed(own['clean_low'])} to {_signed(own['clean_high'])}"
    return [
        join([name, tag("small", own["group"])]),
        units.count(own["n_features"]) if own["n_features"] else "",
        join([units.percent(own["greedy"]), tag("small", within)]),
        units.percent(own["sampled"]),
        join([_signed(own["clean"]), tag("small", ends)]),
        units.number(own["kl"]),
        units.number(own["fluency"]),
        "" if math.isnan(own["greedy_at_cost"]) else units.percent(own["greedy_at_cost"]),
    ]


def _signed(value: float) -> str:
    return units.DASH if math.isnan(value) else f"{100 * value:+.2f} %".replace("-", "\u2212")
