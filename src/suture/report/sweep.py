"""The report's section on a sweep: heat maps of layer against layer, a row for each cell; either opens a cell's page.

1. Cells that differ in nothing but their two hookpoints are a map: rows are the first model's, columns the second's,
   shaded by the share of features that both have. There is one map for each choice of the other settings.
2. A row for each cell, every column with its sentence.
3. A cell's page is another file, beside its results: links are relative, so that the sweep's folder may be moved.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from suture import units
from suture.pipeline import artifact
from suture.pipeline.table import Column, Table
from suture.report.html import Child, Html, join, tag
from suture.report.parts import heat_table, section

STAGE, FILE = "sweep", "cells.safetensors"
PAGE = Column(
    name="page", title="Page", format="text", sentence="The cell's own page, seen from the folder of the sweep."
)
MAPPED = ("shared", "beyond_token_A")
"""What a map shows: the first of these that the table has."""
OUTCOMES = ("seconds", "l0", "dead", "exclusive", "open", *MAPPED)
"""Columns that say what came out; with those of one model, whose names end in `_` and its letter."""
PLACES = ("at_A", "at_B")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep found."""

    table: Table
    folder: Path | None = None
    """Of the whole sweep: cells' pages are named from there."""

    @staticmethod
    def load(path: str | Path) -> "Sweep":
        """Read it from its folder.

        Raises:
            ArtifactError: not a finished sweep.
        """
        artifact.open_artifact(path, stage=STAGE)
        return Sweep(table=Table.load(Path(path) / FILE), folder=Path(path).resolve().parent)

    def link(self, cell: int, out: Path, words: Child) -> Child:
        """A link from the page `out` to a cell's page; the words alone where there is none."""
        page = str(self.table[PAGE.name][cell]) if PAGE.name in self.table.values else ""
        if not page or self.folder is None or not (self.folder / page).is_file():
            return words
        return tag("a", words, href=Path(os.path.relpath(self.folder / page, out.resolve().parent)).as_posix())


def sweep_section(found: Sweep, out: Path) -> Html:
    """The maps and the table of cells, on the page `out`."""
    table = found.table
    columns = [column for column in table.columns if column.name != PAGE.name]
    head = [tag("th", column.title, title=column.sentence, scope="col") for column in columns]
    rows = []
    for cell in range(len(table)):
        first, *rest = (column.write(table[column.name].tolist()[cell]) for column in columns)
        rows.append(tag("tr", tag("td", found.link(cell, out, first)), [tag("td", one) for one in rest]))
    legend = [tag("li", tag("b", column.title), " ", column.sentence) for column in columns]
    grid = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    box = tag("div", grid, class_="scroll", tabindex=0, role="region", aria_label="Cells")
    explained = tag("details", tag("summary", "What the columns say"), tag("ul", legend))
    return section("sweep", "The cells", list(_maps(found, out)), box, explained)


def _maps(found: Sweep, out: Path) -> Iterator[Html]:
    """1."""
    table = found.table
    known = {column.name: column for column in table.columns}
    shown = next((known[name] for name in MAPPED if name in known), None)
    if shown is None or any(place not in known for place in PLACES):
        return
    chosen = [c.name for c in table.columns if _is_chosen(c)]
    groups: dict[tuple[str, ...], list[int]] = {}
    for cell in range(len(table)):
        key = tuple(known[name].write(table[name].tolist()[cell]) for name in chosen)
        groups.setdefault(key, []).append(cell)
    varied = [i for i, _ in enumerate(chosen) if len({key[i] for key in groups}) > 1]
    for key, cells in groups.items():
        ones, others = (list(dict.fromkeys(map(str, table[place][cells]))) for place in PLACES)
        if len(cells) > 1 and len(ones) * len(others) > 1:
            words = ", ".join(f"{known[chosen[i]].title} {key[i]}" for i in varied)
            yield _map(found, shown, cells, (ones, others), words, out)


def _map(
    found: Sweep, shown: Column, cells: Sequence[int], axes: tuple[list[str], list[str]], words: str, out: Path
) -> Html:
    table = found.table
    at = {(str(table["at_A"][c]), str(table["at_B"][c])): c for c in cells}
    best = max(cells, key=lambda c: -math.inf if math.isnan(table[shown.name][c]) else float(table[shown.name][c]))
    rows = []
    for one in axes[0]:
        row: list[tuple[Child, float]] = []
        for other in axes[1]:
            cell = at.get((one, other))
            if cell is None:
                row.append(("", 0.0))
                continue
            value = float(table[shown.name][cell])
            mark = " \u2605" if cell == best else ""
            known = 0.0 if math.isnan(value) else value
            row.append((found.link(cell, out, f"{units.percent(value)}{mark}"), known))
        rows.append((one, row))
    most = f"{table['at_A'][best]} with {table['at_B'][best]}"
    said = f"Largest of {units.count(len(cells))} cells: {most}, {shown.write(float(table[shown.name][best]))}."
    caption = tag("figcaption", tag("strong", shown.title if not words else f"{shown.title}: {words}"), " ", said)
    note = tag("p", f"{shown.sentence} A cell opens its page.", class_="note")
    return join([tag("figure", caption, heat_table(axes[1], rows, label=f"{shown.title}, cell by cell")), note])


def _is_chosen(column: Column) -> bool:
    """Whether a column sets a map's cells apart from another map's: how they were made, and where in a third model."""
    if column.name.startswith("at_"):
        return column.name not in PLACES
    outcome = column.name in OUTCOMES or (column.name[-2:-1] == "_" and column.name[-1].isupper())
    return not outcome and column.name not in ("cell", PAGE.name)
