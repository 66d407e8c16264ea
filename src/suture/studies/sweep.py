"""A sweep: a study file becomes jobs, the runner does what is left of them, and a table says what came out.

1. One store for each set of models, one dictionary and one feature table for each cell: `OUT/store..`,
   `OUT/cells/NAME/dictionary` and `/features`.
2. The runner keeps what is done and goes on after a failure.
3. `OUT/sweep`: a row for each cell that is done. `OUT/report.html`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from suture.errors import UserError
from suture.labels import DEAD, OPEN, SHARED, is_exclusive
from suture.pipeline import artifact
from suture.pipeline.job import Context, Job, Tell, silent
from suture.pipeline.table import Column, Table
from suture.report.page import report
from suture.report.sweep import FILE
from suture.sweep.file import Cell, read_study
from suture.sweep.run import JobResult, run_jobs
from suture.sweep.stages import collect_job, features_job, train_job

STAGE, REPORT = "sweep", "report.html"
STATES = ("made", "kept", "failed", "not run")
NAME_LENGTH = 120
"""Longest name of a cell's folder."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell of the file, and the jobs that make it."""

    cell: Cell
    folder: Path
    store: Path | Job
    dictionary: Job | None
    features: Job | None


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Where a sweep's results are, and what they say."""

    out: Path
    report: Path | None
    """None where no cell was done."""
    table: Table | None = field(repr=False)
    jobs: tuple[JobResult, ...] = field(repr=False)

    @property
    def failed(self) -> tuple[JobResult, ...]:
        """The jobs that failed, or were not run for want of those."""
        return tuple(r for r in self.jobs if r.state in ("failed", "not run"))

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        table = self.table
        rows = [] if table is None else [dict(zip(names(table), row, strict=True)) for row in rows_of(table)]
        return {
            "out": str(self.out),
            "report": None if self.report is None else str(self.report),
            "cells": rows,
            "jobs": {
                state: sum(r.state == state for r in self.jobs) for state in ("made", "kept", "failed", "not run")
            },
            "failed": [{"job": r.job.name, "state": r.state, "error": r.error} for r in self.failed],
        }

    def text(self) -> str:
        """A line per cell, then what failed, with its error."""
        lines = []
        if self.table is not None:
            columns = self.table.columns
            shown = [[c.write(v) for c, v in zip(columns, row, strict=True)] for row in rows_of(self.table)]
            laid = [[c.title for c in columns], *shown]
            widths = [max(len(row[i]) for row in laid) for i in range(len(laid[0]))]
            lines += ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in laid]
        for result in self.failed:
            lines.append(f"{result.state}: {result.job.name}: {(result.error or '').strip().splitlines()[-1]}")
        return "\n".join([*lines, f"report: {self.report.resolve()}" if self.report else "no cell is done"])


def sweep(
    file: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    ray: str | None = None,
    overwrite: bool = False,
    tell: Tell | None = None,
    command: str | None = None,
) -> SweepResult:
    """Run every cell of a study file into the folder `out`; cells done with the same settings and inputs are kept.

    Args:
        file: see `suture.sweep.file`.
        out: the folder of everything.
        workers: processes of this machine.
        ray: address of a Ray cluster, instead.
        overwrite: replace cells that were made with other settings.
        tell: told (what, done, total, note).
        command: the shell command, for the records.

    Raises:
        UserError: the file is wrong, or `out` is a file.
    """
    out, file = Path(out), Path(file)
    if out.is_file():
        raise UserError("out", out, "is a file", "name a folder")
    planned = plan(read_study(file).cells(), out)
    context = Context(overwrite=overwrite, command=command, tell=tell or silent)
    results = run_jobs(jobs_of(planned), context, workers=workers, ray=ray)  # 2
    state = {r.job.out: r for r in results}
    done = [p for p in planned if p.features is not None and state[p.features.out].state in ("made", "kept")]
    if not done:
        return SweepResult(out=out, report=None, table=None, jobs=results)
    table = table_of(done)  # 3
    settings = {"file": file.read_text(encoding="utf-8"), "n_cells": len(planned)}
    parents = [p.features.out for p in done if p.features is not None]
    with artifact.create(
        out / STAGE, stage=STAGE, settings=settings, parents=parents, overwrite=True, command=command
    ) as draft:
        table.save(draft.folder / FILE)
    page = report(out / REPORT, [out / STAGE], title="A sweep", commands=[command] if command else [])
    return SweepResult(out=out, report=page, table=table, jobs=results)


