"""What tells that a behaviour is under way: the graft's features beside a mean difference and a linear probe.

1. Rows of the unsafe model with the behaviour and without, at each hookpoint. The behaviour's first tokens are apart:
   they begin it, all from the cue on are easier.
2. Fitted on the documents that choose: the difference of means; a linear discriminant (C + r I)^-1 (difference), C the
   covariance within both; where the safe model reads the same tokens at the same width, the mean of what the unsafe
   model has and the safe one has not.
3. ROC-AUC of each on fresh documents, and of each feature by its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from suture.interventions.graft.choose import Contrast, Marked, rows_of
from suture.interventions.graft.ground import Site
from suture.lm.load import LanguageModel
from suture.planted.scores import auroc

RIDGE = 1e-2
"""Of the mean variance."""
MEANS, PROBE, MODELS, FEATURE = "difference of means", "linear probe", "difference of models", "feature"


@dataclass(frozen=True, kw_only=True)
class Detector:
    """How well one number tells rows with the behaviour from others, on fresh documents."""

    hookpoint: str
    kind: str
    feature: int
    """-1 where it is none."""
    auc_first: float
    """The behaviour's first tokens against clean text."""
    auc_all: float
    """Everything from the cue on against clean text."""


@dataclass(frozen=True)
class _Rows:
    """Activations of one model at one hookpoint."""

    first: Float[Tensor, "_ width"]
    shown: Float[Tensor, "_ width"]
    clean: Float[Tensor, "_ width"]

    @staticmethod
    def of(lm: LanguageModel, texts: Contrast, hookpoint: str) -> _Rows:
        read: list[Marked] = [texts.entry, texts.shown, texts.clean]
        return _Rows(*(rows_of(lm, own, hookpoint) for own in read))

    def less(self, other: _Rows) -> _Rows:
        return _Rows(self.first - other.first, self.shown - other.shown, self.clean - other.clean)


def detectors(
    lm: LanguageModel,
    safe: LanguageModel | None,
    sites: Sequence[Site],
    chosen: Sequence[Sequence[int]],
    choosing: Contrast,
    fresh: Contrast,
) -> list[Detector]:
    """Every detector at every site.

    Args:
        lm: the unsafe model.
        safe: the safe one, where there is one.
        sites: the dictionaries.
        chosen: per site, the graft's features.
        choosing: texts that detectors are fitted on.
        fresh: texts that they are judged on.
    """
    along = safe is not None and safe.tokenizer_fingerprint == lm.tokenizer_fingerprint
    found: list[Detector] = []
    for site, features in zip(sites, chosen, strict=True):
        fit, judge = (_Rows.of(lm, texts, site.hookpoint) for texts in (choosing, fresh))
        other = None
        if along and safe is not None and site.alike and site.there is not None:
            other = tuple(_Rows.of(safe, texts, site.there) for texts in (choosing, fresh))
        found += _at(site, features, fit, judge, other)
    return found


def _at(
    site: Site, features: Sequence[int], fit: _Rows, judge: _Rows, other: tuple[_Rows, ...] | None
) -> Iterator[Detector]:
    """2 and 3."""
    for kind, direction in ((MEANS, mean_direction), (PROBE, discriminant)):
        yield _judged(site, kind, judge, direction(fit.first, fit.clean), direction(fit.shown, fit.clean))
    if other is not None:
        added, seen = fit.less(other[0]), judge.less(other[1])
        yield _judged(site, MODELS, seen, added.first.mean(0), added.shown.mean(0))
    if features:
        part = site.whole.only(features)
        first, shown, clean = (part.values(rows) for rows in (judge.first, judge.shown, judge.clean))
        for i, feature in enumerate(features):
            yield Detector(
                hookpoint=site.hookpoint, kind=FEATURE, feature=feature, auc_first=_auc(first[:, i], clean[:, i]),
                auc_all=_auc(shown[:, i], clean[:, i]),
            )  # fmt: skip


def _judged(site: Site, kind: str, rows: _Rows, first: Tensor, shown: Tensor) -> Detector:
    return Detector(
        hookpoint=site.hookpoint, kind=kind, feature=-1, auc_first=_auc(rows.first @ first, rows.clean @ first),
        auc_all=_auc(rows.shown @ shown, rows.clean @ shown),
    )  # fmt: skip


def mean_direction(
    with_it: Float[Tensor, "row width"], without: Float[Tensor, "other width"]
) -> Float[Tensor, "width"]:
    """The difference of means."""
    return with_it.mean(0) - without.mean(0)


def discriminant(with_it: Float[Tensor, "row width"], without: Float[Tensor, "other width"]) -> Float[Tensor, "width"]:
    """The linear discriminant: both kinds count alike, however many rows they have."""
    within = (torch.cov(with_it.double().T) + torch.cov(without.double().T)) / 2
    ridge = RIDGE * within.diagonal().mean().clamp_min(1e-12) * torch.eye(len(within), dtype=torch.float64)
    return torch.linalg.solve(within + ridge, mean_direction(with_it, without).double()).float()


def _auc(with_it: Float[Tensor, "row"], without: Float[Tensor, "other"]) -> float:
    score = torch.cat([with_it, without]).double()
    return auroc(score, torch.arange(len(score)) < len(with_it))
