"""The study of designs: every way to train one dictionary for several models, on the same rows, measured side by side.

1. Which designs apply, with which settings; a mistake in any of them is refused before anything runs.
2. Stores: the rows of every seed and the null made of them (`grounds`).
3. Cells, one per design and seed (`cells`), in this process or in several; those that are done are kept.
4. Prices: FVU less that of the separate dictionaries with as many active features.
5. `OUT/study`: study.json with the designs, the columns, every cell's numbers and their means over seeds.
6. `OUT/report.html`.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from suture.activations.store import Store
from suture.errors import UserError
from suture.pipeline import artifact
from suture.pipeline.job import Context, Tell, silent
from suture.planted.settings import PlantedSettings
from suture.report.page import report
from suture.studies.cells import L0_TOLERANCE, Cell, cell_job
from suture.studies.columns import Column, columns_for, headline, in_words
from suture.studies.designs import Recipe, StudyDesign, chosen_designs, n_weights
from suture.studies.grounds import Ground, LanguageGround, PlantedGround
from suture.studies.measures import prices
from suture.sweep.run import PATIENCE, make
from suture.uncertainty import MeanInterval, mean_interval

STAGE, FILE, MARK = "study", "study.json", "settings.json"
MADE = ("cells", "stores", "store", STAGE)
"""The folders that a study makes in its own."""
TITLE = "Which joint design finds out?"


@dataclass(frozen=True, kw_only=True)
class DesignStudy:
    """What a study of designs is made of; the designs and the number of seeds may grow without changing it."""

    ground: Ground = field(default_factory=lambda: PlantedGround(planted=PlantedSettings()))
    recipe: Recipe = field(default_factory=Recipe)


def planted_study(*, quick: bool = False) -> DesignStudy:
    """The study on planted models; `quick`: less of everything, to see what comes out without waiting for it."""
    if not quick:
        return DesignStudy()
    small = PlantedSettings(widths=(32, 32), n_concepts=64, mean_active=3.0)
    recipe = Recipe(n_features=96, k=4, n_rows=50_000, batch_size=256, described_rows=4_000)
    return DesignStudy(ground=PlantedGround(planted=small, n_stored=15_000), recipe=recipe)


def text_recipe(*, quick: bool = False) -> Recipe:
    """The same for language models."""
    if quick:
        return Recipe(n_features=256, k=8, n_rows=60_000, batch_size=512, described_rows=4_000)
    return Recipe(n_features=1024, k=16, n_rows=600_000)


def text_rows(*, quick: bool = False) -> int:
    """Rows collected from language models where no number is given."""
    return 15_000 if quick else 100_000


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """Where the study's results are, and what they say."""

    out: Path
    report: Path
    study: dict[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"out": str(self.out), "report": str(self.report), **self.study}

    def text(self) -> str:
        """The table's main columns, a line per design."""
        columns = [c for c in self.study["columns"] if c["key"] in headline(len(self.study["models"]))]
        rows = [("", *(c["title"] for c in columns))]
        for name, summary in self.study["summary"].items():
            rows.append((name, *(in_words(summary.get(c["key"]), c["format"]) for c in columns)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self.study["notes"], f"report: {self.report.resolve()}"])


