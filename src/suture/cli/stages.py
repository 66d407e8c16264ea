"""The commands `demo`, `report` and `verify`, which are little more than their functions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import complain, emit, progress
from suture.cli.options import Argument, Output
from suture.errors import ArtifactError, UserError
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


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every file of every result in a folder, and compare checksums.

    Opening a result looks at the sizes of its files, and at the checksums of those that are read; this looks at all.
    """

    folder: Annotated[Path, Argument(metavar="DIR", raised=("path",))]
    """A result, or a folder of results."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> None:
        """Verify, and say what was read; all damaged results are named, the last as the error."""
        from suture.pipeline.artifact import MANIFEST, verify

        folders = sorted(manifest.parent for manifest in self.folder.rglob(MANIFEST))
        if not folders:
            raise UserError("folder", self.folder, "holds no finished result", "name a folder that a stage made")
        n_bytes, damaged = 0, []
        with progress() as advance:
            for done, folder in enumerate(folders, start=1):
                try:
                    n_bytes += sum(entry.n_bytes for entry in verify(folder).files)
                except ArtifactError as error:
                    damaged.append(error)
                advance("results", done, len(folders))
        found = {"results": len(folders), "damaged": len(damaged), "bytes": n_bytes}
        emit(found, as_json=self.json, text=f"{len(folders) - len(damaged)} of {len(folders)} results are as written")
        for error in damaged[:-1]:
            complain(f"suture: {error}")
        if damaged:
            raise damaged[-1]
