"""A study's numbers as the report reads them: designs, columns, estimates, and what their intervals tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from suture import units
from suture.pipeline.artifact import open_artifact
from suture.pipeline.result import read_typed, typed
from suture.pipeline.table import Column as Described
from suture.pipeline.table import Format, Table, Tabular
from suture.report import words

FILE = "study.json"

NOT_EXCLUSIVE = ("n_shared", "n_ambiguous", "n_dead")
"""Counts of labels that are not one model's (or some models') own."""

_PERCENT = ("dead", "exclusive_rate", "null_rate", "ceiling", "private_share", "shared_energy")
_UNIT = "\u00a0%"
_PERCENT_BEGIN = ("recovery_", "directions_", "recall_")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95 % interval."""

    mean: int | float
    low: int | float | None
    high: int | float | None
    n: int
    """Seeds it is the mean of."""

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known; one seed gives none."""
        return self.low is not None and self.high is not None

    def overlaps(self, other: "Estimate") -> bool:
        """Whether the two intervals have a value in common; unknown ends tell nothing apart."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number that every design has."""

    key: str
    title: str = ""
    help: str = ""
    better: Literal["high", "low"] | None = None
    """None where neither is better."""
    format: Literal["share", "number", "count"] = "number"
    group: str = ""
    decimals: int | None = None
    """Decimals of a `number`, the same in the whole column; None: as many as each value needs."""

    @property
    def described(self) -> Described:
        """What it is, as every table says it."""
        style: Format = "integer" if self.format == "count" else self.format
        return Described(
            name=self.key, title=self.title, sentence=self.help, format=style, group=self.group, better=self.better
        )

    @property
    def is_exclusive_count(self) -> bool:
        """Whether it counts features labelled one model's own: to be read beside the null rate."""
        return self.key.startswith("n_") and self.key not in NOT_EXCLUSIVE

    @property
    def is_percent(self) -> bool:
        """Whether the page writes it in percent, as it writes such numbers elsewhere."""
        return self.format == "share" and (self.key in _PERCENT or self.key.startswith(_PERCENT_BEGIN))

    def write(self, value: int | float | None) -> str:
        """A value of this column for a reader."""
        if value is None:
            return units.DASH
        if self.format == "count":
            text = units.count(value)
        elif self.is_percent:
            text = units.percent(value)
        elif self.format == "share":
            text = units.fvu(value)
        else:
            text = units.number(value) if self.decimals is None else f"{value:,.{self.decimals}f}"
        return text.replace("-", "−")

    def write_interval(self, estimate: Estimate, between: str = " – ") -> str:
        """`low – high`, the unit said once."""
        return f"{self.write(estimate.low).removesuffix(_UNIT)}{between}{self.write(estimate.high)}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the designs stand in one column."""

    best: str
    """The design with the best mean."""
    level: tuple[str, ...]
    """Designs whose mean is written the same: no reader could say which is better."""
    tied: tuple[str, ...]
    """Further designs that it is not told apart from: their intervals overlap its own."""
    behind: tuple[str, ...]
    """The others, the next best first."""
    certain: bool
    """Whether the best one has an interval; without one nothing is told apart."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One design of a study."""

    name: str
    group: str = ""
    says: str = ""
    """What it is, in a sentence."""
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None
    """Why it was not measured, where it was not."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Concepts by whose they are and what was found of them."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one design with one seed."""

    design: str
    seed: int = 0
    numbers: dict[str, float | None] = field(default_factory=dict)
    confusion: Confusion | None = None
    r2: tuple[tuple[float | None, ...], ...] | None = None
    entropy_histogram: tuple[int, ...] | None = None
    share_histogram: tuple[int, ...] | None = None
    seconds: float | None = None

    def number(self, key: str) -> float | None:
        """Its number in a column, where there is one."""
        value = self.numbers.get(key)
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class _Mean:
    """An estimate as study.json has it: its mean may be unknown."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 1


@dataclass(frozen=True, kw_only=True)
class _Written:
    """study.json."""

    title: str = "A study of designs"
    truth: str = ""
    models: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    matched: dict[str, Any] = field(default_factory=dict)
    designs: tuple[Arm, ...] = ()
    columns: tuple[Column, ...] = ()
    rows: tuple[Measured, ...] = ()
    summary: dict[str, dict[str, _Mean | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class Study(Tabular):
    """What study.json says, with what is missing left out."""

    title: str
    truth: str
    """`planted` or `language models`."""
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    matched: Mapping[str, Any]
    designs: tuple[Arm, ...]
    columns: tuple[Column, ...]
    """Only those that some design has a number in."""
    rows: tuple[Measured, ...]
    estimates: Mapping[str, Mapping[str, Estimate]]
    """Design -> column -> estimate."""
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        sizes = f"{len(self.measured)} designs, {len(self.seeds)} seeds, {len(self.columns)} columns"
        return f"Study({self.title}: {sizes}, {' x '.join(self.models)})"

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Study:
        """study.json as a study.

        Raises:
            ValueError: it is something else.
        """
        return _study(typed(content, _Written))

    @staticmethod
    def load(path: str | Path) -> Study:
        """Open a finished study.

        Raises:
            ArtifactError: not a finished study, or its numbers are something else.
        """
        open_artifact(path, stage="study")
        return _study(read_typed(Path(path) / FILE, _Written))

    @property
    def table(self) -> Table:
        """Every number of every design and seed; no number is NaN."""
        known = {(cell.design, cell.seed): cell.numbers for cell in self.rows}
        values = {
            column.key: np.array(
                [[_number(known, design, seed, column.key) for seed in self.seeds] for design in self.measured],
                dtype=float,
            )
            for column in self.columns
        }
        return Table(
            axes=("design", "seed"),
            columns=tuple(column.described for column in self.columns),
            values=values,
            coordinates={"design": self.measured, "seed": [str(seed) for seed in self.seeds]},
        )

    @property
    def measured(self) -> list[str]:
        """The designs that were not skipped, in the order of the table."""
        return [arm.name for arm in self.designs if not arm.skipped]

    def column(self, key: str) -> Column | None:
        """The column of that key, if any design has a number in it."""
        return next((c for c in self.columns if c.key == key), None)

    def of_model(self, begin: str) -> list[Column]:
        """Columns `begin`A, `begin`B, ..: a number per model."""
        letters = {words.letter(m) for m in range(len(self.models))}
        return [c for c in self.columns if c.key.startswith(begin) and c.key.removeprefix(begin) in letters]

    def estimate(self, design: str, key: str) -> Estimate | None:
        """A design's number."""
        own = self.estimates.get(design, {})
        return own.get(key)

    def rows_of(self, design: str) -> list[Measured]:
        """What was measured of a design, seed by seed."""
        return [cell for cell in self.rows if cell.design == design]

    def values(self, design: str, key: str) -> list[tuple[int, int | float]]:
        """(seed, value) of every seed that has one."""
        found = [(cell.seed, cell.number(key)) for cell in self.rows_of(design)]
        return [(seed, value) for seed, value in found if value is not None]

    def standing(self, key: str, *, better: str | None = None) -> Standing | None:
        """Who is best in a column and who is not told apart; None where no direction is better or no number known.

        Args:
            key: the column's.
            better: `high` or `low`, where a question gives a column a direction that it has not by itself.
        """
        column = self.column(key)
        better = better or (column.better if column else None)
        known = [(d, e) for d in self.measured if (e := self.estimate(d, key)) is not None]
        if column is None or better is None or not known:
            return None
        ranked = sorted(known, key=lambda one: one[1].mean, reverse=better == "high")
        best, top = ranked[0]
        level = [d for d, e in ranked[1:] if column.write(e.mean) == column.write(top.mean)]
        others = [(d, e) for d, e in ranked[1:] if d not in level]
        return Standing(
            best=best,
            level=tuple(level),
            tied=tuple(d for d, e in others if e.overlaps(top)),
            behind=tuple(d for d, e in others if not e.overlaps(top)),
            certain=top.has_interval,
        )


