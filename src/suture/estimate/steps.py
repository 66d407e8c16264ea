"""What one step of a study takes, from its settings and what a probe measured.

Time is rate times work, plus what a process takes to start and to finish; memory is the larger of formula and probe on
top of the libraries; disk is counted file by file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from suture.activations.settings import CollectSettings
from suture.activations.store import STORAGE, Store
from suture.dictionary.kernels.select import resolve_precision
from suture.estimate import sizes
from suture.estimate.after import AfterProbe
from suture.estimate.probe import ZERO, CollectProbe, Span, StartUp, TrainProbe
from suture.sweep.file import Cell
from suture.training.run import EVALUATION_ROWS
from suture.training.settings import TrainSettings

BEGINNING = Span(0.75, 1.0, 1.4)
"""How far the start of a process is off: the same one takes 7 to 9 seconds a minute later."""
STARTING = Span(0.75, 1.0, 1.75)
"""The same of a stage after training: what it imports and looks through is its own."""
INDEX_BYTES = 4096
"""Manifest, index and means of a store, without its shards' own notes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The rows that a dictionary is trained on."""

    store: Store
    """The store itself, or the probe's beginning of it."""
    n_rows: int
    """Of the store itself."""

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(s.width for s in self.store.spaces)


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


def widths_of(settings: TrainSettings, source: Source) -> tuple[int, ...]:
    """Of the spaces trained on; a null has its one space twice."""
    chosen = settings.view.spaces or tuple(range(len(source.widths)))
    return tuple(source.widths[m] for m in chosen) * (2 if settings.view.null else 1)


def precision_of(settings: TrainSettings) -> str:
    """Of the dense product, on the device that it is trained on."""
    return resolve_precision(settings.precision, torch.device(settings.device))


def collect_step(settings: CollectSettings, probe: CollectProbe, started: StartUp, name: str) -> StepEstimate:
    """A store of the rows that the corpus has."""
    n_rows = min(settings.tokens, probe.corpus_rows or settings.tokens)
    dtype = probe.store.dtype
    side = 4 * (2 + len(probe.widths))
    text = max(round(probe.text_bytes * n_rows), probe.text_least)
    disk = n_rows * (sum(probe.widths) * STORAGE[dtype].itemsize + side) + text + INDEX_BYTES
    fixed = started.collect_seconds + probe.loading
    running = probe.row * float(n_rows)
    seconds = BEGINNING * fixed + running + Span(0.5, 1.0, 2.0) * (probe.finishing * n_rows)
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


def train_step(cell: Cell, source: Source, started: StartUp, probe: TrainProbe | None) -> StepEstimate:
    """A cell's dictionary; without a probe its memory and disk alone."""
    [settings] = cell.trainings()
    widths = widths_of(settings, source)
    shape = sizes.shape_of(settings.design, widths)
    parts = sizes.training_parts(settings, widths, source.n_rows, precision_of(settings))
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


def after_step(
    name: str, found: AfterProbe, started: StartUp, probes: Mapping[CollectSettings, CollectProbe], cell: Cell
) -> StepEstimate:
    """A stage after training, in a process of its own that loads the models."""
    models = probes[cell.collect] if cell.collect is not None else None
    fixed = started.collect_seconds + (models.loading if models else 0.0)
    return StepEstimate(
        name=name,
        seconds=STARTING * fixed + found.seconds,
        rows_per_second=found.rows_per_second,
        memory=started.collect_memory + (models.memory if models else 0) + found.memory,
        mapped=0,
        disk=found.disk,
        disk_peak=found.disk + found.parts,
        parts={"starting": fixed, "running": found.seconds.middle},
    )


def _train_seconds(
    settings: TrainSettings, source: Source, started: StartUp, probe: TrainProbe, shape: sizes.Shape
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
        "starting": BEGINNING * begin,
        "steps": plain * float(n_alive) + later * float(n_later),
        "validation": probe.evaluated_row * float(n_validated),
        "checkpoints and result": probe.written_byte * float(n_bytes),
        "evaluation": probe.evaluated_row * float(n_evaluated),
    }
    return sum(parts.values(), start=ZERO), {name: span.middle for name, span in parts.items()}
