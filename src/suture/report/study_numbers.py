"""A study's numbers as the report reads them: designs, columns, estimates, and what their intervals tell apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture import units
from suture.report import words

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
    title: str
    help: str
    better: str | None
    """`high`, `low`, or None where neither is better."""
    format: str
    """`share`, `number` or `count`."""
    group: str
    decimals: int | None = None
    """Decimals of a `number`, the same in the whole column; None: as many as each value needs."""

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
class Study:
    """What study.json says, with what is missing left out."""

    title: str
    truth: str
    """`planted` or `language models`."""
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    matched: Mapping[str, Any]
    designs: tuple[Mapping[str, Any], ...]
    columns: tuple[Column, ...]
    """Only those that some design has a number in."""
    rows: tuple[Mapping[str, Any], ...]
    estimates: Mapping[str, Mapping[str, Estimate]]
    """Design -> column -> estimate."""
    notes: tuple[str, ...]

    @property
    def measured(self) -> list[str]:
        """The designs that were not skipped, in the order of the table."""
        return [str(d["name"]) for d in self.designs if not d.get("skipped")]

    def column(self, key: str) -> Column | None:
        """The column of that key, if any design has a number in it."""
        return next((c for c in self.columns if c.key == key), None)

    def of_model(self, begin: str) -> list[Column]:
        """Columns `begin`A, `begin`B, ..: a number per model."""
        letters = {words.letter(m) for m in range(len(self.models))}
        return [c for c in self.columns if c.key.startswith(begin) and c.key.removeprefix(begin) in letters]

    def estimate(self, design: str, key: str) -> Estimate | None:
        """A design's number."""
        return self.estimates.get(design, {}).get(key)

    def rows_of(self, design: str) -> list[Mapping[str, Any]]:
        """What was measured of a design, seed by seed."""
        return [r for r in self.rows if r.get("design") == design]

    def values(self, design: str, key: str) -> list[tuple[int, int | float]]:
        """(seed, value) of every seed that has one."""
        found = [(int(r.get("seed", 0)), _finite(r.get("numbers", {}).get(key))) for r in self.rows_of(design)]
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


def read_study(content: Mapping[str, Any]) -> Study:
    """study.json as a `Study`."""
    summary = content.get("summary") or {}
    estimates = {str(d): {k: e for k, v in one.items() if (e := _estimate(v))} for d, one in summary.items()}
    present = {key for one in estimates.values() for key in one}
    models = tuple(str(m) for m in content.get("models") or [])
    truth = str(content.get("truth", ""))
    return Study(
        title=str(content.get("title") or "A study of designs"),
        truth=truth,
        models=models,
        seeds=tuple(content.get("seeds") or []),
        matched=content.get("matched") or {},
        designs=tuple(content.get("designs") or []),
        columns=tuple(_column(c, estimates) for c in content.get("columns") or [] if c["key"] in present),
        rows=tuple(content.get("rows") or []),
        estimates=estimates,
        notes=tuple(str(n) for n in content.get("notes") or []),
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


def _column(content: Mapping[str, Any], estimates: Mapping[str, Mapping[str, Estimate]]) -> Column:
    key = str(content["key"])
    return Column(
        key=key,
        title=str(content.get("title") or key),
        help=str(content.get("help") or ""),
        better=content.get("better"),
        format=str(content.get("format") or "number"),
        group=str(content.get("group") or ""),
        decimals=_decimals([abs(one[key].mean) for one in estimates.values() if key in one]),
    )


def _decimals(sizes: Sequence[int | float]) -> int | None:
    """Three decimals up to 1, else as many as give the largest three digits; None where it is tiny or huge."""
    largest = max(sizes, default=0.0)
    if not 1e-2 <= largest < 1e6:
        return None
    return 3 if largest <= 1 else max(0, 2 - math.floor(math.log10(largest)))


def _estimate(content: Mapping[str, Any] | None) -> Estimate | None:
    mean = _finite((content or {}).get("mean"))
    if content is None or mean is None:
        return None
    return Estimate(
        mean=mean, low=_finite(content.get("low")), high=_finite(content.get("high")), n=int(content.get("n") or 1)
    )


def _finite(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
