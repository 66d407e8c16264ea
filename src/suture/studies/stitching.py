"""The study `stitching`: what larger dictionaries have that smaller ones lack, up a ladder of sizes, at one L0.

1. A ladder of dictionaries of one space, trained alike on the same documents in one pass.
2. Every neighbouring pair is stitched, all brought to the same L0 (`stitching`): what is novel, how well five stand-ins
   tell, and the path between the two.
3. A Frankenstein: the smallest with what all the others have, up to the size of the second largest, and refitted.
4. Natives of that size at that L0 beside it: with the rows of one rung, and with the rows that all its parts cost.
5. `OUT/study`: a table of the pairs, one of the fits, and what they say in sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from suture import units
from suture.activations.store import Store, as_store
from suture.dictionary.evaluate import Evaluation
from suture.dictionary.refit_settings import RefitSettings
from suture.pipeline import artifact
from suture.pipeline.job import Context, Tell, silent
from suture.pipeline.table import Column, Table, Tabular
from suture.stitching.settings import LadderSettings, StitchSettings
from suture.stitching.stitch import Stitching
from suture.sweep.run import make
from suture.sweep.stages import refit_job, stitch_job, train_job, train_many_job
from suture.training.result import TrainResult
from suture.training.settings import TrainSettings

STAGE = "stitching-study"
PAIRS, FITS, SAID = "pairs.safetensors", "fits.safetensors", "study.json"
LEAST_HELDOUT = 0.3
"""Share of the documents kept from training, at least: they judge features, and the path."""

PAIR_COLUMNS = (
    Column(
        name="novel_share", title="novel", format="percent",
        sentence="Of the larger dictionary's decided features, those that surely lower the smaller one's error.",
    ),
    Column(name="n_decided", title="decided", format="integer", sentence="Features labelled novel or reconstruction."),
    Column(name="fvu_small", title="FVU, small", format="share", better="low", sentence="Of the smaller, as compared."),
    Column(name="fvu_large", title="FVU, large", format="share", better="low", sentence="Of the larger, as compared."),
    Column(
        name="bump", title="bump of the path", format="share", better="low",
        sentence="By how much FVU on the path from the small to the large one rises above both its ends.",
    ),
    Column(
        name="raised", title="steps that raise the error", format="percent", better="low",
        sentence="Share of the path's steps after which the error is larger than before.",
    ),
    Column(
        name="auc", title="ROC-AUC", format="share", better="high", axes=("pair", "proxy"),
        sentence="How well each stand-in tells novel features from reconstructions, on other documents.",
    ),
)  # fmt: skip
FIT_COLUMNS = (
    Column(name="n_features", title="features", format="integer", sentence="Size of the dictionary."),
    Column(name="n_rows", title="rows", format="integer", sentence="Rows that training it, or all its parts, took."),
    Column(name="l0", title="L0", sentence="Active features of the average held-out row."),
    Column(name="fvu", title="FVU", format="share", better="low", sentence="On documents that no training saw."),
)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class StitchingStudy(Tabular):
    """What the ladder says."""

    pairs: Table
    """A row for each neighbouring pair of sizes."""
    fits: Table
    """A row for each dictionary that is compared at one L0."""
    path: Path | None = None

    @property
    def table(self) -> Table:
        """The pairs."""
        return self.pairs

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answers, in words."""
        return tuple(_sentences(self.pairs, self.fits))

    def __repr__(self) -> str:
        return f"StitchingStudy({self.path}: {'; '.join(self.sentences)})"

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"sentences": list(self.sentences), "pairs": self.pairs.records(), "fits": self.fits.records()}

    @staticmethod
    def load(path: str | Path) -> StitchingStudy:
        """Read it from its folder.

        Raises:
            ArtifactError: it is no such result, or broken.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE)
        return StitchingStudy(pairs=Table.load(path / PAIRS), fits=Table.load(path / FITS), path=path)


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
        ladder: the sizes.
        tell: told (what, done, total, note).
        workers: processes of this machine.
        overwrite: replace what was made with other settings.
        command: the shell command, for the records.

    Raises:
        UserError: settings that do not fit the store, or a result of other settings in `out`.
    """
    store, out, sizes = as_store(store), Path(out), (ladder or LadderSettings()).ladder
    base = settings.of_one_space(least_heldout=LEAST_HELDOUT)
    context = Context(tell=tell, overwrite=overwrite, command=command)
    rungs = {size: out / "ladder" / str(size) for size in sizes}
    wanted = {path: _sized(base, size) for size, path in rungs.items()}
    l0 = float(base.design.sparsity.k)
    common = StitchSettings(refit=RefitSettings(l0=l0), seed=settings.seed)
    trained = train_many_job("ladder", out / "ladder", wanted, store.path)  # 1
    pairs = {
        f"{a} to {b}": stitch_job(
            f"stitch {a} to {b}", out / f"stitched-{a}-{b}", rungs[a], rungs[b], store.path, common
        )
        for a, b in pairwise(sizes)
    }  # 2
    size = sizes[-2]
    whole = stitch_job(  # 3
        "Frankenstein", out / "frankenstein", rungs[sizes[0]], rungs[sizes[1]], store.path,
        replace(common, size=size), more=[rungs[n] for n in sizes[2:]],
    )  # fmt: skip
    longer = _sized(replace(base, n_rows=base.n_rows * len(sizes)), size)
    costly = train_job("native with the rows of all", out / "native-longer", store.path, longer)  # 4
    natives = {
        name: refit_job(f"refit {name}", out / f"{name}-at-l0", made, store.path, RefitSettings(l0=l0))
        for name, made in (("native", rungs[size]), ("native-longer", costly))
    }
    make([trained], context)
    make([*pairs.values(), whole, costly, *natives.values()], context, workers=workers)
    stitched = {name: Stitching.load(job.out) for name, job in pairs.items()}
    found = StitchingStudy(
        pairs=_pairs_table(stitched),
        fits=_fits_table(
            Stitching.load(whole.out), {n: _evaluated(job.out) for n, job in natives.items()}, base, sizes
        ),
        path=out / "study",
    )
    parents = [whole.out, *(job.out for job in pairs.values()), *(job.out for job in natives.values())]
    recorded = {"train": asdict(settings), "ladder": list(sizes)}
    with artifact.create(
        out / "study", stage=STAGE, settings=recorded, parents=parents, overwrite=True, command=command
    ) as draft:  # 5
        found.pairs.save(draft.folder / PAIRS)
        found.fits.save(draft.folder / FITS)
        artifact.write_json(draft.folder / SAID, artifact.as_json(found.to_json()))
    return found


