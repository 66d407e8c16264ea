"""The columns of a feature table: for each its title, its sentence, its format, and what computes it.

This is the only place a column stands in: the table's files, the report, `--json`, pandas and the documentation read
their columns from here. With two models a share is B's, and is one column; with more there is a column per model, named
by its letter, and in titles and sentences the letter stands where the braces are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.features.activity import QUANTILES, Cofiring
from suture.features.classify import Labels
from suture.features.clusters import usage_entropy
from suture.features.refit import Scaling
from suture.features.stats import FeatureStats
from suture.pipeline.table import Column, Format

FIRING, BESIDE, OWNERS, SCALING = "How it fires", "Model by model", "Whose it is", "Latent scaling (2504.02922)"
ABOUT = {
    SCALING: "The published check for crosscoder features, along the fixed decoder directions. It is reported for "
    "comparison; labels do not use it, since it says nothing where a decoder row is so short that its direction is "
    "noise."
}
"""What is said of a group of columns as a whole."""
INTERVAL = "95 % interval, from a bootstrap over documents."


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the columns are computed from."""

    stats: FeatureStats
    labels: Labels
    dictionary: Dictionary

    @property
    def n_models(self) -> int:
        """Models compared."""
        return len(self.stats.models)

    @property
    def norms(self) -> Float64[Tensor, "feature space"]:
        """Decoder norms in each model's unit length."""
        return self.dictionary.decoder_norms().double().cpu() / self.stats.units

    @property
    def own(self) -> Tensor:
        """The model with the longest decoder row, per feature [feature, 1]."""
        return self.norms.argmax(-1, keepdim=True)


Values = Tensor | Mapping[tuple[int, int], Tensor] | None
"""What a measure gives, by its `per`; None where it has no meaning."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column, or the columns of one kind, and what computes them."""

    column: Column
    of: Callable[[Evidence], Values]
    per: Literal["feature", "share", "model", "pair"] = "feature"
    """One column [feature]; from shares [feature, space] that sum to 1, model B's alone of two models and a column per
    model of more; a column per model always; a column per pair of models, without letters where there is one pair."""

    def columns(self, evidence: Evidence) -> Iterator[tuple[Column, Float64[Tensor, "feature"]]]:
        """The columns with their values; none where the measure has no meaning."""
        values = self.of(evidence)
        if isinstance(values, Tensor):
            if self.per == "feature":
                yield self.about("", ""), _plain(values)
            elif self.per == "share" and values.shape[1] == 2:
                yield self.about("B", ""), _plain(values[:, 1])
            else:
                for m, letter in enumerate(ascii_uppercase[: values.shape[1]]):
                    yield self.about(letter, f"_{letter}"), _plain(values[:, m])
        else:
            for pair, one in (values or {}).items():
                letters = "".join(ascii_uppercase[m] for m in pair)
                yield self.about(" and ".join(letters), "" if evidence.n_models == 2 else f"_{letters}"), _plain(one)

    def about(self, which: str, ending: str) -> Column:
        """The column that is about some model or models, in words and as the ending of its name."""
        title, sentence = (text.replace("{}", which) for text in (self.column.title, self.column.sentence))
        return replace(self.column, name=self.column.name + ending, title=title, sentence=sentence)


def _plain(values: Tensor) -> Float64[Tensor, "feature"]:
    return values.double().cpu()


def measured(evidence: Evidence) -> tuple[tuple[Column, ...], dict[str, Float64[Tensor, "feature"]]]:
    """Every column that has a meaning here, and its values by name."""
    found = [one for measure in MEASURES for one in measure.columns(evidence)]
    return tuple(column for column, _ in found), {column.name: values for column, values in found}


def column_called(name: str) -> Column:
    """The column of a name, for files that do not describe theirs; one without a sentence where it is unknown.

    >>> column_called("refit_share").title, column_called("refit_share_low_C").title
    ('Refit share of B', 'Refit share of C, low')
    """
    base, _, letters = name.rpartition("_")
    known = {measure.column.name: measure for measure in MEASURES}
    if name in (LABEL.name, REASON.name):
        return LABEL if name == LABEL.name else REASON
    if name in known:
        return known[name].about("B", "")
    if base in known and letters.isupper():
        return known[base].about(" and ".join(letters), f"_{letters}")
    return Column(name=name, title=name.replace("_", " "), sentence="", axes=("feature",))


