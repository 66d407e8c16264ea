"""Estimate: memory, disk and time of a study's steps before they start, from formulas and a short probe.

1. What can be known from the settings alone is refused first: weights, dictionaries and stores that cannot fit.
2. Every store that the cells ask for is probed, once however many cells share it; then the models are let go.
3. Every dictionary's shape is probed once, however many cells (seeds, learning rates, lengths) share it; so are the
   stages asked for that come after training (`after`).
4. Time is rate times work, plus what a process takes to start and to finish; memory is the larger of formula and probe
   on top of the libraries; disk is counted file by file. Steps run one after the other in one folder, and what they
   make stays.
5. What does not fit is named with the setting to change and a value that fits.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from suture.activations.rows import plan_rows
from suture.activations.settings import CollectSettings
from suture.activations.store import Store
from suture.activations.view import seen
from suture.errors import UserError
from suture.estimate import fits
from suture.estimate.after import NEED_MODELS, AfterProbe, Material, Page, probe_after
from suture.estimate.fits import Free
from suture.estimate.machine import existing, free_disk, free_memory
from suture.estimate.probe import (
    ZERO,
    CollectProbe,
    Span,
    StartUp,
    TrainProbe,
    load_all,
    probe_collect,
    probe_start,
    probe_train,
)
from suture.estimate.steps import Source, StepEstimate, after_step, collect_step, train_step
from suture.lm.corpus import corpus_of
from suture.lm.load import LanguageModel
from suture.lm.models import accelerator, load_models
from suture.lm.settings import LoadSettings
from suture.matching.settings import MatchSettings
from suture.pipeline.settings import from_flat, to_flat
from suture.sweep.file import Cell, Study
from suture.training.run import check_device
from suture.training.settings import TrainSettings

PROBE_SECONDS = 4.0
"""For each store and each shape of dictionary."""
FREE_FIELDS = ("n_rows", "learning_rate", "warmup", "decay", "k_start", "k_anneal", "heldout", "validate_every")
FREE_FIELDS += ("checkpoint_every", "seed", "data_seed", "track")
"""Settings that do not change what a step costs."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a study takes."""

    steps: tuple[StepEstimate, ...]
    """In the order in which they run, one after the other."""
    free: Free
    problems: tuple[UserError, ...]
    """What cannot be run, and the way out."""

    @property
    def seconds(self) -> Span:
        """All steps, of which those that were refused count nothing."""
        return sum((s.seconds for s in self.steps if s.seconds is not None), start=ZERO)

    @property
    def memory(self) -> int:
        return max(s.memory for s in self.steps)

    @property
    def disk(self) -> int:
        """What stays after all steps."""
        return sum(s.disk for s in self.steps)

    @property
    def disk_peak(self) -> int:
        """The most at any time."""
        before, most = 0, 0
        for step in self.steps:
            most = max(most, before + step.disk_peak)
            before += step.disk
        return most

    def to_json(self) -> dict[str, Any]:
        """Numbers in bytes and seconds."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "total": {
                "seconds": asdict(self.seconds),
                "memory": self.memory,
                "disk": self.disk,
                "disk_peak": self.disk_peak,
            },
            "free": asdict(self.free),
            "problems": [
                {"setting": p.setting, "value": str(p.value), "problem": p.problem, "fix": p.fix} for p in self.problems
            ],
        }


def estimate(
    study: Study,
    *,
    out: str | Path = ".",
    device: str | None = None,
    offline: bool = False,
    probe_seconds: float = PROBE_SECONDS,
    free: Free | None = None,
    after: Sequence[str] = (),
    page: Page | None = None,
    on_progress: OnProgress | None = None,
) -> Estimate:
    """Memory, disk and time of every step of a study, and what of it cannot fit.

    Args:
        study: see `suture.sweep.file.read_study`.
        out: where the results will go; the probe writes, and removes, a folder there.
        device: for all steps, instead of the study's own.
        offline: never ask a hub.
        probe_seconds: for each store and each shape of dictionary.
        free: what the machine has left; asks the system without.
        after: stages of each cell after training, of `estimate.after.STAGES`, with their usual settings.
        page: writes a report on folders to a file, where `report` is among them.
        on_progress: told (what is measured, how many are done, how many there are).

    Raises:
        UserError: settings that the models, the corpus or the store cannot have. What merely does not fit is in
            `Estimate.problems`.
    """
    cells = tuple(_placed(cell, device, offline=offline) for cell in study.cells())
    out, free = Path(out), free or _free(Path(out), cells)
    estimator = _Estimator(out, free, probe_seconds, on_progress or (lambda *_: None), tuple(after), page)
    with tempfile.TemporaryDirectory(prefix=".suture-estimate-", dir=existing(out)) as folder:
        return estimator.run(cells, Path(folder))


@dataclass
class _Estimator:
    """The state of an estimate: what was measured, what was found wrong."""

    out: Path
    free: Free
    seconds: float
    on_progress: OnProgress
    after: tuple[str, ...] = ()
    page: Page | None = None
    problems: list[UserError] = field(default_factory=list)

    def run(self, cells: Sequence[Cell], folder: Path) -> Estimate:
        collections = list(dict.fromkeys(cell.collect for cell in cells if cell.collect is not None))
        trainings = _trainings(cells)
        shapes = {_shape_key(own) for _, owns in trainings for own in owns}
        later = {(_pair_key(cell), stage) for cell in cells for stage in self._after(cell)}
        n, done = 1 + len(collections) + len(shapes) + len(later), 0
        for settings in collections:  # 1
            self.problems += fits.check_models(settings, self.free)
        if self.problems:
            return self._refused(cells)
        self.on_progress("libraries", done, n)
        started = probe_start(_device_of(cells))
        probes: dict[CollectSettings, CollectProbe] = {}
        for number, settings in enumerate(collections):  # 2
            done += 1
            self.on_progress("collecting", done, n)
            probes[settings] = self._collect(settings, folder / f"collect-{number}")
        trained: dict[Any, TrainProbe | None] = {}
        followed: dict[Any, dict[str, AfterProbe]] = {}
        steps = [collect_step(s, probes[s], started, _name("collect", s, collections)) for s in collections]
        for settings, step in zip(collections, steps, strict=True):
            self.problems += fits.check_collect(settings, probes[settings], step, self.free)
        for cell, owns in trainings:  # 3
            if cell.train is None:
                continue
            source = _source(cell, probes)
            for own in owns:
                key, [settings] = _shape_key(own), own.trainings()
                if key not in trained:
                    done += 1
                    self.on_progress("training", done, n)
                    trained[key] = self._train(settings, source, started, folder / f"train-{len(trained)}")
                steps.append(train_step(own, source, started, trained[key]))  # 4
                self.problems += fits.check_train(settings, source, steps[-1], self.free)
            probed = [trained[_shape_key(replace(cell, train=t))] for t in cell.trainings()]
            can_be, first, pair = all(probed), probed[0], _pair_key(cell)
            if can_be and first is not None and self._after(cell) and pair not in followed:
                place = folder / f"after-{len(followed)}"
                followed[pair] = self._follow(cell, source, first.dictionary, place, done, n)
                done += len(self._after(cell))
            for stage, found in followed.get(pair, {}).items():
                steps.append(after_step(f"{stage} {cell.name}".rstrip(), found, started, probes, cell))
        self.on_progress("done", n, n)
        result = Estimate(steps=tuple(steps), free=self.free, problems=())
        every = [own for _, owns in trainings for own in owns]
        self.problems += fits.check_disk(steps, result.disk_peak, every, self.free)
        return replace(result, problems=tuple(fits.distinct(self.problems)))

    def _after(self, cell: Cell) -> tuple[str, ...]:
        """The stages after training; the two dictionaries of a cell that matches them have that one alone."""
        return self.after if cell.match is None else ("match",) if self.after else ()

    def _refused(self, cells: Sequence[Cell]) -> Estimate:
        """Nothing was measured."""
        name = cells[0].name or "collect"
        step = StepEstimate(
            name=name, seconds=None, rows_per_second=None, memory=0, mapped=0, disk=0, disk_peak=0
        )  # fmt: skip
        return Estimate(steps=(step,), free=self.free, problems=tuple(fits.distinct(self.problems)))

    def _collect(self, settings: CollectSettings, folder: Path) -> CollectProbe:
        corpus = corpus_of(settings.text, offline=settings.models.load.offline)
        models = load_all(settings)
        plan_rows(  # an unknown hookpoint is refused as by collect
            list(zip(models.lms, settings.models.hookpoints, strict=True)),
            block=settings.block,
            dtype=settings.dtype,
            batch_tokens=settings.batch_tokens,
        )
        folder.mkdir()
        probe = probe_collect(settings, models, corpus, folder, seconds=self.seconds)
        del models
        gc.collect()
        return probe

    def _train(self, settings: TrainSettings, source: Source, started: StartUp, folder: Path) -> TrainProbe | None:
        """None where it would not fit into memory."""
        chosen = seen(source.store, settings.view)
        settings.design.check_widths([space.width for space in chosen.spaces])
        needed, room = fits.memory_to_train(settings, source, started, self.free)
        if needed > room:
            return None
        folder.mkdir()
        return probe_train(settings, source.store, folder, seconds=self.seconds)

    def _follow(
        self, cell: Cell, source: Source, dictionary: Path, folder: Path, done: int, n: int
    ) -> dict[str, AfterProbe]:
        """Each stage after training tried, on a dictionary of this shape."""
        settings = cell.trainings()[0]
        folder.mkdir()
        view = seen(source.store, settings.view)
        given = Material(
            store=source.store,
            dictionary=dictionary,
            n_rows=source.n_rows,
            lms=None if settings.view.null else self._models(cell, view),
            folder=folder,
            heldout=settings.heldout,
            features=cell.features,
            match=cell.match or MatchSettings(),
        )
        found = {}
        for number, stage in enumerate(self._after(cell), start=done + 1):
            self.on_progress(stage, number, n)
            if given.lms is not None or stage not in NEED_MODELS:
                found[stage] = probe_after(stage, given, self.page)
        return found

    def _models(self, cell: Cell, view: Store) -> tuple[LanguageModel, ...] | None:
        """The models behind the spaces; None where a store's are not at hand."""
        assert cell.train is not None
        load = LoadSettings() if cell.collect is None else cell.collect.models.load
        try:
            return tuple(load_models([space.model for space in view.spaces], load, device=cell.train.device))
        except UserError:
            return None


