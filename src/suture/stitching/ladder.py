"""What a ladder of dictionaries says: pairs of neighbouring sizes, and what all of them are worth in one dictionary.

A row for each pair: what is novel, how well stand-ins tell, the path between the two. A row for each dictionary that is
compared at one L0: a Frankenstein of all sizes, as refitted and as trained on, and native ones of its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suture import units
from suture.pipeline import artifact
from suture.pipeline.artifact import Draft
from suture.pipeline.table import Column, Table, Tabular
from suture.stitching.stitch import Stitching

STAGE = "stitching-study"
PAIRS, FITS, SAID = "pairs.safetensors", "fits.safetensors", "study.json"
FRANKENSTEIN, TUNED = "Frankenstein", "Frankenstein, trained on"
NATIVE, COSTLY = "native, the rows of one rung", "native, all rows"
"""The dictionaries that are compared; the last has seen as many rows as all parts of the other and its training on."""

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
    Column(
        name="auc_low", title="ROC-AUC, lower end", format="share", axes=("pair", "proxy"),
        sentence="Lower end of its 95 % interval over features.",
    ),
    Column(
        name="auc_high", title="ROC-AUC, upper end", format="share", axes=("pair", "proxy"),
        sentence="Upper end of its 95 % interval over features.",
    ),
)  # fmt: skip
FIT_COLUMNS = (
    Column(name="n_features", title="features", format="integer", sentence="Size of the dictionary."),
    Column(name="n_rows", title="rows", format="integer", sentence="Rows that training it, or all its parts, took."),
    Column(name="l0", title="L0", sentence="Active features of the average held-out row."),
    Column(name="fvu", title="FVU", format="share", better="low", sentence="On documents that no training saw."),
)


@dataclass(frozen=True, kw_only=True)
class LadderFit:
    """A dictionary that is compared."""

    name: str
    n_features: int
    n_rows: int
    l0: float
    fvu: float


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

    def write(self, draft: Draft) -> None:
        """Put it into a folder that is being written."""
        self.pairs.save(draft.folder / PAIRS)
        self.fits.save(draft.folder / FITS)
        artifact.write_json(draft.folder / SAID, artifact.as_json(self.to_json()))

    @staticmethod
    def load(path: str | Path) -> StitchingStudy:
        """Read it from its folder.

        Raises:
            ArtifactError: it is no such result, or broken.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE)
        return StitchingStudy(pairs=Table.load(path / PAIRS), fits=Table.load(path / FITS), path=path)


def pairs_table(stitched: dict[str, Stitching]) -> Table:
    """Of stitchings by their pairs' names."""
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
        for name, column in (("auc", "roc_auc"), ("auc_low", "roc_low"), ("auc_high", "roc_high")):
            values[name].append(found.proxies[column])
    return Table(
        axes=("pair",),
        columns=PAIR_COLUMNS,
        values={name: np.array(own, dtype=float) for name, own in values.items()},
        coordinates={"pair": list(stitched), "proxy": list(proxies)},
    )


def fits_table(fits: Sequence[LadderFit]) -> Table:
    """In this order."""
    values = {c.name: np.array([getattr(fit, c.name) for fit in fits], dtype=float) for c in FIT_COLUMNS}
    return Table(
        axes=("dictionary",), columns=FIT_COLUMNS, values=values, coordinates={"dictionary": [f.name for f in fits]}
    )


def _sentences(pairs: Table, fits: Table) -> Iterator[str]:
    named = zip(pairs.coordinates["pair"], pairs["novel_share"], strict=True)
    yield "Novel features: " + ", ".join(f"{pair} {units.percent(share)}" for pair, share in named)
    mean = np.nanmean(pairs["auc"], axis=0)
    ends = zip(np.nanmin(pairs["auc_low"], axis=0), np.nanmax(pairs["auc_high"], axis=0), strict=True)
    told = zip(pairs.coordinates["proxy"], mean, ends, strict=True)
    yield "Told apart without measuring, mean ROC-AUC (ends of all pairs' intervals): " + ", ".join(
        f"{name.replace('_', ' ')} {auc:.3f} ({low:.3f} to {high:.3f})" for name, auc, (low, high) in told
    )
    bump = units.fvu(float(pairs["bump"].max()))
    yield f"On its way from one size to the next FVU rises by at most {bump} above both ends"
    fvu = dict(zip(fits.coordinates["dictionary"], (float(v) for v in fits["fvu"]), strict=True))
    compared = zip(fvu.items(), fits["l0"], fits["n_features"], strict=True)
    yield "At one L0: " + ", ".join(
        f"{name} {units.fvu(own)} ({n:,.0f} features, L0 {l0:.1f})" for (name, own), l0, n in compared
    )
    best = TUNED if TUNED in fvu else FRANKENSTEIN
    worse = fvu[best] - fvu[COSTLY]
    said = f"worse by {units.fvu(worse)}" if worse > 0 else f"no worse ({units.fvu(-worse)} lower)"
    yield f"{best}: FVU {said} than that of a native dictionary with as many rows as all its parts took"
