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
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from suture import units
from suture.activations.rows import plan_rows
from suture.activations.settings import CollectSettings
from suture.activations.store import STORAGE, Store
from suture.activations.view import seen
from suture.dictionary.kernels.select import resolve_precision
from suture.errors import UserError
from suture.estimate import sizes
from suture.estimate.after import NEED_MODELS, AfterProbe, Material, Page, probe_after
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
from suture.lm.corpus import corpus_of
from suture.lm.load import DTYPES, LanguageModel, locate
from suture.lm.models import accelerator, load_models
from suture.lm.settings import LoadSettings
from suture.matching.settings import MatchSettings
from suture.pipeline.settings import from_flat, to_flat
from suture.sweep.file import Cell, Study
from suture.training.run import EVALUATION_ROWS, check_device
from suture.training.settings import TrainSettings
from suture.training.start import data_statistics, new_dictionary

PROBE_SECONDS = 4.0
"""For each store and each shape of dictionary."""
SAFETENSORS_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
SHORT_BY = 0.9
"""A corpus that plainly holds less than this share of the rows wanted is refused."""
SAFE = 0.9
"""How much of what is free a value proposed instead may take: the rest is the estimate's own uncertainty."""
STARTING = Span(0.75, 1.0, 1.75)
"""How far the start of a stage after training is off: what it imports and looks through is its own."""
INDEX_BYTES = 4096
"""Manifest, index and means of a store, without its shards' own notes."""
FREE_FIELDS = ("n_rows", "learning_rate", "warmup", "decay", "k_start", "k_anneal", "heldout", "validate_every")
FREE_FIELDS += ("checkpoint_every", "seed", "data_seed", "track")
"""Settings that do not change what a step costs."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Free:
    """What the machine has left."""

    memory: int
    disk: int
    device_memory: int | None = None
    """Of the CUDA device; None where none is used."""


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """What one step takes."""

    name: str
    seconds: Span | None
    """None where it was refused before anything was measured."""
    rows_per_second: float | None
    memory: int
    """Of host memory, at the most."""
    mapped: int
    """Files read through a memory map: stay in memory while there is room."""
    disk: int
    """Of what stays."""
    disk_peak: int
    """While it runs."""
    device_memory: int | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What the time or memory is made of: seconds and bytes, by name."""


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
        shapes = {_shape_key(cell) for cell in cells if cell.train is not None}
        n, done = 1 + len(collections) + len(shapes) * (1 + len(self.after)), 0
        for settings in collections:  # 1
            self._check_models(settings)
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
        steps = [_collect_step(s, probes[s], started, _name("collect", s, collections)) for s in collections]
        for settings, step in zip(collections, steps, strict=True):
            self._check_collect(settings, probes[settings], step)
        for cell in cells:  # 3
            if cell.train is None:
                continue
            source = _source(cell, probes)
            key = _shape_key(cell)
            if key not in trained:
                done += 1
                self.on_progress("training", done, n)
                trained[key] = self._train(cell.train, source, started, folder / f"train-{len(trained)}")
            steps.append(_train_step(cell, source, started, trained[key]))  # 4
            self._check_train(cell.train, source, steps[-1])
            probe = trained[key]
            if probe is not None and self.after and key not in followed:
                followed[key] = self._follow(cell, source, folder / f"after-{len(followed)}", done, n)
                done += len(self.after)
            for stage, found in followed.get(key, {}).items():
                steps.append(_after_step(f"{stage} {cell.name}".rstrip(), found, started, probes, cell))
        self.on_progress("done", n, n)
        result = Estimate(steps=tuple(steps), free=self.free, problems=())
        self._check_disk(result, cells)
        return replace(result, problems=tuple(_distinct(self.problems)))

    def _refused(self, cells: Sequence[Cell]) -> Estimate:
        """Nothing was measured."""
        name = cells[0].name or "collect"
        step = StepEstimate(
            name=name, seconds=None, rows_per_second=None, memory=0, mapped=0, disk=0, disk_peak=0
        )  # fmt: skip
        return Estimate(steps=(step,), free=self.free, problems=tuple(_distinct(self.problems)))

    def _check_models(self, settings: CollectSettings) -> None:
        """Models whose weights, as their files tell, are more than the memory."""
        total = 0
        for name in dict.fromkeys(settings.models.model):
            total += model_bytes(name, settings.models.load.lm_dtype, settings.device)
            room = self.free.device_memory if settings.device != "cpu" else None
            room = self.free.memory if room is None else room
            if total > room:
                fix = "load it in bfloat16 (lm-dtype), or take a smaller one"
                self.problems.append(UserError("collect.model", name, _lacks("memory", total, room), fix))
                return

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

    def _train(self, settings: TrainSettings, source: _Source, started: StartUp, folder: Path) -> TrainProbe | None:
        """None where it would not fit into memory."""
        chosen = seen(source.store, settings.view)
        settings.design.check_widths([space.width for space in chosen.spaces])
        needed, room = self._room(settings, source, started)
        if needed > room:
            return None
        folder.mkdir()
        return probe_train(settings, source.store, folder, seconds=self.seconds)

    def _follow(self, cell: Cell, source: _Source, folder: Path, done: int, n: int) -> dict[str, AfterProbe]:
        """Each stage after training tried, on a dictionary of this shape."""
        assert cell.train is not None
        folder.mkdir()
        view = seen(source.store, cell.train.view)
        statistics = data_statistics(view, torch.arange(len(view)), seed=cell.train.seed)
        new_dictionary(view, cell.train.design, statistics, seed=cell.train.seed).save(
            folder / "dictionary", settings={"view": asdict(cell.train.view)}
        )
        given = Material(
            store=source.store,
            dictionary=folder / "dictionary",
            n_rows=source.n_rows,
            lms=None if cell.train.view.null else self._models(cell, view),
            folder=folder,
            heldout=cell.train.heldout,
            features=cell.features,
            match=cell.match or MatchSettings(),
        )
        found = {}
        for number, stage in enumerate(self.after, start=done + 1):
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

    def _room(self, settings: TrainSettings, source: _Source, started: StartUp) -> tuple[int, int]:
        """(bytes needed, bytes there) in the memory that the dictionary lies in."""
        parts = sizes.training_parts(settings, _widths(settings, source), source.n_rows, _precision(settings))
        if settings.device.startswith("cuda") and self.free.device_memory is not None:
            return sizes.device_bytes(parts), self.free.device_memory
        return sum(parts.values()) + started.train_memory, self.free.memory

    # --- what does not fit (5) ----------------------------------------------------------------------------------

    def _check_collect(self, settings: CollectSettings, probe: CollectProbe, step: StepEstimate) -> None:
        if step.memory > self.free.memory:
            problem = _lacks("memory", step.memory, self.free.memory)
            fix = "load the models in bfloat16 (lm-dtype), or give fewer batch-tokens"
            self.problems.append(UserError("collect.model", ", ".join(settings.models.model), problem, fix))
        if probe.corpus_rows is not None and probe.corpus_rows < SHORT_BY * settings.tokens:
            about = "" if probe.whole_corpus else "about "
            problem = f"the corpus {settings.text.corpus} gives {about}{probe.corpus_rows} rows"
            fix = f"lower it to {probe.corpus_rows}, or give more text"
            self.problems.append(UserError("collect.tokens", settings.tokens, problem, fix))
        if step.disk_peak > self.free.disk:
            row = step.disk_peak / settings.tokens
            fits = sizes.largest(lambda n: n * row <= self.free.disk, settings.tokens)
            problem = _lacks("disk", step.disk_peak, self.free.disk)
            fix = f"lower it to {fits} or less, or choose another disk with --out"
            self.problems.append(UserError("collect.tokens", settings.tokens, problem, fix))

    def _check_train(self, settings: TrainSettings, source: _Source, step: StepEstimate) -> None:
        n_train = source.n_rows * (1 - settings.heldout) * (1 if settings.design.joint else len(source.widths))
        if settings.batch_size > n_train:
            problem = f"exceeds the {round(n_train)} rows to train on"
            self.problems.append(
                UserError("train.batch-size", settings.batch_size, problem, "lower it, or collect more rows")
            )
        on_gpu = step.device_memory is not None and self.free.device_memory is not None
        needed = step.device_memory if on_gpu else step.memory
        room = self.free.device_memory if on_gpu else self.free.memory
        if needed is not None and room is not None and needed > room:
            self.problems.append(self._too_large(settings, source, step, needed=needed, room=room))

    def _too_large(
        self, settings: TrainSettings, source: _Source, step: StepEstimate, *, needed: int, room: int
    ) -> UserError:
        """The number of features that fits, or, where not even the least does, the batch that does."""

        def of(changed: TrainSettings) -> int:
            return sum(
                sizes.training_parts(changed, _widths(settings, source), source.n_rows, _precision(settings)).values()
            )

        surplus = needed - of(settings)  # libraries, and what the formula does not know
        least = settings.design.sparsity.k if settings.design.sparsity.selects_k else 1

        def with_features(n: int) -> bool:
            return (
                n <= least
                or of(replace(settings, design=replace(settings.design, n_features=n))) + surplus <= SAFE * room
            )

        fits = sizes.largest(with_features, settings.design.n_features)
        problem = _lacks("device memory" if step.device_memory is not None else "memory", needed, room)
        if fits > least:
            ranks = math.ceil(needed / room)
            fix = f"lower it to {fits} or less, or split it over {ranks} machines or GPUs with --feature-ranks {ranks}"
            return UserError("train.features", settings.design.n_features, problem, fix)
        fits = sizes.largest(
            lambda n: of(replace(settings, batch_size=n)) + surplus <= SAFE * room, settings.batch_size
        )
        fix = f"lower it to {fits} or less" if fits else "free some memory"
        return UserError("train.batch-size", settings.batch_size, problem, fix)

    def _check_disk(self, result: Estimate, cells: Sequence[Cell]) -> None:
        """Everything together, where each step alone would fit."""
        room = self.free.disk
        if result.disk_peak <= room:
            return
        alone = max(result.steps, key=lambda s: s.disk_peak)
        if alone.disk_peak > room and (settings := _settings_of(alone, cells)) is not None:
            widths, fixed = alone.parts["widths"], replace(settings)

            def fits(n: int) -> bool:
                changed = replace(fixed, design=replace(fixed.design, n_features=n))
                return sizes.peak_disk(changed, sizes.shape_of(changed.design, widths)) <= room

            n = sizes.largest(lambda n: n <= settings.design.sparsity.k or fits(n), settings.design.n_features)
            problem, fix = _lacks("disk", alone.disk_peak, room), f"lower it to {n} or less, or choose another disk"
            self.problems.append(UserError("train.features", settings.design.n_features, problem, fix))
        elif alone.disk_peak <= room:
            problem = f"together take {units.size(result.disk_peak)} of disk, {units.size(room)} are free"
            fix = "lower collect.tokens or train.features, vary fewer settings, or choose another disk with --out"
            self.problems.append(UserError("study", f"{len(result.steps)} steps", problem, fix))


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The rows that a dictionary is trained on."""

    store: Store
    """The store itself, or the probe's beginning of it."""
    n_rows: int
    """Of the store itself."""

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(s.width for s in self.store.spaces)


