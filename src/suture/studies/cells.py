"""One cell of a study: one design, one seed, trained on the real rows and on the null, measured, written down.

1. Train on the rows: one dictionary, one per model (`separate`), or with L1 one after the other until L0 is right.
2. Describe and label the features on held-out rows, or match them; the same for the null.
3. Of language models also what the features do there (`behaviour`).
4. The result, `numbers/`, written last: what was trained on the way is kept, and gone on with.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from suture.features.settings import FeatureSettings, StatsSettings
from suture.features.table import FeatureTable
from suture.pipeline import artifact
from suture.pipeline.job import Context, Job, Tell
from suture.pipeline.settings import from_flat
from suture.planted.generator import PlantedModels
from suture.planted.scores import found_columns, true_labels
from suture.planted.settings import PlantedSettings
from suture.studies.behaviour import agreement_numbers, loss_numbers
from suture.studies.designs import Recipe, StudyDesign, designs_for, n_weights
from suture.studies.findings import described_rows, of_dictionary, of_separate
from suture.studies.grounds import LanguageGround, Rows
from suture.studies.measures import (
    Findings,
    Numbers,
    exclusive_rate,
    fit_numbers,
    label_numbers,
    share_histogram,
    shared_rate,
    truth_numbers,
)
from suture.studies.penalty import Trial, next_penalty, within
from suture.sweep.run import make
from suture.sweep.stages import features_job, train_job, train_many_job
from suture.training.settings import TrainSettings

STAGE = "numbers"
DICTIONARY, FEATURES, NUMBERS, PENALTY = "dictionary", "features", "numbers/numbers.json", "penalty.json"
EXAMPLES = 3
"""Top examples in a cell's feature tables."""
L0_TOLERANCE = 0.05
"""How near to k the search for a penalty comes."""
MAX_TRIALS = 14


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A design and a seed, with everything that running it takes; plain values, so that another process can."""

    folder: Path
    design: str
    seed: int
    recipe: Recipe
    rows: Rows
    null: Rows
    planted: PlantedSettings | None = None
    """The truth, where there is one."""
    text: LanguageGround | None = None
    """The language models, where there are some."""

    @property
    def numbers(self) -> dict[str, Any]:
        """What came out."""
        return artifact.read_json(self.folder / NUMBERS)

    @property
    def recorded(self) -> dict[str, Any]:
        """What decides them, as the manifest holds it; the stores are its parents."""
        given = {name: value for name, value in asdict(self).items() if name not in ("folder", "rows", "null")}
        return artifact.as_json(given | {"view": asdict(self.rows.view), "null_view": asdict(self.null.view)})


def cell_job(cell: Cell) -> Job:
    """A cell as a job."""
    out, stores = (cell.folder / NUMBERS).parent, {"rows": cell.rows.store, "null": cell.null.store}
    return Job(
        name=cell.folder.name,
        stage=STAGE,
        work=_run_job,
        out=out,
        settings=cell,
        inputs=stores if stores["rows"] != stores["null"] else {"rows": cell.rows.store},
        results={out: cell.recorded},
        device=cell.recipe.device,
    )


def _run_job(job: Job, context: Context) -> None:
    settings, command = job.settings.recorded, context.command
    with artifact.create(
        job.out, stage=STAGE, settings=settings, parents=job.parents, overwrite=True, command=command
    ) as draft:
        result = run_cell(job.settings, context)
        artifact.write_json(draft.folder / Path(NUMBERS).name, artifact.as_json(result))  # 4


@dataclass
class _Trained:
    """What was trained on some rows, and what it found."""

    found: Findings
    options: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """1 to 3."""
    started, tell = time.monotonic(), context.tell
    design = next(d for d in designs_for(len(cell.rows.widths)) if d.name == cell.design)
    options = design.options(cell.recipe, cell.rows.widths, cell.seed)
    real = _run(cell, cell.folder, cell.rows, options, tell)
    null = _run(cell, cell.folder / "null", cell.null, _null_options(cell, design, real.options), tell)
    n_models = real.found.n_models
    numbers = fit_numbers(real.found) | label_numbers(real.found)
    numbers |= {"null_rate": exclusive_rate(null.found.labels), "ceiling": shared_rate(null.found.labels)}
    confusion = None
    if cell.planted is not None:
        scores, counts = truth_numbers(real.found, PlantedModels(cell.planted))
        numbers = scores | numbers
        rows, columns = true_labels(n_models), found_columns(n_models)
        confusion = {"rows": list(rows), "columns": list(columns), "counts": counts}
    if cell.text is not None:
        numbers |= _behaviour(cell, cell.text, tell)
    return {
        "design": cell.design,
        "seed": cell.seed,
        "options": real.options,
        "n_weights": n_weights(real.options, cell.rows.widths),
        "trials": [asdict(t) for t in real.trials],
        "numbers": {name: _plain(value) for name, value in numbers.items()},
        "confusion": confusion,
        "r2": real.found.r2,
        "entropy_histogram": real.found.clusters["entropy_histogram"],
        "share_histogram": share_histogram(real.found),
        "seconds": round(time.monotonic() - started, 2),
    }


def _null_options(cell: Cell, design: StudyDesign, real: Mapping[str, Any]) -> dict[str, Any]:
    """The same design on the null, whose models are of one width: there is no padding to speak of."""
    options = design.options(cell.recipe, cell.null.widths, cell.seed)
    if "l1" in real:
        options["l1"] = real["l1"]
    options.pop("pad", None)
    return options


def _run(cell: Cell, folder: Path, rows: Rows, options: dict[str, Any], tell: Tell) -> _Trained:
    """1 and 2, on some rows."""
    store, recipe = rows.open(), cell.recipe
    settings = from_flat(TrainSettings, options)
    described = described_rows(store, heldout=recipe.heldout, seed=cell.seed, at_most=recipe.described_rows)
    if settings.design.kind == "sae":
        saes = _train_separate(cell, folder, settings, rows, tell)
        return _Trained(found=of_separate(saes, store, described), options=options)
    settings = replace(settings, view=rows.view)
    trials: list[Trial] = []
    if settings.design.sparsity.activation.price == "l1":
        settings, trials = _train_to_l0(cell, folder, settings, rows, tell)
        options = options | {"l1": settings.objective.l1}
    else:
        make([train_job(_called(cell, folder), folder / DICTIONARY, rows.store, settings)], Context(tell=tell))
    table = _table(cell, folder, rows, tell)
    return _Trained(found=of_dictionary(folder / DICTIONARY, table, store, described), options=options, trials=trials)


def _train_separate(cell: Cell, folder: Path, settings: TrainSettings, rows: Rows, tell: Tell) -> list[Path]:
    """One dictionary per model; each reads its own space of the same rows."""
    n_models = len(rows.widths)
    folders = [folder / f"sae-{ascii_uppercase[m]}" for m in range(n_models)]
    views = [replace(rows.view, **({"side": m} if rows.view.null else {"spaces": (m,)})) for m in range(n_models)]
    own = {path: replace(settings, view=view) for path, view in zip(folders, views, strict=True)}
    make([train_many_job(_called(cell, folder), folder, own, rows.store)], Context(tell=tell))
    return folders


def _train_to_l0(
    cell: Cell, folder: Path, settings: TrainSettings, rows: Rows, tell: Tell
) -> tuple[TrainSettings, list[Trial]]:
    """Train again with other penalties until the held-out L0 is that of the other designs; the last training is kept.

    Where none comes near enough, the nearest is trained once more.
    """
    path, target = folder / DICTIONARY, float(settings.design.sparsity.k)
    trials = [Trial(**t) for t in artifact.read_json(folder / PENALTY)] if (folder / PENALTY).is_file() else []

    def tried(l1: float) -> TrainSettings:
        chosen = replace(settings, objective=replace(settings.objective, l1=l1))
        make([train_job(_called(cell, folder), path, rows.store, chosen)], Context(tell=tell, overwrite=True))
        return chosen

    while True:
        if trials and within(trials[-1], target, L0_TOLERANCE):
            return replace(settings, objective=replace(settings.objective, l1=trials[-1].l1)), trials
        if len(trials) >= MAX_TRIALS:
            nearest = min(trials, key=lambda t: abs(t.l0 - target))
            return tried(nearest.l1), trials
        l1 = next_penalty(trials, target, settings.objective.l1)
        tried(l1)
        trials.append(Trial(l1=l1, l0=artifact.read_json(path / "evaluation.json")["l0"]))
        artifact.write_json(folder / PENALTY, [asdict(t) for t in trials])


def _table(cell: Cell, folder: Path, rows: Rows, tell: Tell) -> FeatureTable:
    settings = FeatureSettings(n_rows=cell.recipe.described_rows, stats=StatsSettings(n_top=EXAMPLES))
    name = f"{_called(cell, folder)}: describing"
    job = features_job(name, folder / FEATURES, folder / DICTIONARY, rows.store, settings)
    make([job], Context(tell=tell, overwrite=True))
    return FeatureTable.load(job.out)


def _behaviour(cell: Cell, ground: LanguageGround, tell: Tell) -> Numbers:
    """3: what the features do in the models."""
    lms = ground.models(cell.rows.open(), device=cell.recipe.device)
    tell(_called(cell, cell.folder), 0, 2, "splicing in")
    table = cell.folder / FEATURES
    if not table.exists():
        return loss_numbers([cell.folder / f"sae-{ascii_uppercase[m]}" for m in range(len(lms))], lms)
    numbers = loss_numbers([cell.folder / DICTIONARY], lms)
    tell(_called(cell, cell.folder), 1, 2, "steering")
    return numbers | agreement_numbers(cell.folder / "steering", cell.folder / DICTIONARY, table, lms)


def _called(cell: Cell, folder: Path) -> str:
    return f"{cell.design} seed {cell.seed}" + (" null" if folder != cell.folder else "")


def _plain(value: float | int | None) -> float | int | None:
    """A number for JSON."""
    return None if value is None or not math.isfinite(value) else value
