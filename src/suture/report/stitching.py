"""The report's section on stitching: what is novel, what tells it without measuring, and the path between two sizes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suture import units
from suture.report.figures import Figure
from suture.report.html import Html, join, tag
from suture.report.parts import figure, section, table
from suture.stitching.path import DROP, INSERT, SWAP
from suture.stitching.stitch import Stitching

BOUNDARY = 0.5**0.5
"""Of a cosine: what remains of a concept that the small dictionary has at cosine c is 1 - c^2, and novel above 1/2."""
DECODER_COSINE = "decoder_cosine"
MOST_POINTS = 2000
"""Features drawn in a scatter, evenly spaced over all."""


def stitching_section(found: Sequence[tuple[str, Stitching]]) -> Html | None:
    """All stitched dictionaries, each with its name; None where there are none."""
    if not found:
        return None
    return section("stitching", "Stitched dictionaries", [_of(name, one, i) for i, (name, one) in enumerate(found)])


def _of(name: str, found: Stitching, number: int) -> Html:
    s = found.summary
    share = "" if s.novel_share is None else f" ({units.percent(s.novel_share)} of the decided ones)"
    counts = ", ".join(f"{units.count(n)} {label}" for label, n in s.labels.items())
    small, large = (Path(part).name for part in s.parts[:2])
    said = (
        f"Features of {large} to {small}: {counts}; novel ones surely lower its error when "
        f"they are added{share}. Judged on {units.count(s.n_rows)} rows of {units.count(s.n_documents)} documents."
    )
    parts: list[Any] = [
        tag("h3", name),
        tag("p", said, class_="note"),
        figure(
            path_figure(found),
            f"path-{number}",
            title="The path from the small to the large dictionary",
            caption=_path_caption(found),
        ),
    ]
    scatter = delta_figure(found)
    if scatter is not None:
        title = "Does a cosine tell what adding a feature does?"
        parts.append(figure(scatter, f"delta-{number}", title=title, caption=_scatter_caption(found)))
    return join([*parts, _proxies(found), _components(found), _fits(found)])


def path_figure(found: Stitching) -> Figure:
    """FVU, its mean over the spaces, at every step of the path, the phases apart."""
    fvu, phase = found.steps["fvu"].mean(1), found.steps["phase"]
    steps = np.arange(len(fvu))
    first_swap = next((i for i, name in enumerate(phase) if name not in ("start", INSERT)), len(fvu))
    parts = (("novel features put in", steps < first_swap, "A"), ("the rest swapped", steps >= first_swap - 1, "B"))
    data: list[dict[str, Any]] = []
    for name, chosen, role in parts:
        if chosen.sum() > 1:
            data.append(_line(name, steps[chosen], fvu[chosen], role))
    for name, at in ((Path(found.summary.parts[0]).name, 0), (Path(found.summary.parts[1]).name, len(fvu) - 1)):
        data.append(_mark(name, at, float(fvu[at])))
    layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "FVU"}}}
    return {"data": data, "layout": layout, "alt": "FVU at every step from the small to the large dictionary."}


def delta_figure(found: Stitching) -> Figure | None:
    """Change of MSE of adding a feature against its decoder cosine, by label, with the boundary; None of dead ones."""
    label, delta, cosine = (found.latents[name] for name in ("label", "delta", "decoder_cosine"))
    alive = np.flatnonzero((label != "dead") & np.isfinite(delta) & np.isfinite(cosine))
    if not len(alive):
        return None
    alive = alive[:: -(-len(alive) // MOST_POINTS)]
    data: list[dict[str, Any]] = []
    for name, role, mark in (("novel", "A", "circle"), ("reconstruction", "B", "square"), ("undecided", "muted", "x")):
        own = alive[label[alive] == name]
        if len(own):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [_short(v) for v in cosine[own]],
                    "y": [_short(v) for v in delta[own]],
                    "text": [str(i) for i in own],
                    "marker": {"size": 5, "symbol": mark},
                    "meta": {"role": role, "control": True},
                    "hovertemplate": "feature %{text}: cosine %{x:.2f}, change %{y:.3g}<extra>" + name + "</extra>",
                }
            )
    ends = [_short(float(v)) for v in (delta[alive].min(), delta[alive].max())]
    boundary = _line(f"cosine {BOUNDARY:.2f}", np.full(2, BOUNDARY), np.array(ends), "muted")
    data.append(boundary)
    layout = {"xaxis": {"title": {"text": "largest decoder cosine"}}, "yaxis": {"title": {"text": "change of MSE"}}}
    return {"data": data, "layout": layout, "alt": "Change of the error when a feature is added, against its cosine."}


def _scatter_caption(found: Stitching) -> str:
    """What is drawn, where the boundary would lie, and how well the cosine tells."""
    values = {c.name: c.write(found.proxies[c.name][list(found.proxies.coordinates["proxy"]).index(DECODER_COSINE)])
              for c in found.proxies.columns}  # fmt: skip
    ends = f" (95 % interval {values['roc_low']} to {values['roc_high']})" if "roc_low" in values else ""
    return (
        "Each feature of the large dictionary: its largest cosine with one of the small, and what adding it does; "
        f"below 0 it lowers the error. What the small one has at cosine {BOUNDARY:.2f} is as good added as not: the "
        f"line. On other documents the cosine tells novel features with ROC-AUC {values['roc_auc']}{ends}."
    )


def _path_caption(found: Stitching) -> str:
    walked = [
        f"{units.count(up)} of {units.count(n)} {phase}" for phase, (up, n) in found.summary.violations.items() if n
    ]
    return f"Steps after which the error is larger than before: {', '.join(walked)}."


def _proxies(found: Stitching) -> Html:
    names, columns = found.proxies.coordinates["proxy"], found.proxies.columns
    rows = [
        [name.replace("_", " "), *(column.write(found.proxies[column.name][i]) for column in columns)]
        for i, name in enumerate(names)
    ]
    head = ["Told without measuring", *(tag("span", c.title, title=c.sentence) for c in columns)]
    return table(head, rows, label="How well stand-ins tell novel features")


def _components(found: Stitching) -> Html | None:
    """How many features of either side a swap moves."""
    phase = found.steps["phase"]
    moved = Counter(int(step) for step in found.moves["step"])
    sizes = Counter(moved[step] for step, name in enumerate(phase) if name in (SWAP, DROP))
    if not sizes:
        return None
    rows = [[units.count(size), units.count(n)] for size, n in sorted(sizes.items())]
    return table(["Features moved together", "Steps"], rows, label="Sizes of what is swapped together")


def _fits(found: Stitching) -> Html:
    rows = [
        [Path(fit.name).name, units.count(fit.n_features), f"{fit.l0:.1f}", ", ".join(units.fvu(v) for v in fit.fvu)]
        for fit in found.summary.fits
    ]
    return table(["Dictionary", "Features", "L0", "FVU"], rows, label="How well each dictionary does")


def _line(name: str, x: np.ndarray, y: np.ndarray, role: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x.tolist(),
        "y": [_short(v) for v in y],
        "line": {"width": 2, "dash": "solid" if role == "A" else "dash"},
        "meta": {"role": role},
        "hovertemplate": "step %{x}: FVU %{y:.3f}<extra>" + name + "</extra>",
    }


def _mark(name: str, x: int, y: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name.replace("<", "&lt;"),
        "x": [x],
        "y": [_short(y)],
        "marker": {"size": 9, "symbol": "diamond"},
        "meta": {"role": "shared"},
        "hovertemplate": "FVU %{y:.3f}<extra></extra>",
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