def documented() -> list[Column]:
    """Every column there can be, as with two models: what the documentation lists."""
    letters = {"model": (("A", "_A"), ("B", "_B"))}
    shown = [m.about(*which) for m in MEASURES for which in letters.get(m.per, (("B", ""),))]
    return [LABEL, REASON, *shown]


def _column(name: str, title: str, sentence: str, format_: Format, group: str, *, unit: str = "") -> Column:
    return Column(name=name, title=title, sentence=sentence, format=format_, group=group, unit=unit, axes=("feature",))


def _several(compute: Callable[[Evidence], Values], *, joint: bool = False) -> Callable[[Evidence], Values]:
    """The measure, where there are several models to compare (and one code for a row of all, where `joint`)."""
    return lambda e: None if e.n_models < 2 or (joint and not e.dictionary.design.joint) else compute(e)


def _evidence(kind: str, compute: Callable[[Labels], Tensor]) -> Callable[[Evidence], Values]:
    """A share that labels rest on, where they rest on shares of this kind."""
    return lambda e: None if e.n_models < 2 or e.stats.shares.kind != kind else compute(e.labels)


def _cofiring(compute: Callable[[Cofiring], Tensor]) -> Callable[[Evidence], Values]:
    return lambda e: None if e.stats.cofiring is None else compute(e.stats.cofiring)


def _scaling(compute: Callable[[Evidence, Scaling], Tensor]) -> Callable[[Evidence], Values]:
    return lambda e: None if e.n_models < 2 or e.stats.scaling is None else compute(e, e.stats.scaling)


def _others_amount(e: Evidence, amount: Tensor) -> Tensor:
    """The largest other model's amount over the own model's."""
    return amount.scatter(-1, e.own, -torch.inf).amax(-1) / amount.gather(-1, e.own)[:, 0]


def _rate(e: Evidence) -> Tensor:
    n_codes = e.stats.n_rows * (1 if e.dictionary.design.joint else e.n_models)
    return e.stats.firing.counts.double() / n_codes


def _decoder_cosine(e: Evidence) -> Values:
    dictionary = e.dictionary
    if e.n_models != 2 or len(set(dictionary.widths)) != 1 or e.stats.scaling is None:
        return None
    return torch.nn.functional.cosine_similarity(dictionary.decoder(0), dictionary.decoder(1), dim=-1)


LABEL = _column("label", "Label", "Whose feature it is.", "text", "Labels")
REASON = _column("reason", "Reason", "Why a feature is ambiguous or dead.", "text", "Labels")

