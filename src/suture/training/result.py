"""What a training left beside the weights: the dictionary's design and spaces, its evaluation, its metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from suture.dictionary.dictionary import EVALUATION, STAGE, Description
from suture.dictionary.evaluate import Evaluation
from suture.errors import ArtifactError
from suture.pipeline import artifact
from suture.pipeline.result import read_typed, typed
from suture.training.run import TrainProgress
from suture.training.tracking import METRICS


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult:
    """A finished training."""

    path: Path
    description: Description
    evaluation: Evaluation | None
    """None of a dictionary that was saved or imported and not trained."""
    metrics: tuple[TrainProgress, ...]
    """While it trained."""

    def __repr__(self) -> str:
        found = self.evaluation
        fit = f"; FVU {', '.join(f'{v:.3f}' for v in found.fvu)}, L0 {found.l0:.1f}" if found else ""
        return f"TrainResult({self.description}{fit}; {self.path})"

    @staticmethod
    def load(path: str | Path) -> TrainResult:
        """Read what a training wrote beside the weights.

        Raises:
            ArtifactError: missing, unfinished, damaged or of another version.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="dictionary")
        evaluation = read_typed(path / EVALUATION, Evaluation) if (path / EVALUATION).is_file() else None
        return TrainResult(
            path=path, description=Description.load(path), evaluation=evaluation, metrics=_metrics(path / METRICS)
        )


def _metrics(file: Path) -> tuple[TrainProgress, ...]:
    if not file.is_file():
        return ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return tuple(typed(json.loads(line), TrainProgress) for line in lines if line)
    except ValueError as error:
        problem = f"file {file.name} cannot be read ({error})"
        raise ArtifactError("dictionary", file.parent, problem, "train it again") from None
