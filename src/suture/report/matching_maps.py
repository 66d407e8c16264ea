"""The data of a matching's linked maps, in the small form that the page's scripts unpack."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from suture.matching.examples import Example, Examples
from suture.matching.kinds import KINDS
from suture.matching.match import Matching
from suture.pipeline.table import Table
from suture.report.gather import short_labels
from suture.report.html import Html, tag
from suture.report.payload import Limits
from suture.report.pieces import Beside, inline, packed

BLOCK = 256
"""Features whose rows are one piece of data."""
STEPS = 4095
"""Places along an axis of a map."""


def maps(found: Matching, number: int, limits: Limits, beside: Beside) -> list[Html]:
    """Where the maps stand, and their data; nothing for a matching without maps."""
    sides = (found.features_a, found.features_b)
    if any("map_x" not in side.values or not np.isfinite(side["map_x"]).all() for side in sides):
        return []
    own = f"m{number}"
    subjects = ["", *sorted({str(s) for side in sides for s in side["subject"]} - {""})]
    index = {
        "names": short_labels(list(found.summary.spaces)),
        "kinds": list(KINDS),
        "subjects": subjects,
        "a": _side(found.features_a, subjects),
        "b": _side(found.features_b, subjects),
    }
    data = [tag("div", class_="match-maps", data_matching=own), inline(own, packed(index))]
    whole = sum(len(side) for side in sides) <= limits.n_inline
    for name, content in _blocks(found.examples):
        if whole:
            data.append(inline(f"{own}-{name}", packed(content)))
        else:
            beside.write(f"{own}-{name}", packed(content))
    return data


def _side(table: Table, subjects: Sequence[str]) -> dict[str, Any]:
    numbered = {name: i for i, name in enumerate(subjects)}
    x, y = _even(table["map_x"], -table["map_y"])
    return {
        "x": x,
        "y": y,
        "kind": [KINDS.index(kind) for kind in table["kind"]],
        "partner": table["partner"].astype(int).tolist(),
        "token": table["token_only"].astype(int).tolist(),
        "r": _hundredths(table["r"]),
        "ctx": _hundredths(table["r_ctx"]),
        "jaccard": _hundredths(table["jaccard"]),
        "rows": table["rows"].astype(int).tolist(),
        "words": table["words"].tolist(),
        "subject": [numbered[str(s)] for s in table["subject"]],
    }


def _even(x: ndarray, y: ndarray) -> tuple[list[int], list[int]]:
    """Both axes from 0 to STEPS; one far point does not press the others into a corner."""
    found = []
    for values in (x, y):
        low, high = np.quantile(values, [0.002, 0.998])
        room = max(high - low, 1e-9)
        found.append(np.clip((values - low) / room * (STEPS - 80) + 40, 0, STEPS).round().astype(int).tolist())
    return found[0], found[1]


def _hundredths(values: ndarray) -> list[int | None]:
    return [None if not np.isfinite(v) else round(100 * float(v)) for v in values]


def _blocks(examples: Examples | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, content) of every block of features' rows: its own passages, and per feature which and the values."""
    if examples is None:
        return
    for letter, side in (("x", examples.a), ("y", examples.b)):
        for start in range(0, len(side), BLOCK):
            yield f"{letter}{start // BLOCK}", _block(examples, side[start : start + BLOCK])


def _block(examples: Examples, part: Sequence[Sequence[Example]]) -> dict[str, Any]:
    numbers = {number: i for i, number in enumerate(dict.fromkeys(one[0] for own in part for one in own))}
    return {
        "passages": [list(examples.passages[number]) for number in numbers],
        "rows": [[[numbers[one[0]], one[1], one[2]] for one in own] for own in part],
    }
