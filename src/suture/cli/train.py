"""The command `train`: one dictionary or many, from a store or from models that run while it trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from suture.activations.settings import StreamSettings
from suture.cli.console import command_line, emit, percent, progress, said_once
from suture.cli.options import Argument, ResumableOutput
from suture.errors import UserError
from suture.pipeline.folder import PARTIAL, REPLACED
from suture.pipeline.settings import Count, Given, from_flat, read_toml
from suture.stitching.joint_settings import JointSettings
from suture.training.settings import TrainSettings

if TYPE_CHECKING:
    from suture.activations.stream import Stream
    from suture.training.start import Start

HARMLESS = {"offline", "trust-remote-code"}
"""Settings of a stream that say nothing where there is a store."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a dictionary.

    An SAE, a crosscoder, a pooled or a universal dictionary, on a store or (--stream) with no store at all. Ctrl-C
    keeps what was reached for --resume. Several processes: torchrun --nproc-per-node N -m suture train ... Several
    dictionaries in one pass over the rows: --each FILE, whose tables hold these options by name; what a table leaves
    out is taken from the command line, and those with one --data-seed see the same batches. --start DICT goes on with a
    dictionary, perhaps on other activations; --start DICT_A --start DICT_B begins a crosscoder with two dictionaries of
    one space each.
    """

    dictionary: Annotated[Path, Argument(metavar="DICT", raised=("out",))]
    """The dictionary's folder, to be made."""
    store: Path | None = None
    """Activations, made by suture collect."""
    stream: bool = False
    """No store: run the models while training; with --model, --at and --corpus."""
    each: Path | None = None
    """TOML file with a [name] table per dictionary: DICT/name is trained with its settings."""
    feature_ranks: Count = 1
    """Under torchrun: split the features over so many processes, the rows over the rest."""
    start: tuple[Path, ...] = ()
    """A dictionary to begin with, in place of random weights; two of one space each become a crosscoder. Its design,
    size and k are kept where none are given; one alone is trained at a tenth of the usual learning rate (a carried one
    at a third, a stitched one at all of it), two at a third."""
    settings: Given[TrainSettings]
    joint: Given[JointSettings]
    source: Given[StreamSettings]
    output: ResumableOutput = field(default_factory=ResumableOutput)

    def run(self) -> None:
        """Train, and say how well each dictionary reconstructs."""
        from suture.parallel import grid, local_device
        from suture.pipeline.job import Context
        from suture.sweep.run import make
        from suture.sweep.stages import train_many_job

        with said_once():
            wanted = self._wanted()
            start = self._start(wanted)
        device = next(iter(wanted.values())).device
        with grid(feature_ranks=self.feature_ranks, device=local_device(device)) as place:
            with self._rows(device) as rows, progress() as advance:
                context = Context(
                    resume=self.output.resume, overwrite=self.output.overwrite, command=command_line(), tell=advance
                )
                make([train_many_job("steps", self.dictionary, wanted, rows, start=start, grid=place)], context)
            if place.world.leads:
                _emit(list(wanted), several=self.each is not None, as_json=self.output.json)

    def _wanted(self) -> dict[Path, TrainSettings]:
        """Every dictionary's folder and settings: the one of the options, or one per table of the file."""
        from suture.sweep.stages import placed

        base = self._base()
        if self.each is None:
            return {self.dictionary: placed(base)}
        if self.start:
            raise UserError("start", self.start[0], "and --each exclude each other", "start one dictionary at a time")
        tables = read_toml(self.each, "each")
        if not tables or not all(isinstance(table, dict) for table in tables.values()):
            raise UserError("each", self.each, "does not hold one [table] per dictionary", "see suture train --help")
        for name in tables:
            if not name or Path(name).name != name or name.startswith(".") or name.endswith((PARTIAL, REPLACED)):
                raise UserError("each", f"[{name}]", "is no name for a folder", "give the table a plain name")
        return {
            self.dictionary / name: placed(from_flat(TrainSettings, table, base=base, where=f"[{name}] "))
            for name, table in tables.items()
        }

    def _base(self) -> TrainSettings:
        """What the options say, over the defaults or over what suits the dictionaries that it begins with."""
        if not self.start:
            return self.settings.over()
        from suture.dictionary.dictionary import Description
        from suture.pipeline.artifact import open_artifact
        from suture.stitching.joint import GENTLE, joint_settings
        from suture.training.start import at_part, fine_tuning, usual_part

        for path in self.start:
            open_artifact(path, stage="dictionary", setting="start")
        designs = [Description.load(path).design for path in self.start]
        if len(designs) == 1:
            return at_part(self.settings.over(fine_tuning(designs[0])), usual_part(self.start[0]))
        return at_part(self.settings.over(joint_settings(designs)), GENTLE)

    def _start(self, wanted: dict[Path, TrainSettings]) -> "Start | None":
        """What the training begins with."""
        from suture.stitching.joint import joint_start
        from suture.training.start import start_from

        if len(self.start) != 2 and self.joint.values:
            name, value = next(iter(self.joint.values.items()))
            raise UserError(name, value, "is for two dictionaries of one space each", "name both with --start")
        if not self.start:
            return None
        if len(self.start) == 1:
            return start_from(self.start[0])
        (settings,) = wanted.values()
        return joint_start(self.start, settings.design.n_features, self.joint.over())

    @contextmanager
    def _rows(self, device: str) -> "Iterator[Path | Stream]":
        """The store that was named, or a stream of the models that were."""
        from suture.activations.stream import open_stream

        if not self.stream:
            if self.store is None:
                raise UserError("store", None, "is missing", "name one with --store, or do without by --stream")
            for name in self.source.values.keys() - HARMLESS:
                problem = "is for --stream, a store has its own"
                raise UserError(name, self.source.values[name], problem, "leave it out, or add --stream")
            yield self.store
            return
        if self.store is not None:
            raise UserError("store", self.store, "and --stream exclude each other", "choose one")
        with open_stream(self.source.over(), device=device) as made:
            yield made


def _emit(trained: Sequence[Path], *, several: bool, as_json: bool) -> None:
    from suture.dictionary.dictionary import Dictionary
    from suture.pipeline.artifact import read_json

    found, lines = [], []
    for out in trained:
        evaluation = read_json(out / "evaluation.json")
        labels = [space.label for space in Dictionary.load(out).spaces]
        fvu = ", ".join(f"{label} {value:.4f}" for label, value in zip(labels, evaluation["fvu"], strict=True))
        typical = evaluation.get("fvu_typical")
        if typical and any(abs(t - f) > 0.1 * f for t, f in zip(typical, evaluation["fvu"], strict=True)):
            fvu += f" ({', '.join(f'{t:.4f}' for t in typical)} without outlier rows and the largest coordinates)"
        dead, r2 = percent(evaluation["dead"]), _matrix(evaluation["r2"])
        if evaluation["r2_linear"]:
            r2 += f", of the linear map alone {_matrix(evaluation['r2_linear'])}"
        where = "" if evaluation["heldout"] else " (on the training rows: none were held out)"
        found.append({"dictionary": str(out), **evaluation})
        lines.append(f"{out}: FVU {fvu}; L0 {evaluation['l0']:.1f}; dead {dead}; R2 {r2}{where}")
    emit({"dictionaries": found} if several else found[0], as_json=as_json, text="\n".join(lines))


def _matrix(r2: list[list[float | None]]) -> str:
    return "[" + "; ".join(" ".join("-" if v is None else f"{v:.3f}" for v in row) for row in r2) + "]"
