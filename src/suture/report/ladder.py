"""The report's section on a ladder of sizes: its pairs, and what a dictionary of all is worth beside native ones."""

from collections.abc import Sequence

from suture.pipeline.table import Table
from suture.report.html import Html, join, tag
from suture.report.parts import section, table
from suture.stitching.ladder import StitchingStudy

AUC, ENDS = "auc", ("auc_low", "auc_high")


def ladder_section(found: Sequence[tuple[str, StitchingStudy]]) -> Html | None:
    """All ladders, each with its name; None where there are none."""
    return section("ladder", "Ladders of sizes", [_of(name, one) for name, one in found]) if found else None


def _of(name: str, found: StitchingStudy) -> Html:
    said = tag("ul", [tag("li", f"{sentence}.") for sentence in found.sentences])
    return join([tag("h3", name), said, _records(found.pairs, "Neighbouring sizes"), _told(found.pairs),
                 _records(found.fits, "Dictionaries at one L0")])  # fmt: skip


def _records(own: Table, label: str) -> Html:
    """A table's columns of one number a row."""
    (axis,) = own.axes
    columns = [c for c in own.columns if own[c.name].ndim == 1]
    head = [axis, *(tag("span", c.title, title=c.sentence) for c in columns)]
    rows = [[name, *(c.write(own[c.name][i]) for c in columns)] for i, name in enumerate(own.coordinates[axis])]
    return table(head, rows, label=label)


def _told(pairs: Table) -> Html:
    """How well each stand-in tells, with its interval, pair by pair."""
    column = next(c for c in pairs.columns if c.name == AUC)
    head = ["ROC-AUC (95 %)", *(name.replace("_", " ") for name in pairs.coordinates["proxy"])]
    rows = []
    for i, pair in enumerate(pairs.coordinates["pair"]):
        cells = [[column.write(pairs[name][i, j]) for name in (AUC, *ENDS)] for j in range(len(head) - 1)]
        rows.append([pair, *(f"{auc} ({low} to {high})" for auc, low, high in cells)])
    return table(head, rows, label="How well stand-ins tell novel features, pair by pair")
