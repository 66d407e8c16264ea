"""The commands `refit` and `stitch`: a dictionary fitted anew, and what larger ones have put into a smaller one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture.cli.console import command_line, emit, percent, progress
from suture.cli.options import Argument, DictionaryModels, Output
from suture.dictionary.refit_settings import RefitSettings
from suture.interventions.settings import SpliceSettings
from suture.stitching.settings import StitchSettings

if TYPE_CHECKING:
    from suture.dictionary.dictionary import Dictionary
    from suture.stitching.stitch import Stitching

N_STAGES = 5


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Fit a dictionary anew: bring it to an L0, and its decoder to the rows.

    Of any kind; which features read what stays as it is. Dictionaries that are to be compared are brought to one L0.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT")]
    """Made by suture train."""
    store: Path
    """Activations of its spaces, made by suture collect."""
    out: Path
    """Folder of the new dictionary, to be made."""
    settings: RefitSettings = field(default_factory=RefitSettings)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Refit, and say how well it does on documents that training kept back."""
        from suture.dictionary.refit import refit
        from suture.training.result import TrainResult

        refit(
            self.out,
            self.dictionary,
            self.store,
            self.settings,
            overwrite=self.output.overwrite,
            command=command_line(),
        )
        found, before = TrainResult.load(self.out).evaluation, TrainResult.load(self.dictionary).evaluation
        assert found is not None
        was = "" if before is None else f" (before: {_fit_text(before.l0, before.fvu)})"
        emit(
            {"out": str(self.out), "before": before and before.to_json(), **found.to_json()},
            as_json=self.output.json,
            text=f"{_fit_text(found.l0, found.fvu)}{was}\ndictionary: {self.out}",
        )


@dataclass(frozen=True, kw_only=True)
class Stitch:
    """Put into a smaller dictionary what a larger one has and it lacks.

    Every feature of the larger one is novel to the smaller one or a reconstruction of what it has; the path from one to
    the other is walked; and a stitched dictionary is made, at one L0, that every other command takes.
    """

    small: Annotated[Path, Argument(metavar="SMALL")]
    """The dictionary that is added to."""
    large: Annotated[Path, Argument(metavar="LARGE")]
    """One of the same spaces, as large or larger."""
    store: Path
    """Activations of their spaces, made by suture collect."""
    out: Path
    """Folder of the stitched dictionary, to be made."""
    more: tuple[Path, ...] = ()
    """A further dictionary to take from, of another size or seed; once for each, in this order."""
    splice: bool = False
    """Also measure the models' losses along the path."""
    corpus: str | None = None
    """Text for that; the store's held-out documents where none is named."""
    settings: StitchSettings = field(default_factory=StitchSettings)
    splicing: SpliceSettings = field(default_factory=SpliceSettings)
    models: DictionaryModels = field(default_factory=DictionaryModels)
    output: Output = field(default_factory=Output)

    def run(self) -> None:
        """Stitch, and say what was novel and what came out."""
        from suture.stitching.stitch import stitch

        spliced = self._losses() if self.splice else None
        with progress() as advance:
            steps = iter(range(1, N_STAGES + 1))
            found = stitch(
                self.out,
                self.small,
                self.large,
                self.store,
                self.settings,
                more=self.more,
                spliced=spliced,
                on_progress=lambda what: advance("stitch", next(steps), N_STAGES, what),
                overwrite=self.output.overwrite,
                command=command_line(),
            )
        proxies = {
            name: {c.name: float(found.proxies[c.name][i]) for c in found.proxies.columns}
            for i, name in enumerate(found.proxies.coordinates["proxy"])
        }
        emit(
            {"out": str(self.out), **asdict(found.summary), "proxies": proxies},
            as_json=self.output.json,
            text=_text(found, self.out),
        )

    def _losses(self) -> "Callable[[Dictionary], Sequence[float]]":
        """Each model's loss with a dictionary spliced in."""
        from suture.dictionary.dictionary import Dictionary
        from suture.interventions.edits import refuse_null
        from suture.interventions.splice import spliced_losses

        refuse_null(Dictionary.load(self.small), self.small)
        lms = self.models.of(self.small)
        texts = list(islice(self.models.texts(self.small, self.corpus), self.splicing.n_documents))
        return lambda dictionary: [
            model.spliced.ce for model in spliced_losses(dictionary, lms, texts, self.splicing).models
        ]


def _fit_text(l0: float, fvu: Sequence[float]) -> str:
    return f"FVU {', '.join(f'{v:.3f}' for v in fvu)}, L0 {l0:.1f}"


def _losses(found: "Stitching") -> list[str]:
    """Per model the loss with the path's dictionary spliced in: at its ends, and where it is highest."""
    losses = found.steps["loss"]
    measured = [step for step, row in enumerate(losses) if not math.isnan(row[0])]
    lines = []
    if not measured:
        return lines
    for m, space in enumerate(found.summary.spaces):
        most = max(measured, key=lambda step, m=m: losses[step][m])
        first, highest, last = (float(losses[step][m]) for step in (measured[0], most, measured[-1]))
        lines.append(
            f"{space}: next-token loss spliced in {first:.3f} at the start of the path, {last:.3f} at its end, "
            f"{highest:.3f} at most (step {most:,} of {len(losses) - 1:,}, of {len(measured)} measured)"
        )
    return lines


def _text(found: "Stitching", out: Path) -> str:
    summary = found.summary
    counts = ", ".join(f"{n:,} {label}" for label, n in summary.labels.items())
    share = "" if summary.novel_share is None else f" ({percent(summary.novel_share)} of the decided ones novel)"
    lines = [f"{summary.n_rows:,} rows of {summary.n_documents:,} documents", f"{summary.parts[1]}: {counts}{share}"]
    names = found.proxies.coordinates["proxy"]
    told = [
        f"{name.replace('_', ' ')} {auc:.3f}"
        for name, auc in zip(names, found.proxies["roc_auc"], strict=True)
        if not math.isnan(auc)
    ]
    why = "not known, all that is decided is of one kind"
    lines.append(f"told apart without measuring (ROC-AUC): {', '.join(told) or why}")
    walked = [f"{phase} {up} of {n}" for phase, (up, n) in summary.violations.items() if n]
    lines.append(f"path of {len(found.steps) - 1} steps; that raised the error: {', '.join(walked)}")
    lines += _losses(found)
    lines += [f"{fit.name}: {fit.n_features:,} features, {_fit_text(fit.l0, fit.fvu)}" for fit in summary.fits]
    taken = ", ".join(f"{n:,} of {name}" for n, name in zip(summary.inserted, summary.parts, strict=True))
    return "\n".join([*lines, f"features: {taken}", *summary.statements, f"dictionary: {out}"])