def model_bytes(name: str, lm_dtype: str, device: str) -> int:
    """What a local model's weights take in memory, from the headers of its files; 0 for a hub name."""
    folder = Path(locate(name))
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for key, entry in header.items():
            if key != "__metadata__":
                own = SAFETENSORS_BYTES.get(entry["dtype"], 1)
                given = DTYPES[lm_dtype].itemsize if lm_dtype in DTYPES else 4 if device == "cpu" else own
                total += math.prod(entry["shape"]) * given
    return total


def _collect_step(settings: CollectSettings, probe: CollectProbe, started: StartUp, name: str) -> StepEstimate:
    n_rows = min(settings.tokens, probe.corpus_rows or settings.tokens)
    dtype = probe.store.dtype
    side = 4 * (2 + len(probe.widths))
    text = max(round(probe.text_bytes * n_rows), probe.text_least)
    disk = n_rows * (sum(probe.widths) * STORAGE[dtype].itemsize + side) + text + INDEX_BYTES
    fixed = started.collect_seconds + probe.loading
    running = probe.row * float(n_rows)
    seconds = Span(fixed, fixed, fixed) + running + Span(0.5, 1.0, 2.0) * (probe.finishing * n_rows)
    return StepEstimate(
        name=name,
        seconds=seconds,
        rows_per_second=1 / probe.row.middle,
        memory=started.collect_memory + probe.memory,
        mapped=0,
        disk=disk,
        disk_peak=disk,
        parts={"starting": fixed, "running": running.middle, "finishing": probe.finishing * n_rows, "rows": n_rows},
    )