def _sized(settings: TrainSettings, size: int) -> TrainSettings:
    return replace(settings, design=replace(settings.design, n_features=size))


def _evaluated(folder: Path) -> Evaluation:
    found = TrainResult.load(folder).evaluation
    assert found is not None
    return found


def _pairs_table(stitched: dict[str, Stitching]) -> Table:
    proxies = next(iter(stitched.values())).proxies.coordinates["proxy"]
    values: dict[str, list[Any]] = {column.name: [] for column in PAIR_COLUMNS}
    for found in stitched.values():
        fvu = found.steps["fvu"].mean(1)
        up, n = (sum(both[i] for both in found.summary.violations.values()) for i in range(2))
        labels = found.summary.labels
        values["novel_share"].append(np.nan if found.summary.novel_share is None else found.summary.novel_share)
        values["n_decided"].append(labels["novel"] + labels["reconstruction"])
        values["fvu_small"].append(fvu[0])
        values["fvu_large"].append(fvu[-1])
        values["bump"].append(max(0.0, float(fvu.max() - max(fvu[0], fvu[-1]))))
        values["raised"].append(up / n if n else np.nan)
        values["auc"].append(found.proxies["roc_auc"])
    return Table(
        axes=("pair",),
        columns=PAIR_COLUMNS,
        values={name: np.array(own, dtype=float) for name, own in values.items()},
        coordinates={"pair": list(stitched), "proxy": list(proxies)},
    )


def _fits_table(
    whole: Stitching, natives: dict[str, Evaluation], settings: TrainSettings, sizes: Sequence[int]
) -> Table:
    fit = whole.summary.fits[-1]
    every = settings.n_rows * len(sizes)
    rows: list[tuple[str, int, int, float, float]] = [
        ("Frankenstein", fit.n_features, every, fit.l0, float(np.mean(fit.fvu))),
        ("native, the rows of one rung", sizes[-2], settings.n_rows, *_fit(natives["native"])),
        ("native, the rows of all parts", sizes[-2], every, *_fit(natives["native-longer"])),
    ]
    values = {c.name: np.array([row[i] for row in rows], dtype=float) for i, c in enumerate(FIT_COLUMNS, start=1)}
    return Table(
        axes=("dictionary",), columns=FIT_COLUMNS, values=values, coordinates={"dictionary": [row[0] for row in rows]}
    )


def _fit(evaluation: Evaluation) -> tuple[float, float]:
    return evaluation.l0, float(np.mean(evaluation.fvu))


def _sentences(pairs: Table, fits: Table) -> Iterator[str]:
    named = zip(pairs.coordinates["pair"], pairs["novel_share"], strict=True)
    yield "Novel features: " + ", ".join(f"{pair} {units.percent(share)}" for pair, share in named)
    mean = np.nanmean(pairs["auc"], axis=0)
    told = zip(pairs.coordinates["proxy"], mean, strict=True)
    yield "Told apart without measuring, mean ROC-AUC: " + ", ".join(
        f"{name.replace('_', ' ')} {auc:.3f}" for name, auc in told
    )
    bump = units.fvu(float(pairs["bump"].max()))
    yield f"On its way from one size to the next FVU rises by at most {bump} above both ends"
    compared = zip(fits.coordinates["dictionary"], fits["fvu"], fits["l0"], fits["n_features"], strict=True)
    yield "At one L0: " + ", ".join(
        f"{name} {units.fvu(float(fvu))} ({n:,.0f} features, L0 {l0:.1f})" for name, fvu, l0, n in compared
    )
