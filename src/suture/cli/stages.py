"""The commands `demo`, `report` and `verify`, which are little more than their functions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import emit, progress
from suture.cli.options import Argument, Output
from suture.pipeline.settings import Seed


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Compare two shipped tiny models, and write the report.

    Which features they share, on text of their own, without a network; ends with a page to open.
    """

    out: Path = Path("demo")
    """Folder for everything the demo makes."""
    quick: bool = False
    """Less data: under 30 seconds."""
    seed: Seed = 0
    """Of the corpus and the dictionaries."""
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Run the demo."""
        from suture.studies.demo import demo

        with progress() as advance:
            result = demo(self.out, quick=self.quick, seed=self.seed, overwrite=self.output.overwrite, on_step=advance)
        emit(result.to_json(), as_json=self.output.json, text=result.text())


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page from a folder of results.

    It reads what the other stages made and computes nothing; the page opens without a network.
    """

    folder: Annotated[Path, Argument(metavar="DIR", raised=("folders",))]
    """Everything below it that a stage made is shown."""
    out: Path | None = None
    """The HTML file; report.html in the folder where none is named."""
    title: str | None = None
    """Heading of the page."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> None:
        """Write the page."""
        from suture.report.page import find_artifacts, report

        made = report(self.out or self.folder / "report.html", find_artifacts(self.folder), title=self.title)
        emit({"report": str(made)}, as_json=self.json, text=str(made))
