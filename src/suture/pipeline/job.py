"""A job: a stage call as data. Making one runs nothing; what it is, is its stage, its settings and its inputs.

`Context` holds what says only how a job is run; no result depends on it. Two jobs whose settings are equal and whose
inputs have the same content are the same job, wherever they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from suture.pipeline import artifact
from suture.pipeline.log import told

Tell = Callable[[str, int, int, str], None]
"""Gets (what, done, total, note)."""


def silent(what: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody but the logs of the results that are being written."""
    told(what, done, total, note)


@dataclass(frozen=True, kw_only=True)
class Context:
    """How jobs are run."""

    overwrite: bool = False
    """Replace what is there and was made with other settings or from other inputs."""
    resume: bool = True
    """Keep what is done, and go on with what was begun; otherwise begin anew."""
    patience: float = 0.0
    """Seconds to wait for an output that another process writes."""
    command: str | None = None
    """The shell command that does the same, for the records."""
    tell: Tell = silent
    """Told how far it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A stage with its output, its inputs and its settings; plain values, so that another process can run it."""

    name: str
    """For people."""
    stage: str
    """What its result's manifest says that it is: `store`, `dictionary`, `features`."""
    work: Callable[[Job, Context], object]
    """Runs it: a function of a module, which other processes find by its name."""
    out: Path
    settings: Any
    """A settings dataclass."""
    inputs: Mapping[str, Path | Job] = field(default_factory=dict)
    """Artifacts that it reads, or the jobs that make them, in the order in which its manifest names its parents."""
    results: Mapping[Path, Mapping[str, Any]] | None = None
    """What it makes, each with the settings that its manifest will hold; `out` with its fields where it is not said."""

    device: str = "cpu"
    """What it runs on; `auto` is a GPU where there is one."""

    def input(self, name: str) -> Path:
        """Where an input lies."""
        found = self.inputs[name]
        return found.out if isinstance(found, Job) else found

    @property
    def parents(self) -> tuple[Path, ...]:
        """Where its inputs lie."""
        return tuple(self.input(name) for name in self.inputs)

    @property
    def needs(self) -> tuple[Job, ...]:
        """The jobs that come before it."""
        return tuple(job for job in self.inputs.values() if isinstance(job, Job))

    @property
    def folders(self) -> tuple[Path, ...]:
        """What it makes."""
        return (self.out,) if self.results is None else tuple(self.results)

    @property
    def is_done(self) -> bool:
        """Whether its results are there, undamaged, made with these settings from what now lies at its inputs."""
        results = {self.out: asdict(self.settings)} if self.results is None else self.results
        return all(
            artifact.is_made(out, stage=self.stage, settings=settings, parents=self.parents)
            for out, settings in results.items()
        )
