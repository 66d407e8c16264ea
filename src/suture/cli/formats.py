"""The commands `import` and `export`: dictionaries out of other libraries' files, and into them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import command_line, complain, emit
from suture.cli.options import Argument, Output
from suture.formats.settings import ExportSettings, ImportSettings

MORE_THAN_NOTHING = 1.0
"""An FVU above it: worse than the mean."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Read a dictionary that another library wrote: SAELens, sparsify, dictionary_learning, Gemma Scope 2 and others.

    It becomes a dictionary like any other, which features, match, refit, stitch, splice and steer take. What suture
    cannot hold is refused by name.
    """

    source: Annotated[str, Argument(metavar="SOURCE")]
    """A folder, a file, or a repository of the Hugging Face hub."""
    out: Annotated[Path, Argument(metavar="DICT")]
    """Folder of the dictionary, to be made."""
    store: Path | None = None
    """Activations of its spaces: their scales are taken, and the dictionary is evaluated on them."""
    settings: ImportSettings = field(default_factory=ImportSettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Import, and say what it is and how well it does."""
        from suture.formats.importing import import_dictionary
        from suture.pipeline.artifact import open_artifact
        from suture.training.result import TrainResult

        import_dictionary(
            self.out,
            self.source,
            self.settings,
            store=self.store,
            overwrite=self.output.overwrite,
            command=command_line(),
        )
        result, record = TrainResult.load(self.out), open_artifact(self.out).settings["imported"]
        found = result.evaluation
        lines = [f"{record['library']}, {record['architecture']}: {result.description}"]
        lines.append(f"activations enter: {_entering(record)}")
        if found is not None:
            lines.append(f"FVU {', '.join(f'{v:.3f}' for v in found.fvu)}, L0 {found.l0:.1f} on the store's rows")
            if max(found.fvu) > MORE_THAN_NOTHING:
                complain("more error than the mean alone: is it the right model, hookpoint and scale?")
        emit(
            {"out": str(self.out), "imported": record, "evaluation": found and found.to_json()},
            as_json=self.output.json,
            text="\n".join([*lines, f"dictionary: {self.out}"]),
        )


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a dictionary as files that SAELens, sparsify or dictionary_learning read.

    For raw activations: scales and centre are folded in, and codes stay what they are. What the format cannot hold is
    refused by name.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train, refit, stitch or import."""
    out: Annotated[Path, Argument(metavar="OUT")]
    """Folder of the files, to be made."""
    settings: ExportSettings
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Export, and say what the library is to be given."""
        from suture.formats.exporting import export_dictionary

        made = export_dictionary(self.out, self.dictionary, self.settings, overwrite=self.output.overwrite)
        emit(
            {"out": str(self.out), "path": str(made.path), "architecture": made.architecture, "files": made.files},
            as_json=self.output.json,
            text=f"{made.format}, {made.architecture}: give it {made.path}",
        )


def _entering(record: dict) -> str:
    scales = [scale for scale in record["scales"] if scale != 1]
    words = ["raw" if not scales else f"times {', '.join(f'{scale:.4g}' for scale in record['scales'])}"]
    return ", ".join([*words, *(["centred"] if record["subtracts_before_encoding"] else [])])
