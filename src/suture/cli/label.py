"""The command `label`: names for features by a language model at hand, each with what it is worth."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import command_line, emit, progress
from suture.cli.options import Argument, ResumableOutput
from suture.lm.settings import LoadSettings
from suture.naming.settings import NameSettings
from suture.pipeline.settings import Option


@dataclass(frozen=True, kw_only=True)
class Label:
    """Name features with a language model, and try every name on texts that it was not made from.

    Names that are not surely better than those of other features are left out of the file that the report reads.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    table: Annotated[Path, Option(raised=("features",))]
    """Made by suture features: its examples are named and tried."""
    labeler: Annotated[str, Option(raised=("model",))]
    """The model that is asked: local folder, hub name or shipped model. Its chat template is used where it has one."""
    out: Path
    """Folder to be made."""
    settings: NameSettings = field(default_factory=NameSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    device: str = "auto"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Name, try, and print."""
        from suture.lm.models import load_models
        from suture.naming.naming import NOTES, label

        (lm,) = load_models([self.labeler], self.load, device=self.device)
        with progress() as advance:
            found = label(
                self.out,
                self.dictionary,
                self.table,
                lm,
                self.settings,
                on_progress=advance,
                resume=self.output.resume,
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        own = found.names.values
        rows = [dict(zip(own, row, strict=True)) for row in zip(*(own[name].tolist() for name in own), strict=True)]
        lines = [
            f"{row['feature']:>6}  {'*' if row['good'] else ' '} AUROC {row['auroc']:.2f} "
            f"({row['low']:.2f} to {row['high']:.2f}), other names {row['chance']:.2f}  {row['name']}"
            for row in rows
        ]
        within = found.above_chance
        ends = "" if within is None else f", above chance by {within[0]:+.2f} to {within[1]:+.2f}"
        said = f"{found.n_good} of {len(rows)} names are surely better than other features' names (*)"
        mean = f"mean AUROC {found.auroc:.2f}, other names {found.chance:.2f}{ends}"
        emit(
            {
                "out": str(self.out),
                "names": str(self.out / NOTES),
                "labeler": found.labeler,
                "auroc": found.auroc,
                "chance": found.chance,
                "above_chance": None if within is None else list(within),
                "features": rows,
            },
            as_json=self.output.json,
            text="\n".join([*lines, said, mean, f"read {self.out / NOTES} in the report: Read notes from a file"]),
        )