def _train_step(cell: Cell, source: _Source, started: StartUp, probe: TrainProbe | None) -> StepEstimate:
    settings = cell.train
    assert settings is not None
    widths = _widths(settings, source)
    shape = sizes.shape_of(settings.design, widths)
    parts = sizes.training_parts(settings, widths, source.n_rows, _precision(settings))
    on_gpu = settings.device.startswith("cuda")
    formula = sizes.host_bytes(settings, widths, source.n_rows) if on_gpu else sum(parts.values())
    measured = 0 if probe is None else probe.memory + parts["order of the rows"]
    seconds, times = (None, {}) if probe is None else _train_seconds(settings, source, started, probe, shape)
    device = None
    if on_gpu:
        device = max(sizes.device_bytes(parts), (probe.device_memory or 0) if probe else 0)
    return StepEstimate(
        name=f"train {cell.name}".rstrip(),
        seconds=seconds,
        rows_per_second=None if probe is None else settings.batch_size / probe.step.middle,
        memory=started.train_memory + max(formula, measured),
        mapped=sizes.mapped_bytes(source.widths, source.n_rows, source.store.dtype),
        disk=sizes.kept_disk(settings, shape),
        disk_peak=sizes.peak_disk(settings, shape),
        device_memory=device,
        parts={"seconds": times, "memory": parts, "measured_memory": measured, "widths": widths},
    )


