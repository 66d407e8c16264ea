"""The command `sweep`: every combination of a study file's settings, collected, trained and described."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import command_line, complain, emit, progress
from suture.cli.options import Argument, Output
from suture.errors import UserError
from suture.pipeline.settings import Count


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Collect, train and describe, or match, every cell of a study file.

    [collect], [train] and [features] hold the options of those commands by name; [sweep] names those to vary, "train.k"
    = [16, 32], and every combination is a cell, less those that an entry of exclude matches. Hookpoints may be lists
    and patterns, resid*.post; all of them lie in one store. Cells that are done with the same settings are kept, those
    that failed are told at the end, and tried again by the same command.
    """

    file: Annotated[Path, Argument(metavar="FILE.toml", raised=("study",))]
    """Tables [collect], [train] or [import], [features] or [match], and [sweep]; or the name of a preset."""
    out: Path | None = None
    """Folder of the sweep; what is finished there is kept. Named after the file where it is not given."""
    workers: Count = 1
    """Processes of this machine that cells are run in."""
    ray: str | None = None
    """Address of a Ray cluster to run cells on instead, auto for this machine's; its nodes share this disk."""
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Run what is left of it, and say what came out; what failed comes after it."""
        from suture.studies.sweep import sweep
        from suture.sweep.run import in_words

        with progress() as advance:
            result = sweep(
                self.file,
                self.out or self.file.with_suffix(""),
                workers=self.workers,
                ray=self.ray,
                overwrite=self.output.overwrite,
                tell=advance,
                command=command_line(),
            )
        emit(result.to_json(), as_json=self.output.json, text=result.text())
        for failed in result.failed:
            complain(f"suture: {failed.job.name} {failed.state}: {in_words(failed.error)}")
        if result.failed:
            mistakes = all(isinstance(r.error, UserError | OSError) for r in result.failed if r.state == "failed")
            raise SystemExit(2 if mistakes else 1)
