"""A sweep: a study file becomes jobs, the runner does what is left of them, and a table says what came out.

1. One store for each set of models, one dictionary and one feature table for each cell: `OUT/store`,
   `OUT/cells/NAME/dictionary` and `/features`. Where dictionaries are matched there is one for each space, which cells
   share (`OUT/dictionaries/NAME`), and a matching for each cell (`OUT/cells/NAME/matching`). A folder is named by its
   settings, so that a sweep may grow: more values, or another axis, leave what is done where it is.
2. The runner keeps what is done and goes on after a failure.
3. `OUT/sweep`: a row for each cell that is done. `OUT/report.html`, whose cells open a page of their own each,
   `OUT/cells/NAME/report.html`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from suture.dictionary.dictionary import EVALUATION
from suture.errors import UserError
from suture.features.table import SUMMARY
from suture.labels import DEAD, OPEN, SHARED, is_exclusive
from suture.matching.match import Matching
from suture.pipeline import artifact
from suture.pipeline.job import Context, Job, Tell, silent
from suture.pipeline.settings import to_mapping
from suture.pipeline.table import Column, Table, Tabular
from suture.report.page import report
from suture.report.sweep import FILE, PAGE, STAGE
from suture.sweep.file import Cell, preset, read_study
from suture.sweep.run import PATIENCE, JobResult, State, in_words, run_jobs
from suture.sweep.stages import collect_job, features_job, import_job, match_job, train_job

REPORT = "report.html"
STATES: tuple[State, ...] = ("made", "kept", "failed", "not run")


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell of the file, and the jobs that make it."""

    cell: Cell
    folder: Path
    store: Path | Job
    dictionaries: tuple[Job, ...]
    """One, or the two that are matched."""
    result: Job | None
    """The last of its jobs: its feature table or its matching."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult(Tabular):
    """Where a sweep's results are, and what they say."""

    out: Path
    report: Path | None
    """None where no cell was done."""
    cells: Table | None
    jobs: tuple[JobResult, ...]

    @property
    def table(self) -> Table:
        """A row for each cell that is done.

        Raises:
            UserError: there is none.
        """
        if self.cells is None:
            raise UserError("sweep", self.out, "has no cell that is done", "see what failed: .failed")
        return self.cells

    @property
    def failed(self) -> tuple[JobResult, ...]:
        """The jobs that failed, or were not run for want of those."""
        return tuple(result for result in self.jobs if not result.is_done)

    def count(self, state: State) -> int:
        """The jobs that ended so."""
        return sum(result.state == state for result in self.jobs)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(state)} {state}" for state in STATES if self.count(state))
        return f"Sweep({self.out}: {0 if self.cells is None else len(self.cells)} cells; jobs: {counts})"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "out": str(self.out),
            "report": None if self.report is None else str(self.report),
            "cells": [] if self.cells is None else self.cells.records(),
            "columns": [] if self.cells is None else [column.to_json() for column in self.cells.columns],
            "jobs": {state: self.count(state) for state in STATES},
            "failed": [{"job": r.job.name, "state": r.state, "error": in_words(r.error)} for r in self.failed],
        }

    def text(self) -> str:
        """A line per cell, and how many jobs ended how."""
        counts = ", ".join(f"{self.count(state)} {state}" for state in STATES if self.count(state))
        lines = [*([] if self.cells is None else _laid(self.cells)), f"jobs: {counts}"]
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
    cells = read_study(file).cells()
    if any(cell.train is None and not cell.imports for cell in cells):
        raise UserError("study", file, "trains nothing", "add a [train] table")
    planned = plan(cells, out)
    context = Context(overwrite=overwrite, command=command, tell=tell or silent, patience=PATIENCE)
    results = run_jobs(jobs_of(planned), context, workers=workers, ray=ray)  # 2
    is_done = {result.job.out: result.is_done for result in results}
    done = [cell for cell in planned if cell.result is not None and is_done[cell.result.out]]
    if not done:
        return SweepResult(out=out, report=None, cells=None, jobs=results)
    table = table_of(done)  # 3
    parents = [cell.result.out for cell in done if cell.result is not None]
    settings = {"file": preset(file).read_text(encoding="utf-8"), "n_cells": len(planned)}
    whole = {"stage": STAGE, "settings": settings, "parents": parents}
    if not artifact.is_made(out / STAGE, **whole):
        with artifact.create(out / STAGE, **whole, overwrite=True, command=command) as draft:
            table.save(draft.folder / FILE)
    for number, cell in enumerate(done, start=1):
        _write_page(cell)
        context.tell("pages", number, len(done), cell.cell.name)
    page = report(out / REPORT, [out / STAGE], title="A sweep", commands=[command] if command else [])
    return SweepResult(out=out, report=page, cells=table, jobs=results)


