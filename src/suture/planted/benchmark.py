"""A benchmark of crosscoders with known truth that any library can enter: arrays out, decoders and labels back.

1. `write_rows` writes a ground's activations, one float32 array [row, width] per model, and what they were made from.
   Two seeds are two pairs of models; the rows of a seed are the same on every machine.
2. Whatever trained on them gives back decoder rows in the units of the arrays and, if it makes the claim, whose each
   feature is. `score_entry` holds both against the planted concepts, as `benchmarks/truth.py` does for suture's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from suture.errors import UserError
from suture.labels import AMBIGUOUS, DEAD, OPEN
from suture.pipeline import artifact
from suture.pipeline.settings import from_mapping
from suture.planted.generator import PlantedModels
from suture.planted.scores import PlantedScores, score_dictionary, true_labels
from suture.planted.settings import PlantedSettings

SMALL = PlantedSettings()
LARGE = PlantedSettings(widths=(128, 128), n_concepts=1000, mean_active=10.0)
GROUNDS: Mapping[str, PlantedSettings] = {
    "rotation": replace(SMALL, embedding="rotation"),
    "affine": replace(SMALL, embedding="affine"),
    "independent": replace(SMALL, embedding="independent"),
    "hard": replace(SMALL, child_share=0.2, correlation=0.3, misaligned=0.1, noise=(0.3,)),
    "large": replace(LARGE, embedding="rotation"),
    "large-affine": replace(LARGE, embedding="affine"),
}
"""Of two models each: 64 wide with 200 concepts, 5 active; large 128 wide with 1,000, 10 active."""

STAGE, ARRAY = "planted-rows", "model-{}.npy"
BLOCK = 16_384
"""Rows that are made at a time."""
N_MEASURED = 32_768
"""Rows from which each model's unit is taken."""


def write_rows(out: str | Path, ground: str, n_rows: int, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Write a ground's rows to `out`: `model-0.npy`, `model-1.npy`, each float32 [row, width].

    Raises:
        UserError: no such ground, or no rows.
        ArtifactError: `out` is taken.
    """
    if n_rows < 1:
        raise UserError("rows", n_rows, "is not a number of rows", "give at least 1")
    settings = replace(_ground(ground), seed=seed)
    models = PlantedModels(settings)
    with artifact.create(out, stage=STAGE, settings=asdict(settings), seed=seed, overwrite=overwrite) as draft:
        arrays = [
            np.lib.format.open_memmap(
                draft.folder / ARRAY.format(m), mode="w+", dtype=np.float32, shape=(n_rows, width)
            )
            for m, width in enumerate(settings.widths)
        ]
        for first in range(0, n_rows, BLOCK):
            last = min(first + BLOCK, n_rows)
            for array, part in zip(arrays, models.rows(first, last).activations, strict=True):
                array[first:last] = part.numpy()
        for array in arrays:
            array.flush()
    return Path(out)


def score_entry(
    rows: str | Path,
    decoders: Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    live: ArrayLike | None = None,
) -> PlantedScores:
    """Score what was trained on rows that `write_rows` wrote.

    Args:
        rows: their folder.
        decoders: per model [feature, width], in the units of the arrays: what a feature of code 1 adds to a row.
        labels: per feature `A`, `B`, `shared`, `ambiguous` or `dead`; without them concepts are scored as found or
            not, and every label counts as missed.
        live: per feature whether it ever fires; all whose label is not `dead`, without.

    Raises:
        UserError: decoders or labels of another shape, or a label that is none.
        ArtifactError: no rows there.
    """
    manifest = artifact.open_artifact(rows, stage=STAGE, setting="rows")
    settings = from_mapping(PlantedSettings, manifest.settings)
    models = PlantedModels(settings)
    given = [torch.as_tensor(np.asarray(d), dtype=torch.float32) for d in decoders]
    n_features = len(given[0]) if given else 0
    shapes, wanted = [tuple(d.shape) for d in given], [(n_features, width) for width in settings.widths]
    if shapes != wanted or not n_features:
        raise UserError(
            "decoders", shapes, f"are not of the widths {settings.widths}", "give [feature, width] per model"
        )
    own = [AMBIGUOUS] * n_features if labels is None else [str(label) for label in labels]
    known = (*true_labels(settings.n_models), *OPEN, DEAD)
    unknown = [label for label in own if label not in known]
    if len(own) != n_features or unknown:
        problem = (
            f"has {len(own)} entries for {n_features} features" if not unknown else f"are none of {', '.join(known)}"
        )
        raise UserError("labels", unknown[:1] or len(own), problem, "give one of these per feature")
    fires = torch.tensor([label != DEAD for label in own]) if live is None else torch.as_tensor(np.asarray(live)).bool()
    scales = _scales(models)
    return score_dictionary(
        [models.directions(m) for m in range(settings.n_models)],
        [d * scale for d, scale in zip(given, scales, strict=True)],
        scales,
        fires,
        own,
        models.labels(),
    )


def _ground(name: str) -> PlantedSettings:
    if name not in GROUNDS:
        raise UserError("ground", name, "is not known", f"give one of {', '.join(GROUNDS)}")
    return GROUNDS[name]


def _scales(models: PlantedModels) -> list[float]:
    """What brings each model's centred rows to a root mean square of 1 per coordinate: models weigh alike."""
    rows: Sequence[Tensor] = models.rows(0, N_MEASURED).activations
    return [float(1 / (x - x.mean(0)).square().mean().sqrt()) for x in rows]
