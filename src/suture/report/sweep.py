"""The report's section on a sweep: a row for each cell, every column with its sentence."""

from dataclasses import dataclass
from pathlib import Path

from suture.pipeline import artifact
from suture.pipeline.table import Table
from suture.report.html import Html, tag
from suture.report.parts import section

STAGE, FILE = "sweep", "cells.safetensors"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep found."""

    table: Table

    @staticmethod
    def load(path: str | Path) -> "Sweep":
        """Read it from its folder.

        Raises:
            ArtifactError: not a finished sweep.
        """
        artifact.open_artifact(path, stage=STAGE)
        return Sweep(table=Table.load(Path(path) / FILE))


def sweep_section(found: Sweep) -> Html:
    """The table of cells."""
    table = found.table
    head = [tag("th", column.title, title=column.sentence, scope="col") for column in table.columns]
    values = [table.values[column.name].tolist() for column in table.columns]
    rows = [
        tag("tr", [tag("td", column.write(value)) for column, value in zip(table.columns, row, strict=True)])
        for row in zip(*values, strict=True)
    ]
    legend = [tag("li", tag("b", column.title), " ", column.sentence) for column in table.columns]
    grid = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    box = tag("div", grid, class_="scroll", tabindex=0, role="region", aria_label="Cells")
    return section("sweep", "The cells", box, tag("details", tag("summary", "What the columns say"), tag("ul", legend)))