def _placed(cell: Cell, device: str | None, *, offline: bool) -> Cell:
    """The cell on the device that it will run on."""
    collect, train = cell.collect, cell.train
    if collect is not None:
        given: dict[str, Any] = {"device": accelerator(device or collect.device)}
        given |= {"offline": True} if offline else {}
        collect = from_flat(CollectSettings, given, base=collect)
    if train is not None:
        train = replace(train, device=accelerator(device or train.device))
    for step in (collect, train):
        if step is not None:
            check_device(step.device)
    return replace(cell, collect=collect, train=train)


def _device_of(cells: Sequence[Cell]) -> str:
    """Where most is done: the first cell's device."""
    cell = cells[0]
    return cell.train.device if cell.train is not None else cell.collect.device if cell.collect is not None else "cpu"


def _free(out: Path, cells: Sequence[Cell]) -> Free:
    device = _device_of(cells)
    return Free(
        memory=free_memory(),
        disk=free_disk(out),
        device_memory=torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None,
    )


def _source(cell: Cell, probes: Mapping[CollectSettings, CollectProbe]) -> Source:
    if cell.collect is None:
        assert cell.store is not None, "read_study makes sure of a store"
        store = Store.open(cell.store)
        return Source(store=store, n_rows=len(store))
    probe = probes[cell.collect]
    return Source(store=probe.store, n_rows=min(cell.collect.tokens, probe.corpus_rows or cell.collect.tokens))