def study_designs(
    out: str | Path,
    study: DesignStudy | None = None,
    *,
    only: Sequence[str] = (),
    n_seeds: int = 3,
    workers: int = 1,
    overwrite: bool = False,
    on_step: Tell | None = None,
    command: str | None = None,
) -> StudyResult:
    """Run the study into the folder `out`; finished cells of the same study are kept unless `overwrite`.

    Args:
        out: the folder of everything.
        study: rows and recipe.
        only: names of designs; all that apply by default.
        n_seeds: seeds 0, 1, ..; each plants or splits anew.
        workers: processes that cells are run in.
        overwrite: start again where `out` holds another study.
        on_step: told (what, done, total, note).
        command: the shell command, for the manifest.

    Raises:
        UserError: `out` holds something else or a study of other settings; a design that there is not; settings that
            a design cannot have.
    """
    out, study, tell = Path(out), study or DesignStudy(), on_step or silent
    for name, value in (("seeds", n_seeds), ("workers", workers)):
        if value < 1:
            raise UserError(name, value, "is less than 1", "give a positive number")
    if (known := study.ground.known_widths) is not None:  # before anything is written
        _check(study.recipe, known, only)
    _prepare(out, study, overwrite=overwrite)
    started = time.monotonic()
    seeds = list(range(n_seeds))
    context = Context(command=command, tell=tell, patience=PATIENCE)
    make(study.ground.jobs(out, seeds), context, workers=workers)  # 2
    rows = {seed: study.ground.rows(out, seed) for seed in seeds}
    null = {seed: study.ground.null(out, seed) for seed in seeds}
    widths = rows[0].widths
    _check(study.recipe, widths, only)
    designs = chosen_designs(len(widths), only)  # 1
    cells = [
        Cell(
            folder=out / "cells" / f"{design.name}-seed{seed}",
            design=design.name,
            seed=seed,
            recipe=study.recipe,
            rows=rows[seed],
            null=null[seed],
            planted=study.ground.of_seed(seed) if isinstance(study.ground, PlantedGround) else None,
            text=study.ground if isinstance(study.ground, LanguageGround) else None,
        )
        for seed in seeds
        for design in designs
        if design.skipped(widths) is None
    ]
    make(map(cell_job, cells), context, workers=workers)  # 3
    measured = [cell.numbers for cell in cells]
    content = table(study, designs, widths, rows[0].open(), seeds, measured)
    with artifact.create(
        out / STAGE,
        stage=STAGE,
        settings=_recorded(study) | {"only": list(only), "n_seeds": n_seeds},
        parents=tuple(dict.fromkeys(r.store for r in rows.values())),
        overwrite=True,
        command=command,
    ) as draft:
        artifact.write_json(draft.folder / FILE, artifact.as_json(content))  # 5
    page = report(out / "report.html", [out / STAGE], title=TITLE, commands=[command] if command else [])  # 6
    tell("study", 1, 1, f"{time.monotonic() - started:.0f} s")
    return StudyResult(out=out, report=page, study=content)


def table(
    study: DesignStudy,
    designs: Sequence[StudyDesign],
    widths: tuple[int, ...],
    store: Store,
    seeds: Sequence[int],
    measured: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What study.json holds."""
    planted = isinstance(study.ground, PlantedGround)
    recipe = study.recipe
    rows = [_row(cell, measured, len(widths)) for cell in measured]
    columns = [c for c in columns_for(len(widths)) if any(row["numbers"].get(c.key) is not None for row in rows)]
    reference = {"features": recipe.n_features}
    return {
        "kind": "designs",
        "truth": "planted" if planted else "language models",
        "title": TITLE,
        "models": [space.label if not planted else space.model for space in store.spaces],
        "seeds": list(seeds),
        "matched": {
            "n_rows": recipe.n_rows,
            "n_features": recipe.n_features,
            "l0": recipe.k,
            "parameters": n_weights(reference, widths),
        },
        "designs": [
            {
                "name": design.name,
                "group": design.group,
                "says": design.says,
                "settings": _flat_settings(design, recipe, widths, measured),
                "skipped": design.skipped(widths),
            }
            for design in designs
        ],
        "columns": [asdict(column) for column in columns],
        "rows": rows,
        "summary": {
            design.name: _summary([row for row in rows if row["design"] == design.name], columns)
            for design in designs
            if design.skipped(widths) is None
        },
        "notes": list(_notes(study, designs, widths, rows)),
    }


def _check(recipe: Recipe, widths: tuple[int, ...], only: Sequence[str]) -> None:
    if len(widths) < 2:
        raise UserError("store", f"{len(widths)} space", "is one model", "name a store of two models or more")
    for design in chosen_designs(len(widths), only):
        if design.skipped(widths) is None:
            design.settings(recipe, widths, 0)


def _prepare(out: Path, study: DesignStudy, *, overwrite: bool) -> None:
    """The folder is this study's, and says so."""
    mark = out / MARK
    if out.is_file():
        raise UserError("out", out, "is a file", "name a folder")
    if out.exists() and any(out.iterdir()) and not _is_a_study(mark):
        raise UserError("out", out, "is not empty and was not made by suture study", "name another folder")
    begun = [name for name in MADE if (out / name).exists()]  # nothing is lost where a first try ended in a mistake
    if begun and mark.exists() and artifact.read_json(mark) != _recorded(study):
        if not overwrite:
            changed = ", ".join(_changed(artifact.read_json(mark), _recorded(study)))
            problem = f"holds a study of other settings ({changed})"
            raise UserError("out", out, problem, "name another folder, give the same, or pass --overwrite")
        _clear(out)
    elif mark.exists() and overwrite:
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    artifact.write_json(mark, _recorded(study))


def _is_a_study(mark: Path) -> bool:
    return mark.is_file() and artifact.read_json(mark).get("kind") == "designs"


def _clear(out: Path) -> None:
    """Remove what a study made, and nothing else."""
    for name in MADE:
        shutil.rmtree(out / name, ignore_errors=True)


def _recorded(study: DesignStudy) -> dict[str, Any]:
    """The settings as they are kept in the folder."""
    return artifact.as_json({"kind": "designs"} | asdict(study))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of the settings that differ."""
    for name in sorted({*before, *now}):
        one, other = before.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _changed(one, other, f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name} {one}, now {other}"


def _row(cell: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], n_models: int) -> dict[str, Any]:
    """A cell's numbers as a row of the table, with 4."""
    numbers = dict(cell["numbers"])
    for name, reference in _references(cell, measured, n_models).items():
        numbers |= prices(numbers, reference, n_models, name)
    numbers["seconds"] = cell["seconds"]
    kept = ("design", "seed", "confusion", "r2", "entropy_histogram", "share_histogram", "seconds")
    return {name: cell[name] for name in kept} | {"numbers": numbers}


def _references(
    cell: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], n_models: int
) -> dict[str, Mapping[str, Any]]:
    """The separate dictionaries of the same seed whose codes have as many active features, by the name of the price."""
    k = cell["options"]["k"]
    joint = cell["options"].get("design", "crosscoder") in ("crosscoder", "universal")
    wanted = {"price": k, "price_in_all": k / n_models if joint else k}
    found: dict[str, Mapping[str, Any]] = {}
    for other in measured:
        if other["options"].get("design") == "sae" and other["seed"] == cell["seed"]:
            found |= {name: other["numbers"] for name, at in wanted.items() if other["options"]["k"] == at}
    return found