def _study(written: _Written) -> Study:
    estimates = {
        design: {
            key: Estimate(mean=v.mean, low=v.low, high=v.high, n=v.n)
            for key, v in own.items()
            if v and v.mean is not None and math.isfinite(v.mean)
        }
        for design, own in written.summary.items()
    }
    present = {key for one in estimates.values() for key in one}
    return Study(
        title=written.title,
        truth=written.truth,
        models=written.models,
        seeds=written.seeds,
        matched=written.matched,
        designs=written.designs,
        columns=tuple(_with_decimals(column, estimates) for column in written.columns if column.key in present),
        rows=written.rows,
        estimates=estimates,
        notes=written.notes,
    )


def summed(tables: Sequence[Sequence[Sequence[int | float | None]]]) -> list[list[int | float]]:
    """Tables of one shape added cell by cell; nothing counts as 0.

    >>> summed([[[1, 2]], [[3, None]]])
    [[4, 2]]
    """
    return [[sum(v or 0 for v in cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def averaged(tables: Sequence[Sequence[Sequence[int | float | None]]]) -> list[list[int | float | None]]:
    """Tables of one shape averaged cell by cell over those that have a number there.

    >>> averaged([[[1, None]], [[3, None]]])
    [[2.0, None]]
    """
    return [
        [_mean([v for v in cells if v is not None]) for cells in zip(*rows, strict=True)]
        for rows in zip(*tables, strict=True)
    ]


def _mean(values: Sequence[int | float]) -> int | float | None:
    return sum(values) / len(values) if values else None


def _with_decimals(column: Column, estimates: Mapping[str, Mapping[str, Estimate]]) -> Column:
    return replace(
        column, decimals=_decimals([abs(one[column.key].mean) for one in estimates.values() if column.key in one])
    )


def _decimals(sizes: Sequence[int | float]) -> int | None:
    """Three decimals up to 1, else as many as give the largest three digits; None where it is tiny or huge."""
    largest = max(sizes, default=0.0)
    if not 1e-2 <= largest < 1e6:
        return None
    return 3 if largest <= 1 else max(0, 2 - math.floor(math.log10(largest)))


def _number(known: Mapping[tuple[str, int], Mapping[str, float | None]], design: str, seed: int, key: str) -> float:
    numbers = known.get((design, seed), {})
    value = numbers.get(key)
    return math.nan if value is None else value