def _trainings(cells: Sequence[Cell]) -> list[tuple[Cell, list[Cell]]]:
    """Each cell with the dictionaries that it trains: itself, or a cell for either space unless one before has it."""
    made: set[Any] = set()
    found: list[tuple[Cell, list[Cell]]] = []
    for cell in cells:
        owns = []
        for letter, settings in zip("AB", cell.trainings(), strict=False):
            which = cell.collect, cell.store, settings
            if cell.match is None:
                owns.append(cell)
            elif which not in made:
                owns.append(replace(cell, name=f"{cell.name} {letter}".lstrip(), train=settings, match=None))
            made.add(which)
        found.append((cell, owns))
    return found


def _pair_key(cell: Cell) -> Any:
    """What two cells whose stages after training cost the same have in common."""
    return cell.match, *(_shape_key(replace(cell, train=own)) for own in cell.trainings())


def _shape_key(cell: Cell) -> Any:
    """What two cells that cost the same per step have in common."""
    assert cell.train is not None
    base = TrainSettings()
    free = {name: getattr(base, name) for name in FREE_FIELDS if name != "n_rows"}
    can_die = cell.train.n_rows > cell.train.objective.dead_after
    return cell.collect, cell.store, replace(cell.train, **free, n_rows=base.n_rows if can_die else 1), can_die


def _name(step: str, settings: CollectSettings, among: Sequence[CollectSettings]) -> str:
    """The step's name, with what sets it apart from the others."""
    if len(among) == 1:
        return step
    own, base = to_flat(settings), [to_flat(other) for other in among]
    different = [name for name, value in own.items() if any(other[name] != value for other in base)]
    values = (",".join(map(str, v)) if isinstance(v := own[name], tuple) else str(v) for name in different)
    return f"{step} " + " ".join(f"{name}={value}" for name, value in zip(different, values, strict=True))
