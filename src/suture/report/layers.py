"""The report's section on layers: a heat map of every measure, the cells not told apart from the best one marked."""

from collections.abc import Sequence
from pathlib import Path

from suture import units
from suture.matching.calibrate import TOLD_APART
from suture.matching.layers import TITLES, Best, Layers
from suture.report.html import Html, join, tag
from suture.report.parts import heat_table, section

_NOTE = (
    "Rows: hookpoints of the first model, columns: of the second. Shade: how far a cell lies above chance (0) on the "
    "way to identity (1). Small below: what the token alone gives, and what random weights in the second model give "
    "where that was measured. The best cell is marked with a star, those not told apart from it with a circle."
)


def layers_section(found: Sequence[Layers]) -> Html | None:
    """All comparisons of layers; None where there are none."""
    if not found:
        return None
    return section("layers", "Which layers correspond", [_of(one) for one in found], tag("p", _NOTE, class_="note"))


def _of(found: Layers) -> Html:
    one, other = (Path(model).name for model in found.models)
    counted = f"{units.count(found.n_rows)} rows of {units.count(found.n_documents)} documents"
    return join(
        [tag("h3", f"{one} and {other}"), tag("p", counted, class_="note"), *(_map(found, b) for b in found.best)]
    )


def _map(found: Layers, best: Best) -> Html:
    table, name = found.table, best.measure
    ones, others = (table.coordinates[axis] for axis in table.axes)
    random = table[f"{name}_random"] if f"{name}_random" in table.values else None
    rows = []
    for i, one in enumerate(ones):
        cells = []
        for j, other in enumerate(others):
            below = [f"token {units.correlation(float(table[f'{name}_token'][i, j]))}"]
            below += [] if random is None else [f"random {units.correlation(float(random[i, j]))}"]
            mark = ""
            if (one, other) == (best.one, best.other):
                mark = " \u2605"
            elif table[f"{name}_z"][i, j] < TOLD_APART:
                mark = " \u25cb"
            value = units.correlation(float(table[name][i, j]))
            content = join([f"{value}{mark}", tag("small", ", ".join(below))])
            cells.append((content, float(table[f"{name}_calibrated"][i, j])))
        rows.append((one, cells))
    heat = heat_table(list(others), rows, label=f"{TITLES[name]} of every pair of layers", small=True)
    return tag("figure", tag("figcaption", tag("strong", TITLES[name]), " ", best.sentence), heat)
