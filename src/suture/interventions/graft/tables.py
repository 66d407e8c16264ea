"""The tables of a grafting: interventions, the curve, candidates, detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from suture.interventions.graft.columns import CANDIDATES, CURVE, DETECTORS, OUTCOMES
from suture.interventions.graft.detect import Detector
from suture.interventions.graft.outcome import Outcome
from suture.interventions.graft.select import Selection
from suture.interventions.organisms.measure import Rise
from suture.pipeline.table import Column, Table
from suture.uncertainty import Proportion

Row = Mapping[str, object]


def outcomes_table(outcomes: Sequence[Outcome]) -> Table:
    """A row per intervention."""
    rows: list[Row] = []
    for one in outcomes:
        strength, success = one.at_cost or (np.nan, None)
        rows.append(
            {
                "group": one.group, "n_features": one.n_features, **_share("greedy", one.cue.greedy),
                **_share("sampled", one.cue.sampled), "near": np.nan if one.near is None else one.near.share,
                **_rise(one.clean_rise), "kl": one.kl, "fluency": np.nan if one.fluency is None else one.fluency,
                "strength_at_cost": strength,
                "greedy_at_cost": np.nan if success is None else success.share,
            }
        )  # fmt: skip
    return _table("intervention", OUTCOMES, rows, [one.name for one in outcomes])


def curve_table(chosen: Selection, points: Sequence[tuple[Proportion, Rise]]) -> Table:
    """A row per number of features."""
    rows: list[Row] = []
    for n, (success, cost) in enumerate(points):
        at, feature = chosen.order[n - 1] if n else (-1, -1)
        place = chosen.sites[at].hookpoint if n else ""
        numbers = {**_share("greedy", success), **_rise(cost), "chosen": int(n == chosen.n_chosen)}
        rows.append({"hookpoint": place, "feature": feature, **numbers})
    return _table("features", CURVE, rows, [str(n) for n in range(len(points))])


def candidates_table(chosen: Selection) -> Table:
    """A row per candidate, the best first at each hookpoint."""
    taken, rows = set(chosen.order[: chosen.n_chosen]), []
    for at, site in enumerate(chosen.sites):
        share = site.share
        best = chosen.scores[at].max(0).values
        for place in best.argsort(descending=True).tolist():
            feature = chosen.places[at][place]
            rows.append(
                {
                    "hookpoint": site.hookpoint, "feature": feature, "score": float(best[place]),
                    "contrast": float(chosen.contrasts[at][feature]), "rate": float(chosen.rates[at][feature]),
                    "share": float(share[feature]), "cost": chosen.costs.get((at, feature), np.nan),
                    "taken": int((at, feature) in taken),
                }
            )  # fmt: skip
    return _table("candidate", CANDIDATES, rows, [str(i) for i in range(len(rows))])


def detectors_table(found: Sequence[Detector]) -> Table:
    """A row per detector."""
    names = [f"{one.kind} {one.feature}" if one.feature >= 0 else one.kind for one in found]
    return _table(
        "detector",
        DETECTORS,
        [asdict(one) for one in found],
        [f"{name} at {one.hookpoint}" for name, one in zip(names, found, strict=True)],
    )


def _share(name: str, found: Proportion) -> Row:
    low, high = found.interval
    return {name: found.share, f"{name}_low": low, f"{name}_high": high}


def _rise(found: Rise) -> Row:
    low, high = found.interval or (np.nan, np.nan)
    return {"clean": found.value, "clean_low": low, "clean_high": high}


def _table(axis: str, columns: Sequence[Column], rows: Sequence[Row], names: Sequence[str]) -> Table:
    kinds = {"text": object, "integer": np.int64}
    values = {c.name: np.array([row[c.name] for row in rows], dtype=kinds.get(c.format, np.float64)) for c in columns}
    return Table(axes=(axis,), columns=tuple(columns), values=values, coordinates={axis: list(names)})
