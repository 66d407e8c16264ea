"""The command `estimate`: what a study takes of time, memory and disk, before it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from suture import units
from suture.cli.console import complain, emit, progress
from suture.cli.options import Argument
from suture.pipeline.settings import Limits

if TYPE_CHECKING:
    from suture.estimate.estimate import Estimate
    from suture.estimate.probe import Span


@dataclass(frozen=True, kw_only=True)
class EstimateStudy:
    """Say what a study takes of time, memory and disk.

    Measures each step for a few seconds: models are loaded, some text is collected, some steps are trained. [collect]
    and [train] hold the options of those commands by name; [sweep] names those to vary, "train.k" = [16, 32], and
    every combination is a cell. What does not fit is refused with the value that would.
    """

    study: Annotated[Path, Argument(metavar="STUDY.toml")]
    """Tables [collect], [train], [features] and [sweep]."""
    out: Path = Path()
    """Where the results will go: its disk counts."""
    device: str | None = None
    """cpu, cuda, .. for all stages; as in the file where it is not given."""
    seconds: Annotated[float, Limits(0.5)] = 4.0
    """To measure each store and each shape for, about."""
    after: tuple[Literal["features", "match", "splice", "causal", "steer", "report"], ...] = ("features",)
    """Stages of each dictionary after its training, with their usual settings; steer of one feature. The two of a cell
    with [match] are matched instead."""
    offline: bool = False
    """Never ask a hub: local folders and caches only."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> None:
        """Measure, and say what was found; what cannot be run is an error after it."""
        from suture.estimate.estimate import estimate
        from suture.report.page import report
        from suture.sweep.file import read_study

        wanted = read_study(self.study)
        with progress() as advance:
            found = estimate(
                wanted,
                out=self.out,
                device=self.device,
                offline=self.offline,
                probe_seconds=self.seconds,
                after=self.after,
                page=report,
                on_progress=lambda what, done, total: advance("measuring", done, total, what),
            )
        emit(found.to_json(), as_json=self.json, text=_table(found))
        for problem in found.problems[:-1]:
            complain(f"suture: {problem}")
        if found.problems:
            raise found.problems[-1]


def _table(found: "Estimate") -> str:
    """A line per step, the total, and what is free."""
    rows = [("", "time", "rows/s", "memory", "disk")]
    for step in found.steps:
        rate = "" if step.rows_per_second is None else f"{step.rows_per_second:,.0f}"
        rows.append((step.name, _time(step.seconds), rate, units.size(step.memory), _disk(step.disk, step.disk_peak)))
    if len(found.steps) > 1:
        rows.append(("in all", _time(found.seconds), "", units.size(found.memory), _disk(found.disk, found.disk_peak)))
    rows.append(("free", "", "", units.size(found.free.memory), units.size(found.free.disk)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if mapped := max(step.mapped for step in found.steps):
        lines.append(
            f"A store is read through a memory map: up to {units.size(mapped)} more are used where memory is free."
        )
    for step in found.steps:
        if step.device_memory is not None and found.free.device_memory is not None:
            free = units.size(found.free.device_memory)
            lines.append(f"{step.name}: {units.size(step.device_memory)} of GPU memory, {free} are free")
    return "\n".join(lines)


def _time(span: "Span | None") -> str:
    """The time, and between which it is likely to lie."""
    if span is None:
        return "not measured"
    return f"{_duration(span.middle)} ({_duration(span.low)} to {_duration(span.high)})"


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(5.2), _duration(75.0), _duration(7_265.0)
    ('5 s', '1:15 min', '2:01 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _disk(kept: int, peak: int) -> str:
    return units.size(kept) if peak <= kept else f"{units.size(kept)} ({units.size(peak)} on the way)"