MEASURES: tuple[Measure, ...] = (
    Measure(
        column=_column("index", "Feature", "The feature's number in its dictionary.", "integer", FIRING),
        of=lambda e: torch.arange(e.stats.n_features),
    ),
    Measure(
        column=_column(
            "rate",
            "Rate",
            "Share of the described rows on which it fires (pooled: of the rows of all models).",
            "percent",
            FIRING,
        ),
        of=_rate,
    ),
    Measure(
        column=_column("n_active", "Rows active", "On how many rows that is.", "integer", FIRING, unit="rows"),
        of=lambda e: e.stats.firing.counts,
    ),
    Measure(
        column=_column("mean_active", "Mean active", "Mean value where it fires, in code units.", "number", FIRING),
        of=lambda e: e.stats.firing.mean,
    ),
    Measure(
        column=_column("max", "Maximum", "Largest value seen, in code units.", "number", FIRING),
        of=lambda e: e.stats.firing.maximum,
    ),
    *(
        Measure(
            column=_column(
                f"q{str(q)[2:].ljust(2, '0')}",
                "Median" if q == 0.5 else f"{100 * q:g} %",
                f"{'Median' if q == 0.5 else f'{100 * q:g} % quantile'} of its values where it fires, exact"
                + (": the unit of steering strength." if q == QUANTILES[-1] else "."),
                "number",
                FIRING,
            ),
            of=lambda e, i=i: e.stats.firing.quantiles[:, i],
        )
        for i, q in enumerate(QUANTILES)
    ),
    Measure(
        column=_column(
            "energy_share",
            "Energy",
            "Its part of all that is decoded: the sum over rows of (value times norm of the decoder row) squared, over "
            "that of all features.",
            "percent",
            FIRING,
        ),
        of=lambda e: e.stats.energy / e.stats.energy.sum(),
    ),
    Measure(
        column=_column(
            "decoder_norm",
            "Decoder norm, {}",
            "Length of its decoder row in {}, in units of how far the model's rows lie from their mean (root mean "
            "square). A column per model.",
            "number",
            BESIDE,
        ),
        of=lambda e: e.norms,
        per="model",
    ),
    Measure(
        column=_column(
            "alone_rate",
            "Rate from {} alone",
            "Share of the described rows on which it fires when encoded from {} alone. A column per model.",
            "percent",
            BESIDE,
        ),
        of=lambda e: e.stats.solo_counts.double() / e.stats.n_rows,
        per="model",
    ),
    Measure(
        column=_column(
            "alone_mean",
            "Mean active, {} alone",
            "Its mean value where it fires when encoded from {} alone, in code units. A column per model.",
            "number",
            BESIDE,
        ),
        of=lambda e: torch.stack([codes.sums() / codes.counts for codes in e.stats.solo], dim=-1),
        per="model",
    ),
    Measure(
        column=_column(
            "decoder_share",
            "Decoder share of {}",
            "Norm of its decoder row in {} over the sum of all, each in units of how far the model's rows lie from "
            "their mean (root mean square). What training chose to write; easily too extreme, since sparsity shrinks "
            "the smaller part away.",
            "share",
            OWNERS,
        ),
        of=_several(lambda e: e.norms / e.norms.sum(-1, keepdim=True), joint=True),
        per="share",
    ),
    Measure(
        column=_column(
            "attribution",
            "Attribution to {}",
            "Where it fires, the part of its value that came from the encoder of {}.",
            "share",
            OWNERS,
        ),
        of=_several(lambda e: e.stats.attribution, joint=True),
        per="share",
    ),
    Measure(
        column=_column(
            "refit_share",
            "Refit share of {}",
            "What labels rest on (all designs but pooled). On one half of the documents the feature's direction in "
            "each model is fitted again by least squares, with every other feature kept; on the other half, and the "
            "other way round, it is measured how much of the activation of {} a unit of the feature brings along that "
            "direction. Fitting and measuring on different rows keeps noise from looking like a share. Negative "
            "amounts count as none.",
            "share",
            OWNERS,
        ),
        of=_evidence("refit", lambda labels: labels.share),
        per="share",
    ),
    Measure(
        column=_column("refit_share_low", "Refit share of {}, low", f"Lower end of its {INTERVAL}", "share", OWNERS),
        of=_evidence("refit", lambda labels: labels.low),
        per="share",
    ),
    Measure(
        column=_column("refit_share_high", "Refit share of {}, high", f"Upper end of its {INTERVAL}", "share", OWNERS),
        of=_evidence("refit", lambda labels: labels.high),
        per="share",
    ),
    Measure(
        column=_column(
            "usage_share",
            "Usage share of {}",
            "What labels of a pooled dictionary rest on: the part of the feature's squared values that falls on the "
            "rows of {}. Squares and not counts, because top-k hands out its k places whether or not there is "
            "something to give them to.",
            "share",
            OWNERS,
        ),
        of=_evidence("usage", lambda labels: labels.share),
        per="share",
    ),
    Measure(
        column=_column("usage_share_low", "Usage share of {}, low", f"Lower end of its {INTERVAL}", "share", OWNERS),
        of=_evidence("usage", lambda labels: labels.low),
        per="share",
    ),
    Measure(
        column=_column("usage_share_high", "Usage share of {}, high", f"Upper end of its {INTERVAL}", "share", OWNERS),
        of=_evidence("usage", lambda labels: labels.high),
        per="share",
    ),
    Measure(
        column=_column(
            "p_exclusive",
            "p exclusive",
            "Smallest p-value over the models of “the model has it”: small where some model lacks the feature. Before "
            "correction.",
            "p",
            OWNERS,
        ),
        of=_several(lambda e: e.labels.p_lacks.amin(-1)),
    ),
    Measure(
        column=_column(
            "p_shared",
            "p shared",
            "Largest p-value over the models of “the model lacks it”: small where every model has the feature. Before "
            "correction.",
            "p",
            OWNERS,
        ),
        of=_several(lambda e: e.labels.p_has.amax(-1)),
    ),
    Measure(
        column=_column(
            "raw_share",
            "Raw share of {}",
            "As the refit share, but along the plain activation, other features' contributions included. A model with "
            "a small refit share and a raw share of 0.3 or more is decoupled.",
            "share",
            OWNERS,
        ),
        of=_several(lambda e: None if e.stats.shares.raw is None else e.labels.raw_share),
        per="share",
    ),
    Measure(
        column=_column(
            "firing_share",
            "Firing share of {}",
            "Of the rows it fires on, from each model alone, the part that comes from {}.",
            "share",
            OWNERS,
        ),
        of=_several(lambda e: e.stats.solo_counts.double() / e.stats.solo_counts.sum(-1, keepdim=True)),
        per="share",
    ),
    Measure(
        column=_column(
            "usage_entropy",
            "Usage entropy",
            "Entropy of those firings over the models, over its maximum: 0 only one model makes it fire, 1 all "
            "equally.",
            "share",
            OWNERS,
        ),
        of=_several(lambda e: usage_entropy(e.stats.solo_counts)),
    ),
    Measure(
        column=_column(
            "cofire_correlation",
            "Co-firing r",
            "Pearson correlation of its values in the codes of A alone and of B alone (the other imputed), zeros "
            "included (mean over pairs of models).",
            "correlation",
            OWNERS,
        ),
        of=_cofiring(lambda both: both.correlation),
    ),
    Measure(
        column=_column(
            "cofire_jaccard",
            "Co-firing Jaccard",
            "Rows on which the codes of A alone and of B alone both fire over rows on which either does.",
            "share",
            OWNERS,
        ),
        of=_cofiring(lambda both: both.jaccard),
    ),
    Measure(
        column=_column(
            "cofire_weighted_jaccard",
            "Co-firing, weighted",
            "Sum of the smaller value over sum of the larger, of the codes of A alone and of B alone: co-firing with "
            "strengths.",
            "share",
            OWNERS,
        ),
        of=_cofiring(lambda both: both.weighted_jaccard),
    ),
    Measure(
        column=_column(
            "mapped_cosine",
            "Mapped cosine",
            "Cosine of A's decoder row, carried over by the linear map that fits B's activations to A's best (ridge, "
            "on other documents), with B's row. Defined for any widths and bases. High: the two directions correspond; "
            "low says little, since a map fitted to all activations need not carry one feature. With more models one "
            "column per pair.",
            "correlation",
            OWNERS,
        ),
        of=lambda e: e.stats.mapped_cosine,
        per="pair",
    ),
    Measure(
        column=_column(
            "nu_eps",
            "ν error",
            "The other model's amount (beta times norm) over the own model's, own being the one with the longer "
            "decoder row. High for a feature that looks exclusive: complete shrinkage, the norm says exclusive and the "
            "data do not.",
            "number",
            SCALING,
        ),
        of=_scaling(lambda e, scaling: _others_amount(e, scaling.amount_eps)),
    ),
    Measure(
        column=_column(
            "nu_r",
            "ν reconstruction",
            "The same for the reconstruction. High: decoupling, other features carry the other model's part.",
            "number",
            SCALING,
        ),
        of=_scaling(lambda e, scaling: _others_amount(e, scaling.amount_r)),
    ),
    Measure(
        column=_column(
            "beta_eps",
            "β error, {}",
            "Factor by which the feature's decoder row in {} should be scaled to explain the residual with the "
            "feature's own part added back; near 1 after training. A column per model.",
            "number",
            SCALING,
        ),
        of=_scaling(lambda _, scaling: scaling.beta_eps),
        per="model",
    ),
    Measure(
        column=_column(
            "beta_r",
            "β reconstruction, {}",
            "The same for the reconstruction of {}. A column per model.",
            "number",
            SCALING,
        ),
        of=_scaling(lambda _, scaling: scaling.beta_r),
        per="model",
    ),
    Measure(
        column=_column(
            "decoder_cosine",
            "Decoder cosine",
            "Cosine of the two decoder rows, where the widths are equal. It compares coordinates, so between models "
            "with different bases it is near zero even for a feature that both have.",
            "correlation",
            SCALING,
        ),
        of=_decoder_cosine,
    ),
)
"""Every column, in the order of the table."""