def _write_page(planned: PlannedCell) -> None:
    """A cell's page, unless there is one made after its results."""
    assert planned.result is not None
    page = planned.folder / REPORT
    made = [job.out for job in (*planned.dictionaries, planned.result)]
    newest = max((folder / artifact.MANIFEST).stat().st_mtime_ns for folder in made)
    if not page.is_file() or page.stat().st_mtime_ns < newest:
        report(page, made, title=planned.cell.name or "A cell")


def plan(cells: Sequence[Cell], out: Path) -> list[PlannedCell]:
    """The jobs of every cell; those that share a store or a dictionary share its job.  (1)"""
    collections = list(dict.fromkeys(cell.collect for cell in cells if cell.collect is not None))
    single = len(collections) == 1
    stores = {
        settings: collect_job(
            "collect" if single else f"collect {n}",
            out / ("store" if single else f"store-{fingerprint(to_mapping(settings))}"),
            settings,
        )
        for n, settings in enumerate(collections)
    }
    return [_planned(c, out, Path(c.store or "") if c.collect is None else stores[c.collect]) for c in cells]


def _planned(cell: Cell, out: Path, store: Path | Job) -> PlannedCell:
    folder = out / "cells" / folder_name(cell)
    plan = partial(PlannedCell, cell=cell, folder=folder, store=store)
    if cell.match is not None:
        one, two = (_own_dictionary(cell, m, out, store) for m in (0, 1))
        name = f"match {cell.name}".rstrip()
        result = match_job(name, folder / "matching", (one, two), store, cell.match)
        return plan(dictionaries=(one, two), result=result)
    if cell.train is None:
        return plan(dictionaries=(), result=None)
    dictionary = train_job(f"train {cell.name}".rstrip(), folder / "dictionary", store, cell.train)
    name = f"describe {cell.name}".rstrip()
    described = features_job(name, folder / "features", dictionary, store, cell.features)
    return plan(dictionaries=(dictionary,), result=described)


def _own_dictionary(cell: Cell, model: int, out: Path, store: Path | Job) -> Job:
    """The dictionary of one of a cell's two spaces, which all cells with this space share."""
    at = cell.at[model] if cell.at else f"space {model}"
    if cell.imports:
        one = cell.imports[model]
        mark = fingerprint([one.source, to_mapping(one.settings)])
        return import_job(
            f"import {one.source} {at}", out / "dictionaries" / f"imported-{mark}", one.source, one.settings
        )
    own = cell.trainings()[model]
    rows = str(cell.store) if cell.collect is None else to_mapping(cell.collect)
    how = dict.fromkeys(artifact.HOW)
    mark = fingerprint([to_mapping(own) | how, rows if isinstance(rows, str) else rows | how])
    words = [own.design.kind, str(own.design.n_features), f"k{own.design.sparsity.k}", f"seed{own.seed}", mark]
    return train_job(f"train {'AB'[model]} {at}", out / "dictionaries" / "-".join(words), store, own)


def jobs_of(planned: Sequence[PlannedCell]) -> list[Job]:
    """All of them, none twice, those that others need first."""
    every = [job for p in planned for job in (p.store, *p.dictionaries, p.result) if isinstance(job, Job)]
    return list({job.out: job for job in every}.values())


def folder_name(cell: Cell) -> str:
    """What a cell's folder is called: what it is, for people, and a mark of all its settings, whatever is varied."""
    how = dict.fromkeys(artifact.HOW)
    rows = str(cell.store) if cell.collect is None else to_mapping(cell.collect) | how
    if cell.imports:
        assert cell.match is not None
        given = [[one.source, to_mapping(one.settings)] for one in cell.imports]
        return "-".join(["imported", *cell.at, fingerprint([given, to_mapping(cell.match), rows])])
    if cell.train is None:
        return "only"
    design = cell.train.design
    described = to_mapping(cell.features if cell.match is None else cell.match)
    everything = [to_mapping(cell.train) | how, described, rows]
    words = [
        "sae" if cell.match else design.kind,
        str(design.n_features),
        f"k{design.sparsity.k}",
        f"seed{cell.train.seed}",
    ]
    return "-".join([*words, fingerprint(everything)])


