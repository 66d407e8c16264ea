"""The feature table: columns of numbers, labels, examples and promoted tokens, as values and as an artifact.

| file                 | content                                                                     |
|----------------------|-----------------------------------------------------------------------------|
| features.safetensors | every numeric column, float64 [feature], NaN where a number has no meaning  |
| columns.json         | the same columns and the labels with their reasons, NaN as null             |
| examples.json        | per feature its top examples with text                                      |
| logits.json          | per feature and model the promoted and suppressed tokens; may be empty      |
| summary.json         | counts, R2, FVU, L0, two-clusters numbers, false-positive rate of a null    |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError
from suture.features.activity import QUANTILES
from suture.features.classify import Labels
from suture.features.clusters import usage_entropy
from suture.features.stats import FeatureStats
from suture.pipeline import artifact

STAGE = "features"
NUMBERS, COLUMNS, EXAMPLES, LOGITS, SUMMARY = (
    "features.safetensors",
    "columns.json",
    "examples.json",
    "logits.json",
    "summary.json",
)


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """What is known about every feature of a dictionary."""

    models: tuple[str, ...]
    """Labels of the spaces: model A, B, .. in this order."""
    labels: tuple[str, ...]
    """Per feature `A`, `B`, .., `shared`, `ambiguous` or `dead`."""
    reasons: tuple[str, ...]
    """Why a feature is ambiguous or dead; empty otherwise."""
    columns: Mapping[str, Tensor]
    """Name -> float64 [feature]; with two models a share is B's, with more there is one column per model."""
    examples: Sequence[Sequence[Mapping[str, Any]]]
    """As examples.json."""
    logits: Sequence[Sequence[Mapping[str, Any]]]
    """As logits.json; empty where no model was given."""
    summary: Mapping[str, Any]
    """As summary.json."""

    @property
    def n_features(self) -> int:
        """Features in the table."""
        return len(self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """How many features carry each label."""
        return dict(self.summary["counts"])

    def column(self, name: str) -> Tensor:
        """A numeric column, float64 [feature].

        Raises:
            KeyError: no such column.
        """
        return self.columns[name]

    def write(self, folder: Path) -> None:
        """Put the table's files into a folder (of an artifact being written)."""
        save_file({name: column.contiguous() for name, column in self.columns.items()}, folder / NUMBERS)
        columns: dict[str, list[Any]] = {"label": list(self.labels), "reason": list(self.reasons)}
        columns |= {name: _plain(column) for name, column in self.columns.items()}
        head = f'{{\n"n_features": {self.n_features},\n"models": {_line(list(self.models))},\n"columns": {{\n'
        body = ",\n".join(f"{_line(name)}: {_line(values)}" for name, values in columns.items())
        (folder / COLUMNS).write_text(f"{head}{body}\n}}\n}}\n", encoding="utf-8")
        for name, rows in ((EXAMPLES, self.examples), (LOGITS, self.logits)):
            with (folder / name).open("w", encoding="utf-8") as stream:
                stream.write("[")
                for i, row in enumerate(rows):
                    stream.write(f"{',' if i else ''}\n{_line(row)}")
                stream.write("\n]\n")
        artifact.write_json(folder / SUMMARY, self.summary)

    def save(self, path: str | Path, *, settings: Mapping[str, Any] | None = None, overwrite: bool = False) -> None:
        """Save as an artifact of its own (`features` writes its table itself, with its parents).

        Raises:
            ArtifactError: `path` is taken.
        """
        with artifact.create(path, stage=STAGE, settings=settings or {}, overwrite=overwrite) as draft:
            self.write(draft.folder)

    @staticmethod
    def load(path: str | Path) -> FeatureTable:
        """Read a table that `features` or `save` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged or of another version.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="features")
        try:
            written = artifact.read_json(path / COLUMNS)
            order = [name for name in written["columns"] if name not in ("label", "reason")]
            numbers = load_file(path / NUMBERS)
            return FeatureTable(
                models=tuple(written["models"]),
                labels=tuple(written["columns"]["label"]),
                reasons=tuple(written["columns"]["reason"]),
                columns={name: numbers[name] for name in order},
                examples=artifact.read_json(path / EXAMPLES),
                logits=artifact.read_json(path / LOGITS),
                summary=artifact.read_json(path / SUMMARY),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError("features", path, f"cannot be read ({error})", "describe the features again") from None


def columns_of(stats: FeatureStats, labels: Labels, dictionary: Dictionary) -> dict[str, Tensor]:
    """Every numeric column of the table, float64 [feature]."""
    firing, shares = stats.firing, stats.shares
    n_codes = stats.n_rows * (1 if dictionary.design.joint else len(stats.models))
    columns: dict[str, Tensor] = {
        "index": torch.arange(stats.n_features),
        "rate": firing.counts.double() / n_codes,
        "n_active": firing.counts,
        "mean_active": firing.mean,
        "max": firing.maximum,
    }
    columns |= {f"q{str(q)[2:].ljust(2, '0')}": firing.quantiles[:, i] for i, q in enumerate(QUANTILES)}
    columns["energy_share"] = stats.energy / stats.energy.sum()
    if len(stats.models) > 1:
        if dictionary.design.joint:
            norms = _norms(dictionary, stats)
            columns |= _per_model("decoder_share", norms / norms.sum(-1, keepdim=True))
            columns |= _per_model("attribution", stats.attribution)
        columns |= _per_model(f"{shares.kind}_share", labels.share)
        columns |= _per_model(f"{shares.kind}_share_low", labels.low)
        columns |= _per_model(f"{shares.kind}_share_high", labels.high)
        columns["p_exclusive"] = labels.p_lacks.amin(-1)
        columns["p_shared"] = labels.p_has.amax(-1)
        if shares.raw is not None:
            columns |= _per_model("raw_share", labels.raw_share)
        columns |= _per_model("firing_share", stats.solo_counts.double() / stats.solo_counts.sum(-1, keepdim=True))
        columns["usage_entropy"] = usage_entropy(stats.solo_counts)
    if stats.cofiring is not None:
        columns["cofire_correlation"] = stats.cofiring.correlation
        columns["cofire_jaccard"] = stats.cofiring.jaccard
        columns["cofire_weighted_jaccard"] = stats.cofiring.weighted_jaccard
    for (m, n), cosine in stats.mapped_cosine.items():
        pair = "" if len(stats.models) == 2 else f"_{ascii_uppercase[m]}{ascii_uppercase[n]}"
        columns[f"mapped_cosine{pair}"] = cosine
    if stats.scaling is not None and len(stats.models) > 1:
        columns |= _scaling_columns(stats, dictionary)
    return {name: column.double() for name, column in columns.items()}


def _scaling_columns(stats: FeatureStats, dictionary: Dictionary) -> dict[str, Tensor]:
    """Latent scaling, and the cosine of the two directions where their coordinates can be compared at all."""
    assert stats.scaling is not None
    own = _norms(dictionary, stats).argmax(-1, keepdim=True)
    columns: dict[str, Tensor] = {}
    for name, amount in (("nu_eps", stats.scaling.amount_eps), ("nu_r", stats.scaling.amount_r)):
        others = amount.scatter(-1, own, -torch.inf).amax(-1)
        columns[name] = others / amount.gather(-1, own)[:, 0]
    for m in range(len(stats.models)):
        columns[f"beta_eps_{ascii_uppercase[m]}"] = stats.scaling.beta_eps[:, m]
        columns[f"beta_r_{ascii_uppercase[m]}"] = stats.scaling.beta_r[:, m]
    if len(stats.models) == 2 and len(set(dictionary.widths)) == 1:
        cosine = torch.nn.functional.cosine_similarity(dictionary.decoder(0), dictionary.decoder(1), dim=-1)
        columns["decoder_cosine"] = cosine.cpu()
    return columns


def _norms(dictionary: Dictionary, stats: FeatureStats) -> Tensor:
    """Decoder norms in each model's unit length."""
    return dictionary.decoder_norms().double().cpu() / stats.units


def _per_model(name: str, values: Tensor) -> dict[str, Tensor]:
    """One column, model B's, of two models; one per model of more."""
    if values.shape[1] == 2:
        return {name: values[:, 1]}
    return {f"{name}_{ascii_uppercase[m]}": values[:, m] for m in range(values.shape[1])}


def _plain(column: Tensor) -> list[float | int | None]:
    """Numbers for JSON, whole ones without a point, seven significant digits."""
    finite = column.isfinite().tolist()
    return [
        None if not ok else int(v) if v == int(v) and abs(v) < 2**53 else float(f"{v:.7g}")
        for v, ok in zip(column.tolist(), finite, strict=True)
    ]


def _line(value: object) -> str:
    """JSON on one line: a feature per line keeps a large file readable."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