def _summary(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> dict[str, Any]:
    means: dict[str, MeanInterval | None] = {
        column.key: mean_interval([row["numbers"].get(column.key) for row in rows]) for column in columns
    }
    return {key: asdict(mean) for key, mean in means.items() if mean is not None}


def _flat_settings(
    design: StudyDesign, recipe: Recipe, widths: tuple[int, ...], measured: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Flat options of `suture train`, as the first seed was trained."""
    if design.skipped(widths) is not None:
        return {}
    trained = [cell["options"] for cell in measured if cell["design"] == design.name]
    options = trained[0] if trained else design.options(recipe, widths, 0)
    return {"design": "crosscoder"} | options | {"weights": n_weights(options, widths)}


def _notes(
    study: DesignStudy, designs: Sequence[StudyDesign], widths: tuple[int, ...], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    recipe = study.recipe
    yield (
        f"Every design was trained on {recipe.n_rows:,} rows in batches of {recipe.batch_size:,} with a learning rate "
        f"of {recipe.learning_rate:g}, {recipe.k_start:g} k falling to k over {recipe.k_anneal:.0%} of the steps, and "
        "has the same number of free weights in encoder and decoder."
    )
    yield (
        "The null is the same design on the first model against its rotated copy: whatever it calls one model's own is "
        "called so falsely."
    )
    yield (
        "price compares each model's FVU with separate dictionaries that have as many active features in a code, "
        "price in all with separate dictionaries that have as many for a text position over all codes."
    )
    for design in designs:
        if reason := design.skipped(widths):
            yield reason + "."
    for design in designs:
        own = [row["numbers"]["l0"] for row in rows if row["design"] == design.name]
        wanted = _wanted_l0(design, recipe, widths)
        if own and max(abs(l0 / wanted - 1) for l0 in own) > L0_TOLERANCE:
            found = " and ".join(f"{l0:.1f}" for l0 in own)
            yield f"{design.name} was to have {wanted} active features for a text position and has {found}."


def _wanted_l0(design: StudyDesign, recipe: Recipe, widths: tuple[int, ...]) -> int:
    """Over all codes of a text position."""
    settings = design.settings(recipe, widths, 0).design
    return settings.sparsity.k * (1 if settings.kind in ("crosscoder", "universal") else len(widths))