def fingerprint(value: Any) -> str:
    """A short mark of plain values.

    >>> fingerprint({"k": 16}) == fingerprint({"k": 16}), fingerprint({"k": 16}) == fingerprint({"k": 32})
    (True, False)
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def table_of(done: Sequence[PlannedCell]) -> Table:
    """A row for each cell: what sets it apart, and what came out."""
    rows = [dict(_settings_of(planned)) | dict(_numbers(planned)) | _page_of(planned) for planned in done]
    keys = {column.name: column for row in rows for column in row}
    values = [[{c.name: v for c, v in row.items()}.get(name) for row in rows] for name in keys]
    columns, arrays = [], {}
    for column, own in zip(keys.values(), values, strict=True):
        columns.append(column)
        arrays[column.name] = (
            np.array(["" if v is None else str(v) for v in own], dtype=object)
            if column.format == "text"
            else np.array([np.nan if v is None else v for v in own], dtype=float)
        )
    return Table(axes=("cell",), columns=tuple(columns), values=arrays)


def _page_of(planned: PlannedCell) -> dict[Column, Any]:
    """Where its page lies."""
    return {PAGE: f"cells/{planned.folder.name}/{REPORT}"}


def _settings_of(planned: PlannedCell) -> Iterator[tuple[Column, Any]]:
    """What sets a cell apart."""
    cell = planned.cell
    yield _text("cell", "Cell", "What sets the cell apart."), cell.name or "only"
    for letter, at in zip(ascii_uppercase, cell.at, strict=False):
        yield _text(f"at_{letter}", f"At {letter}", f"Hookpoint in model {letter}."), at
    if cell.train is None:
        return
    design = cell.train.design
    size = "Size of the dictionary."
    yield Column(name="features", title="Features", sentence=size, format="integer"), design.n_features
    yield Column(name="k", title="k", sentence="Active features asked for.", format="integer"), design.sparsity.k
    yield Column(name="seed", title="Seed", sentence="Of weights and order.", format="integer"), cell.train.seed
    for key, value in cell.chosen.items():
        if key not in ("train.features", "train.k", "train.seed"):
            yield _text(key, key, f"The setting {key}, which is varied."), value


def _numbers(planned: PlannedCell) -> Iterator[tuple[Column, Any]]:
    """What came out of a cell."""
    yield from _matched_numbers(planned) if planned.cell.match is not None else _described_numbers(planned)


def _matched_numbers(planned: PlannedCell) -> Iterator[tuple[Column, Any]]:
    """Of two dictionaries and their matching."""
    assert planned.result is not None
    summary = Matching.load(planned.result.out).summary
    for letter, shares in zip("AB", (summary.a, summary.b), strict=True):
        said = f"Features of {letter} that fire often enough to be asked."
        yield (
            Column(name=f"asked_{letter}", title=f"Asked {letter}", sentence=said, format="integer"),
            shares.n_features,
        )
        for name, title, said in (
            ("beyond_token", "beyond the token", "surely correlated beyond the token with their partner"),
            ("strong", "r of 0.7", "whose partner has r of 0.7 or more"),
            ("same_beyond_token", "same", "called the same, surely beyond the token"),
        ):
            sentence = f"Share of {letter}'s features {said}."
            column = Column(name=f"{name}_{letter}", title=f"{title}, {letter}", sentence=sentence, format="percent")
            yield column, getattr(shares, name)
    yield _seconds("Wall time of matching."), artifact.open_artifact(planned.result.out).seconds


def _described_numbers(planned: PlannedCell) -> Iterator[tuple[Column, Any]]:
    """Of a dictionary and its features."""
    assert planned.result is not None
    (dictionary,) = planned.dictionaries
    evaluation = artifact.read_json(dictionary.out / EVALUATION)
    counts = artifact.read_json(planned.result.out / SUMMARY)["counts"]
    live = max(1, sum(n for label, n in counts.items() if label != DEAD))
    for letter, fvu in zip(ascii_uppercase, evaluation["fvu"], strict=False):
        said = f"Share of model {letter}'s variance that the dictionary leaves unexplained, on held-out rows."
        yield Column(name=f"fvu_{letter}", title=f"FVU {letter}", sentence=said, format="share", better="low"), fvu
    said = "Active features of a held-out row, on average."
    yield Column(name="l0", title="L0", sentence=said), evaluation["l0"]
    said = "Share of features that never fire on held-out rows."
    yield Column(name="dead", title="Dead", sentence=said, format="percent", better="low"), evaluation["dead"]
    said = "Share of live features that every model has."
    yield Column(name="shared", title="Shared", sentence=said, format="percent"), counts.get(SHARED, 0) / live
    said = "Share of live features that some model is said to lack."
    exclusive = sum(n for label, n in counts.items() if is_exclusive(label))
    yield Column(name="exclusive", title="Exclusive", sentence=said, format="percent"), exclusive / live
    said = "Share of live features said to be neither: one-sided, drifted or ambiguous."
    undecided = sum(counts.get(label, 0) for label in OPEN)
    yield Column(name="open", title="Open", sentence=said, format="percent"), undecided / live
    yield _seconds("Wall time of training."), artifact.open_artifact(dictionary.out).seconds


def _seconds(sentence: str) -> Column:
    return Column(name="seconds", title="Seconds", sentence=sentence, unit="seconds")


def _text(name: str, title: str, sentence: str) -> Column:
    return Column(name=name, title=title, sentence=sentence, format="text")


def _laid(table: Table) -> Iterator[str]:
    """A table as lines of text."""
    columns = [column for column in table.columns if column != PAGE]  # the report has the links
    rows = zip(*(table[column.name].tolist() for column in columns), strict=True)
    shown = [[column.write(value) for column, value in zip(columns, row, strict=True)] for row in rows]
    laid = [[column.title for column in columns], *shown]
    widths = [max(len(row[i]) for row in laid) for i in range(len(columns))]
    yield from ("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in laid)