def plan(cells: Sequence[Cell], out: Path) -> list[PlannedCell]:
    """The jobs of every cell; those that share a store share its job.  (1)"""
    collections = list(dict.fromkeys(cell.collect for cell in cells if cell.collect is not None))
    stores = {
        settings: collect_job(
            f"collect {n}" if len(collections) > 1 else "collect",
            out / ("store" if len(collections) == 1 else f"store-{n}"),
            settings,
        )
        for n, settings in enumerate(collections)
    }
    planned = []
    for cell in cells:
        folder = out / "cells" / folder_name(cell.name)
        store: Path | Job = stores[cell.collect] if cell.collect is not None else Path(cell.store or "")
        dictionary = described = None
        if cell.train is not None:
            dictionary = train_job(f"train {cell.name}".rstrip(), folder / "dictionary", store, cell.train)
            described = features_job(
                f"describe {cell.name}".rstrip(), folder / "features", dictionary, store, cell.features
            )
        planned.append(PlannedCell(cell=cell, folder=folder, store=store, dictionary=dictionary, features=described))
    return planned


def jobs_of(planned: Sequence[PlannedCell]) -> list[Job]:
    """All of them, none twice, those that others need first."""
    every = [job for p in planned for job in (p.store, p.dictionary, p.features) if isinstance(job, Job)]
    return list({job.out: job for job in every}.values())


def folder_name(cell: str) -> str:
    """What a cell's folder is called.

    >>> folder_name("train.k=16 at=mlp0.out,mlp1.out"), folder_name("")
    ('train.k=16+at=mlp0.out,mlp1.out', 'only')
    """
    name = re.sub(r"[^\w.,=+-]+", "+", cell).strip("+")
    return name[:NAME_LENGTH] or "only"


def table_of(done: Sequence[PlannedCell]) -> Table:
    """A row for each cell: what sets it apart, and what came out."""
    found = [_numbers(p) for p in done]
    keys = list(dict.fromkeys(key for numbers in found for key in numbers))
    columns = [Column(name="cell", title="Cell", sentence="What sets the cell apart.", format="text")]
    columns += [_column(key) for key in keys]
    values: dict[str, np.ndarray] = {"cell": np.array([p.cell.name or "only" for p in done], dtype=object)}
    values |= {key: np.array([numbers.get(key, np.nan) for numbers in found], dtype=float) for key in keys}
    return Table(axes=("cell",), columns=tuple(columns), values=values)


def names(table: Table) -> list[str]:
    """Of its columns."""
    return [column.name for column in table.columns]


def rows_of(table: Table) -> list[list[Any]]:
    """Its rows, as plain values."""
    return [list(row) for row in zip(*(table.values[name].tolist() for name in names(table)), strict=True)]


SAID = {
    "features": ("Features", "Size of the dictionary.", "integer", None),
    "k": ("k", "Active features asked for.", "integer", None),
    "seed": ("Seed", "Of weights and order.", "integer", None),
    "l0": ("L0", "Active features of a held-out row, on average.", "number", None),
    "dead": ("Dead", "Share of features that never fire on held-out rows.", "percent", "low"),
    "exclusive": ("Exclusive", "Share of live features that some model is said to lack.", "percent", None),
    "shared": ("Shared", "Share of live features that every model has.", "percent", None),
    "open": ("Open", "Share of live features said to be neither: one-sided, drifted or ambiguous.", "percent", None),
    "seconds": ("Seconds", "Wall time of training.", "number", "low"),
}


def _column(key: str) -> Column:
    if key.startswith("fvu_"):
        said = f"Share of model {key[-1]}'s variance that the dictionary leaves unexplained, on held-out rows."
        return Column(name=key, title=f"FVU {key[-1]}", sentence=said, format="share", better="low")
    title, sentence, style, better = SAID[key]
    return Column(name=key, title=title, sentence=sentence, format=style, better=better)  # pyright: ignore[reportArgumentType]


def _numbers(planned: PlannedCell) -> dict[str, float]:
    assert planned.dictionary is not None
    assert planned.features is not None
    assert planned.cell.train is not None
    made = artifact.open_artifact(planned.dictionary.out)
    evaluation = artifact.read_json(planned.dictionary.out / "evaluation.json")
    counts = artifact.read_json(planned.features.out / "summary.json")["counts"]
    live = max(1, sum(n for label, n in counts.items() if label != DEAD))
    design = planned.cell.train.design
    return {
        "features": design.n_features,
        "k": design.sparsity.k,
        "seed": planned.cell.train.seed,
        **{f"fvu_{ascii_uppercase[m]}": fvu for m, fvu in enumerate(evaluation["fvu"])},
        "l0": evaluation["l0"],
        "dead": evaluation["dead"],
        "shared": counts.get(SHARED, 0) / live,
        "exclusive": sum(n for label, n in counts.items() if is_exclusive(label)) / live,
        "open": sum(counts.get(label, 0) for label in OPEN) / live,
        "seconds": made.seconds,
    }