def _after_step(
    name: str, found: AfterProbe, started: StartUp, probes: Mapping[CollectSettings, CollectProbe], cell: Cell
) -> StepEstimate:
    """A stage after training, in a process of its own that loads the models."""
    models = probes[cell.collect] if cell.collect is not None else None
    fixed = started.collect_seconds + (models.loading if models else 0.0)
    return StepEstimate(
        name=name,
        seconds=STARTING * fixed + found.seconds,
        rows_per_second=found.rows_per_second,
        memory=started.collect_memory + (models.memory if models else 0),
        mapped=0,
        disk=found.disk,
        disk_peak=found.disk,
        parts={"starting": fixed, "running": found.seconds.middle},
    )


def _train_seconds(
    settings: TrainSettings, source: _Source, started: StartUp, probe: TrainProbe, shape: sizes.Shape
) -> tuple[Span, dict[str, float]]:
    n_alive = min(settings.n_steps, math.ceil(settings.objective.dead_after / settings.batch_size))
    n_later = settings.n_steps - n_alive
    plain, dead = probe.step, probe.step_with_dead
    # whether anything dies depends on the data: between a run in which nothing does and one in which something does
    later = Span(plain.low, (plain.middle + dead.middle) / 2, max(plain.high, dead.high))
    n_heldout = source.n_rows * settings.heldout
    n_validated = min(settings.validation_rows, n_heldout) * -(-settings.n_steps // settings.validate_every)
    n_evaluated = min(EVALUATION_ROWS, n_heldout or source.n_rows)
    # the result is written, checksummed and read once more
    n_bytes = sizes.n_checkpoints(settings) * sizes.checkpoint_bytes(shape) + 2 * sizes.weights_bytes(shape)
    begin = started.train_seconds + probe.starting
    parts = {
        "starting": Span(begin, begin, begin),
        "steps": plain * float(n_alive) + later * float(n_later),
        "validation": probe.evaluated_row * float(n_validated),
        "checkpoints and result": probe.written_byte * float(n_bytes),
        "evaluation": probe.evaluated_row * float(n_evaluated),
    }
    return sum(parts.values(), start=ZERO), {name: span.middle for name, span in parts.items()}


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


def _source(cell: Cell, probes: Mapping[CollectSettings, CollectProbe]) -> _Source:
    if cell.collect is None:
        assert cell.store is not None, "read_study makes sure of a store"
        store = Store.open(cell.store)
        return _Source(store=store, n_rows=len(store))
    probe = probes[cell.collect]
    return _Source(store=probe.store, n_rows=min(cell.collect.tokens, probe.corpus_rows or cell.collect.tokens))


def _widths(settings: TrainSettings, source: _Source) -> tuple[int, ...]:
    """Of the spaces trained on; a null has its one space twice."""
    chosen = settings.view.spaces or tuple(range(len(source.widths)))
    return tuple(source.widths[m] for m in chosen) * (2 if settings.view.null else 1)


def _precision(settings: TrainSettings) -> str:
    return resolve_precision(settings.precision, torch.device(settings.device))


def _shape_key(cell: Cell) -> Any:
    """What two cells that cost the same per step have in common."""
    assert cell.train is not None
    base = TrainSettings()
    free = {name: getattr(base, name) for name in FREE_FIELDS if name != "n_rows"}
    can_die = cell.train.n_rows > cell.train.objective.dead_after
    return cell.collect, cell.store, replace(cell.train, **free, n_rows=base.n_rows if can_die else 1), can_die


def _settings_of(step: StepEstimate, cells: Sequence[Cell]) -> TrainSettings | None:
    return next((c.train for c in cells if c.train is not None and f"train {c.name}".rstrip() == step.name), None)


def _name(step: str, settings: CollectSettings, among: Sequence[CollectSettings]) -> str:
    """The step's name, with what sets it apart from the others."""
    if len(among) == 1:
        return step
    own, base = to_flat(settings), [to_flat(other) for other in among]
    different = [name for name, value in own.items() if any(other[name] != value for other in base)]
    values = (",".join(map(str, v)) if isinstance(v := own[name], tuple) else str(v) for name in different)
    return f"{step} " + " ".join(f"{name}={value}" for name, value in zip(different, values, strict=True))


def _distinct(problems: Sequence[UserError]) -> list[UserError]:
    """Each message once: cells that differ in a seed have the same trouble."""
    return list({str(problem): problem for problem in problems}.values())


def _lacks(what: str, needed: int, free: int) -> str:
    return f"needs {units.size(needed)} of {what}, {units.size(free)} are free"
