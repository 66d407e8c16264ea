"""The numbers of a study, from what a design found: one form of findings for every design, pure functions of it.

1. A design's features over all models, however many dictionaries they come from, are `Findings`.
2. The effective direction of a feature in a model is its decoder row there times the root mean square of its code on
   that model's rows, so that designs with one code and designs with a code per model are scored by one rule. A joint
   code is the same number for every model: the decoder row itself.
3. `label_numbers`, `fit_numbers`: of any models. `truth_numbers`: of planted ones, per CONCEPT, so that a lost concept
   counts: found if a live feature's effective directions, side by side, have a cosine of 0.8 with it, right if that
   feature carries the concept's class.
4. `prices`: what one dictionary for all models costs each of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture.dictionary.codes import Codes
from suture.features.clusters import N_BINS
from suture.labels import DEAD, OPEN, SHARED, is_exclusive
from suture.planted import scores
from suture.planted.generator import PlantedModels

Number = float | int | None
Numbers = dict[str, Number]

DETECTION_ROWS = 20_480
"""Detection is judged on the held-out rows among the first so many of the store."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a design found, on rows it was not trained on."""

    labels: tuple[str, ...]
    """Per feature: whose it is, `ambiguous` or `dead`."""
    directions: tuple[Float[Tensor, "feature _"], ...]
    """Effective directions per model, scaled units; zero where the feature is not of that model."""
    scales: tuple[float, ...]
    """Activations in a model's own units times this are scaled units."""
    active: Codes
    """The features' codes on `rows`; of designs with a code per model, a feature is active where any of them is."""
    rows: Int[Tensor, "row"]
    shares: Float[Tensor, "feature model"]
    """What the label was made from: each model's share; NaN for features that never fired."""
    fvu: list[float]
    l0: float
    """Active features of a text position in all, each code counted once."""
    dead: float
    r2: list[list[float]] | None
    """[source, target], as in an evaluation; None where one model's code says nothing of another."""
    clusters: Mapping[str, Any]

    @property
    def n_models(self) -> int:
        return len(self.directions)

    @property
    def live(self) -> Bool[Tensor, "feature"]:
        """Features that fired."""
        return torch.tensor([label != DEAD for label in self.labels], dtype=torch.bool)


def fit_numbers(found: Findings) -> Numbers:
    """How well the activations are explained, and with how much."""
    numbers: Numbers = {f"fvu_{ascii_uppercase[m]}": v for m, v in enumerate(found.fvu)}
    numbers |= {"l0": found.l0, "dead": found.dead, "r2_missing": None}
    if found.r2 is not None:
        apart = [found.r2[i][j] for i in range(found.n_models) for j in range(found.n_models) if i != j]
        numbers["r2_missing"] = sum(apart) / len(apart)
    return numbers


def label_numbers(found: Findings) -> Numbers:
    """How many features are whose, and whether they have fallen into two clusters."""
    names = scores.true_labels(found.n_models)
    numbers: Numbers = {f"n_{name}": found.labels.count(name) for name in (*names, *OPEN)}
    numbers["exclusive_rate"] = exclusive_rate(found.labels)
    return numbers | {name: found.clusters[name] for name in ("private_share", "shared_energy", "silhouette")}


def exclusive_rate(labels: Sequence[str]) -> float | None:
    """The share of live features that some model lacks.

    >>> exclusive_rate(["A", "shared", "shared", "ambiguous", "dead"])
    0.25
    """
    live = [name for name in labels if name != DEAD]
    return sum(map(is_exclusive, live)) / len(live) if live else None


def shared_rate(labels: Sequence[str]) -> float | None:
    """The share of live features that every model has: the ceiling, where the models are one.

    >>> shared_rate(["A", "shared", "shared", "ambiguous", "dead"])
    0.5
    """
    live = [name for name in labels if name != DEAD]
    return live.count(SHARED) / len(live) if live else None


def truth_numbers(found: Findings, models: PlantedModels) -> tuple[Numbers, list[list[int]]]:
    """Scores against planted truth, and the confusion of labels: rows `true_labels`, columns `found_columns`."""
    truth, live = models.labels(), found.live
    directions = [models.directions(m) for m in range(found.n_models)]
    score = scores.score_dictionary(directions, found.directions, found.scales, live, found.labels, truth)
    cosine = scores.cosines(scores.joint_directions(directions, found.scales), torch.cat(list(found.directions), dim=1))
    numbers: Numbers = {
        "macro_f1": score.macro_f1,
        "auroc": score.auroc,
        "recovery_80": score.recovery_80,
        "recovery_80_exclusive": score.recovery_80_exclusive,
        "recovery_90": score.recovery_90,
        "directions_80": scores.directions_found(directions, found.directions, live),
        "mcc": score.mcc,
        "detection_f1": _detection(found, models, scores.assign(cosine, live)),
    }
    return numbers, score.confusion


def prices(row: Mapping[str, Number], reference: Mapping[str, Number], n_models: int, name: str) -> Numbers:
    """What one dictionary costs each model: its FVU less that of the model's own dictionary in `reference`.

    Two references, because "equal L0" can mean two things where one code serves several models. Weights of encoder and
    decoder that touch model m are as many in both, but for pooled designs, whose weights all models share: there only
    the total is equal.

    | name           | equal in both                                                                            |
    |----------------|------------------------------------------------------------------------------------------|
    | `price`        | active features of the code that reconstructs model m: k                                 |
    | `price_in_all` | active features of a text position over all codes: a joint code of k against M of k / M |
    """
    numbers: Numbers = {}
    for letter in ascii_uppercase[:n_models]:
        own, other = row.get(f"fvu_{letter}"), reference.get(f"fvu_{letter}")
        numbers[f"{name}_{letter}"] = None if own is None or other is None else own - other
    return numbers


def share_histogram(found: Findings) -> list[int]:
    """Live features by the share of model B; of more than two models, of the one with the largest share."""
    share = found.shares[:, 1] if found.n_models == 2 else found.shares.amax(dim=1)
    return histogram(share[found.live])


def histogram(values: Float[Tensor, "n"]) -> list[int]:
    """Counts in `N_BINS` bins over [0, 1]; what is no number is left out.

    >>> sum(histogram(torch.tensor([0.0, 1.0, 0.5, float("nan")])))
    3
    """
    known = values[values.isfinite()].double().numpy().clip(0, 1)
    return [int(n) for n in np.histogram(known, bins=N_BINS, range=(0, 1))[0]]


def _detection(found: Findings, models: PlantedModels, assignment: Int[Tensor, "concept"]) -> float:
    """Mean over concepts of how well "its feature is active" tells "the concept fires"; 0 for those without one."""
    n = int((found.rows < DETECTION_ROWS).sum())
    rows = found.rows[:n]
    codes = models.rows(0, int(rows[-1]) + 1).codes
    place = torch.full((codes.n_rows,), -1)
    place[rows] = torch.arange(n)
    here = place[codes.row] >= 0
    fired = torch.zeros(n, codes.n_features, dtype=torch.bool)
    fired[place[codes.row[here]], codes.feature[here].long()] = True
    early = found.active.row < n
    active = torch.zeros(n, found.active.n_features, dtype=torch.bool)
    active[found.active.row[early].long(), found.active.feature[early].long()] = True
    return float(scores.detection_f1(active, fired, assignment).mean())
