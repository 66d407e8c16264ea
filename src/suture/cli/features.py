"""The command `features`: every feature described, and whose it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Argument, DictionaryModels, Output
from suture.features.settings import FeatureSettings


@dataclass(frozen=True, kw_only=True)
class Features:
    """Describe every feature, and say whose it is.

    A, B, shared, ambiguous or dead, with the numbers, their intervals and the strongest examples. Several processes
    share the rows: torchrun --nproc-per-node N -m suture features ...
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    store: Path
    """The store it was trained on, or another of the same spaces."""
    out: Path
    """Folder of the feature table."""
    tokens: bool = True
    """Promoted tokens too: loads the models' unembeddings."""
    settings: FeatureSettings = field(default_factory=FeatureSettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Describe, and say how many features have which label."""
        from suture.features.describe import features
        from suture.parallel import grid

        with grid() as place, progress() as advance:
            leads = place.world.leads
            table = features(
                self.out,
                self.dictionary,
                self.store,
                self.settings,
                lms=self.models.of(self.dictionary) if self.tokens and leads else None,
                on_progress=advance if leads else None,
                overwrite=self.output.overwrite,
                command=command_line(),
                ranks=place.world,
            )
        if not leads:
            return
        counts = ", ".join(f"{n} {label}" for label, n in table.counts.items())
        null = table.summary.get("false_positive_rate")
        note = "" if null is None else f"; a null: {percent(null)} of the live features are falsely exclusive"
        emit(
            {"features": str(self.out), **table.summary, "columns": table.table.summary()},
            as_json=self.output.json,
            text=f"{self.out}: {counts}{note}",
        )
