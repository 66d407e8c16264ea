"""The feature table: columns of numbers, labels, examples and promoted tokens, as values and as an artifact.

| file                 | content                                                                     |
|----------------------|-----------------------------------------------------------------------------|
| features.safetensors | every numeric column, float64 [feature], NaN where a number has no meaning  |
| columns.json         | what each column is; the same numbers, labels and reasons, NaN as null      |
| examples.json        | per feature its examples with text                                          |
| passages.json        | the text for some way around them; older tables have none                   |
| details.safetensors  | histograms of values, neighbours; older tables have none                    |
| logits.json          | per feature and model the promoted and suppressed tokens; may be empty      |
| summary.json         | counts, R2, FVU, L0, two-clusters numbers, false-positive rate of a null    |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suture.dictionary.dictionary import Dictionary
from suture.errors import ArtifactError
from suture.features.clusters import TwoClusters
from suture.features.columns import LABEL, REASON, column_called
from suture.features.details import Details
from suture.pipeline import artifact
from suture.pipeline.files import json_line
from suture.pipeline.result import typed
from suture.pipeline.table import Column, Table, Tabular

STAGE = "features"
NUMBERS, COLUMNS, EXAMPLES, PASSAGES, LOGITS, SUMMARY = (
    "features.safetensors",
    "columns.json",
    "examples.json",
    "passages.json",
    "logits.json",
    "summary.json",
)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What the strongest examples leave out, in numbers."""

    n_per_document: int
    """Examples of a feature from one document at most."""
    n_rows_described: int
    n_rows_searched: int
    """Of the whole store; 0 where it was not searched."""
    n_features_stronger_elsewhere: int
    """Features whose strongest rows of the store are not all among their strongest examples."""


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """The numbers of a whole table: summary.json. What an older file does not say is empty or None."""

    design: str = ""
    models: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    """Features with each label."""
    fvu: tuple[float, ...] = ()
    fvu_typical: tuple[float, ...] | None = None
    """Without outlier rows and the coordinates of most variance."""
    l0: float | None = None
    dead: float | None = None
    r2: tuple[tuple[float, ...], ...] = ()
    r2_linear: tuple[tuple[float | None, ...], ...] | None = None
    """Of the linear maps that stand in for a missing model; None on the diagonal."""
    two_clusters: TwoClusters | None = None
    null: bool = False
    false_positive_rate: float | None = None
    """Of a null."""
    examples: LeftOut | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureTable(Tabular):
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
    passages: Sequence[Mapping[str, Any]] = ()
    """As passages.json; empty where there is none."""
    details: Details | None = None
    """Histograms of values, and neighbours; None where an older suture described the features."""
    specs: tuple[Column, ...] = ()
    """What each of the columns is, in their order; looked up by name where a file does not say it."""
    path: Path | None = None
    """The folder that it was written to or read from."""

    def __repr__(self) -> str:
        labels = ", ".join(f"{n:,} {label}" for label, n in Counter(self.labels).most_common())
        where = " x ".join(self.models)
        lies = f"; {self.path}" if self.path else ""
        return f"FeatureTable({self.n_features:,} features of {where}: {labels}; {len(self.columns)} columns{lies})"

    @cached_property
    def described(self) -> tuple[Column, ...]:
        """Every column, label and reason among them, in the order of the table."""
        return LABEL, REASON, *(self.specs or (column_called(name) for name in self.columns))

    @property
    def table(self) -> Table:
        """The columns, label and reason among them, as arrays."""
        texts = {LABEL.name: self.labels, REASON.name: self.reasons}
        values = {name: np.array(text, dtype=object) for name, text in texts.items()}
        values |= {name: column.numpy() for name, column in self.columns.items()}
        return Table(axes=("feature",), columns=self.described, values=values)

    @property
    def n_features(self) -> int:
        """Features in the table."""
        return len(self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """How many features carry each label."""
        return dict(self.summary["counts"])

    @cached_property
    def found(self) -> FeatureSummary:
        """The summary as typed values."""
        return typed(artifact.as_json(self.summary), FeatureSummary)

    def plain_columns(self) -> dict[str, list[Any]]:
        """Every column as JSON values, labels and reasons first; what is no number is None."""
        columns: dict[str, list[Any]] = {LABEL.name: list(self.labels), REASON.name: list(self.reasons)}
        return columns | {name: _plain(column) for name, column in self.columns.items()}

    def column(self, name: str) -> Tensor:
        """A numeric column, float64 [feature].

        Raises:
            KeyError: no such column.
        """
        return self.columns[name]

    def write(self, folder: Path) -> None:
        """Put the table's files into a folder (of an artifact being written)."""
        save_file({name: column.contiguous() for name, column in self.columns.items()}, folder / NUMBERS)
        head = b'{\n"n_features": %d,\n"models": %b,\n"described": [\n' % (
            self.n_features,
            json_line(list(self.models)),
        )
        head += b",\n".join(json_line(column.to_json()) for column in self.described) + b'\n],\n"columns": {\n'
        body = b",\n".join(b"%b: %b" % (json_line(name), json_line(own)) for name, own in self.plain_columns().items())
        (folder / COLUMNS).write_bytes(head + body + b"\n}\n}\n")
        for name, rows in ((EXAMPLES, self.examples), (PASSAGES, self.passages), (LOGITS, self.logits)):
            with (folder / name).open("wb") as stream:
                stream.write(b"[")
                for i, row in enumerate(rows):
                    stream.write((b",\n" if i else b"\n") + json_line(row))
                stream.write(b"\n]\n")
        if self.details is not None:
            self.details.write(folder)
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

        Examples, passages and promoted tokens, nearly all of its bytes, are read when they are first looked at.

        Raises:
            ArtifactError: missing, unfinished, damaged or of another version.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="features")
        try:
            written = artifact.read_json(path / COLUMNS)
            texts = (LABEL.name, REASON.name)
            order = [name for name in written["columns"] if name not in texts]
            described = [Column.from_json(column) for column in written.get("described", ())]  # version 1 has none
            numbers = load_file(path / NUMBERS)
            return FeatureTable(
                models=tuple(written["models"]),
                labels=tuple(written["columns"][LABEL.name]),
                reasons=tuple(written["columns"][REASON.name]),
                columns={name: numbers[name] for name in order},
                examples=_Listed(path / EXAMPLES),
                logits=_Listed(path / LOGITS),
                passages=_Listed(path / PASSAGES) if (path / PASSAGES).is_file() else (),
                details=Details.read(path),
                summary=artifact.read_json(path / SUMMARY),
                specs=tuple(column for column in described if column.name not in texts),
                path=path,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise _unreadable(path, error) from None


class _Listed(Sequence[Any]):
    """The list in a table's file, read when it is first looked into."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def values(self) -> list[Any]:
        try:
            return artifact.read_json(self.file)
        except (OSError, ValueError) as error:
            raise _unreadable(self.file.parent, error) from None

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return self.values == (other.values if isinstance(other, _Listed) else other)


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError("features", path, f"cannot be read ({error})", "describe the features again")


def need_table_of(
    dictionary_path: str | Path, table_path: str | Path, table: FeatureTable, dictionary: Dictionary
) -> None:
    """Refuse a table that describes another dictionary, were it of the same size.

    Raises:
        ArtifactError: naming it.
    """
    fix = "name the table that suture features made from this dictionary"
    artifact.need_parent(table_path, dictionary_path, setting="table", fix=fix)
    if table.n_features != dictionary.n_features:
        problem = f"describes {table.n_features} features, the dictionary has {dictionary.n_features}"
        raise ArtifactError("table", table_path, problem, fix)


def _plain(column: Tensor) -> list[float | int | None]:
    """Numbers for JSON, whole ones without a point, seven significant digits."""
    return [
        None if not isfinite(v) else int(v) if v == int(v) and abs(v) < 2**53 else float(f"{v:.7g}")
        for v in column.tolist()
    ]
