"""The study `stitching`: what larger dictionaries have that smaller ones lack, up a ladder of sizes, at one L0.

1. A ladder of dictionaries of one space, trained alike on the same documents in one pass.
2. Every neighbouring pair is stitched, all brought to the same L0 (`stitching`): what is novel, how well five stand-ins
   tell, and the path between the two.
3. A Frankenstein: the smallest with what all the others have, up to the size of the second largest, and refitted.
4. It is trained on for some rows, at the rate that rungs are trained at: its parts were never fitted to each other.
5. Natives of that size at that L0 beside it: with the rows of one rung, and with as many as all its parts and its
   training on took.
6. `OUT/study`: a table of the pairs, one of the fits, and what they say in sentences (`stitching.ladder`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Description
from suture.dictionary.refit_settings import RefitSettings
from suture.pipeline import artifact
from suture.pipeline.job import Context, Job, Tell, silent
from suture.stitching.ladder import (
    COSTLY,
    FRANKENSTEIN,
    NATIVE,
    STAGE,
    TUNED,
    LadderFit,
    StitchingStudy,
    fits_table,
    pairs_table,
)
from suture.stitching.settings import LadderSettings, StitchSettings
from suture.stitching.stitch import Stitching
from suture.sweep.run import make
from suture.sweep.stages import refit_job, stitch_job, train_job, train_many_job
from suture.training.result import TrainResult
from suture.training.settings import TrainSettings
from suture.training.start import start_from

LEAST_HELDOUT = 0.3
"""Share of the documents kept from training, at least: they judge features, and the path."""


def stitching_study(
    out: str | Path,
    store: Store | str | Path,
    settings: TrainSettings,
    ladder: LadderSettings | None = None,
    *,
    tell: Tell = silent,
    workers: int = 1,
    overwrite: bool = False,
    command: str | None = None,
) -> StitchingStudy:
    """Train a ladder, stitch its neighbours, build a Frankenstein and its natives; what is finished in `out` is kept.

    Args:
        out: folder of the ladder, the stitchings and the study.
        store: activations; the view of the settings names the one space, of a store with several.
        settings: how each rung is trained; design and size are the study's.
        ladder: the sizes, and how long the Frankenstein is trained on.
        tell: told (what, done, total, note).
        workers: processes of this machine.
        overwrite: replace what was made with other settings.
        command: the shell command, for the records.

    Raises:
        UserError: settings that do not fit the store, or a result of other settings in `out`.
    """
    store, out, ladder = as_store(store), Path(out), ladder or LadderSettings()
    sizes, size = ladder.ladder, ladder.ladder[-2]
    base = settings.of_one_space(least_heldout=LEAST_HELDOUT)
    context = Context(tell=tell, overwrite=overwrite, command=command)
    rungs = {size: out / "ladder" / str(size) for size in sizes}
    wanted = {path: _sized(base, size) for size, path in rungs.items()}
    l0 = float(base.design.sparsity.k)
    common = StitchSettings(refit=RefitSettings(l0=l0), seed=settings.seed)
    pairs = {
        f"{a} to {b}": stitch_job(
            f"stitch {a} to {b}", out / f"stitched-{a}-{b}", rungs[a], rungs[b], store.path, common
        )
        for a, b in pairwise(sizes)
    }  # 2
    whole = stitch_job(  # 3
        FRANKENSTEIN, out / "frankenstein", rungs[sizes[0]], rungs[sizes[1]], store.path,
        replace(common, size=size), more=[rungs[n] for n in sizes[2:]],
    )  # fmt: skip
    spent = base.n_rows * len(sizes)
    longer = _sized(replace(base, n_rows=spent + ladder.finetune_rows), size)
    costly = train_job("native with all rows", out / "native-longer", store.path, longer)  # 5

    def at_l0(name: str, made: Path) -> Job:
        return refit_job(f"refit {name}", out / f"{name}-at-l0", made, store.path, RefitSettings(l0=l0))

    natives = {name: at_l0(name, made) for name, made in (("native", rungs[size]), ("native-longer", costly.out))}
    make([train_many_job("ladder", out / "ladder", wanted, store.path)], context)  # 1
    make([*pairs.values(), whole, costly, *natives.values()], context, workers=workers)
    made = Stitching.load(whole.out).summary.fits[-1]
    fits = [LadderFit(name=FRANKENSTEIN, n_features=made.n_features, n_rows=spent, l0=made.l0, fvu=_mean(made.fvu))]
    parents = [whole.out, *(job.out for job in pairs.values()), *(job.out for job in natives.values())]
    if ladder.finetune_rows:
        going_on = _going_on(base, whole.out, ladder.finetune_rows)
        path = out / "frankenstein-trained"
        tuned = at_l0("frankenstein-trained", path)
        trained = train_many_job("training on", path, {path: going_on}, store.path, start=start_from(whole.out))  # 4
        make([trained, tuned], context)
        fits.append(_fit(TUNED, tuned.out, spent + ladder.finetune_rows))
        parents.append(tuned.out)
    fits.append(_fit(NATIVE, natives["native"].out, base.n_rows))
    fits.append(_fit(COSTLY, natives["native-longer"].out, longer.n_rows))
    stitched = {name: Stitching.load(job.out) for name, job in pairs.items()}
    found = StitchingStudy(pairs=pairs_table(stitched), fits=fits_table(fits), path=out / "study")
    recorded = {"train": asdict(settings), **asdict(ladder)}
    with artifact.create(
        out / "study", stage=STAGE, settings=recorded, parents=parents, overwrite=True, command=command
    ) as draft:  # 6
        found.write(draft)
    return found


def _sized(settings: TrainSettings, size: int) -> TrainSettings:
    return replace(settings, design=replace(settings.design, n_features=size))


def _going_on(base: TrainSettings, start: Path, n_rows: int) -> TrainSettings:
    """How a stitched dictionary is trained on: as the rungs were, but with k from the first step on."""
    design = replace(Description.load(start).design, sparsity=base.design.sparsity)
    # The shipped model's ladder, 512 features, FVU at L0 16: .210 as refitted; 50,000 rows at a tenth of the rate .189,
    # at a third .172, at all of it .166 (100,000 rows .149, k from twice its value .154).
    return replace(base, design=design, n_rows=n_rows, k_start=1.0)


def _fit(name: str, folder: Path, n_rows: int) -> LadderFit:
    found = TrainResult.load(folder)
    assert found.evaluation is not None
    n_features = found.description.design.n_features
    return LadderFit(
        name=name, n_features=n_features, n_rows=n_rows, l0=found.evaluation.l0, fvu=_mean(found.evaluation.fvu)
    )


def _mean(fvu: tuple[float, ...] | list[float]) -> float:
    return float(np.mean(fvu))
