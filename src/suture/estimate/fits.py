"""What of a study cannot fit, with the setting to change and a value that would."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from suture import units
from suture.activations.settings import CollectSettings
from suture.errors import UserError
from suture.estimate import sizes
from suture.estimate.probe import CollectProbe, StartUp
from suture.estimate.steps import Source, StepEstimate, precision_of, widths_of
from suture.lm.load import DTYPES, locate
from suture.sweep.file import Cell
from suture.training.settings import TrainSettings

SAFETENSORS_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
SHORT_BY = 0.9
"""A corpus that plainly holds less than this share of the rows wanted is refused."""
SAFE = 0.9
"""How much of what is free a value proposed instead may take: the rest is the estimate's own uncertainty."""


@dataclass(frozen=True, kw_only=True)
class Free:
    """What the machine has left."""

    memory: int
    disk: int
    device_memory: int | None = None
    """Of the CUDA device; None where none is used."""


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


def check_models(settings: CollectSettings, free: Free) -> list[UserError]:
    """Models whose weights, as their files tell, are more than the memory."""
    room = free.device_memory if settings.device != "cpu" else None
    room, total = free.memory if room is None else room, 0
    for name in dict.fromkeys(settings.models.model):
        total += model_bytes(name, settings.models.load.lm_dtype, settings.device)
        if total > room:
            fix = "load it in bfloat16 (lm-dtype), or take a smaller one"
            return [UserError("collect.model", name, _lacks("memory", total, room), fix)]
    return []


def check_collect(settings: CollectSettings, probe: CollectProbe, step: StepEstimate, free: Free) -> list[UserError]:
    """Models and batches beyond the memory, a corpus too short, a store beyond the disk."""
    found = []
    if step.memory > free.memory:
        problem = _lacks("memory", step.memory, free.memory)
        fix = "load the models in bfloat16 (lm-dtype), or give fewer batch-tokens"
        found.append(UserError("collect.model", ", ".join(settings.models.model), problem, fix))
    if probe.corpus_rows is not None and probe.corpus_rows < SHORT_BY * settings.tokens:
        about = "" if probe.whole_corpus else "about "
        problem = f"the corpus {settings.text.corpus} gives {about}{probe.corpus_rows} rows"
        fix = f"lower it to {probe.corpus_rows}, or give more text"
        found.append(UserError("collect.tokens", settings.tokens, problem, fix))
    if step.disk_peak > free.disk:
        row = step.disk_peak / settings.tokens
        fits = sizes.largest(lambda n: n * row <= free.disk, settings.tokens)
        problem = _lacks("disk", step.disk_peak, free.disk)
        fix = f"lower it to {fits} or less, or choose another disk with --out"
        found.append(UserError("collect.tokens", settings.tokens, problem, fix))
    return found


def memory_to_train(settings: TrainSettings, source: Source, started: StartUp, free: Free) -> tuple[int, int]:
    """(bytes needed, bytes there) in the memory that the dictionary lies in."""
    parts = sizes.training_parts(settings, widths_of(settings, source), source.n_rows, precision_of(settings))
    if settings.device.startswith("cuda") and free.device_memory is not None:
        return sizes.device_bytes(parts), free.device_memory
    return sum(parts.values()) + started.train_memory, free.memory


def check_train(settings: TrainSettings, source: Source, step: StepEstimate, free: Free) -> list[UserError]:
    """A batch of more rows than there are, a dictionary beyond the memory."""
    found = []
    n_spaces = 1 if settings.design.joint else len(settings.view.spaces or source.widths)
    n_train = source.n_rows * (1 - settings.heldout) * n_spaces
    if settings.batch_size > n_train:
        problem, fix = f"exceeds the {round(n_train)} rows to train on", "lower it, or collect more rows"
        found.append(UserError("train.batch-size", settings.batch_size, problem, fix))
    needed, room = step.memory, free.memory
    if step.device_memory is not None and free.device_memory is not None:
        needed, room = step.device_memory, free.device_memory
    if needed > room:
        found.append(_too_large(settings, source, step, needed=needed, room=room))
    return found


def _too_large(settings: TrainSettings, source: Source, step: StepEstimate, *, needed: int, room: int) -> UserError:
    """The number of features that fits, or, where not even the least does, the batch that does."""

    def of(changed: TrainSettings) -> int:
        return sum(
            sizes.training_parts(changed, widths_of(settings, source), source.n_rows, precision_of(settings)).values()
        )

    surplus = needed - of(settings)  # libraries, and what the formula does not know
    least = settings.design.sparsity.k if settings.design.sparsity.selects_k else 1

    def with_features(n: int) -> bool:
        return (
            n <= least or of(replace(settings, design=replace(settings.design, n_features=n))) + surplus <= SAFE * room
        )

    fits = sizes.largest(with_features, settings.design.n_features)
    problem = _lacks("device memory" if step.device_memory is not None else "memory", needed, room)
    if fits > least:
        ranks = math.ceil(needed / room)
        fix = f"lower it to {fits} or less, or split it over {ranks} machines or GPUs with --feature-ranks {ranks}"
        return UserError("train.features", settings.design.n_features, problem, fix)
    fits = sizes.largest(lambda n: of(replace(settings, batch_size=n)) + surplus <= SAFE * room, settings.batch_size)
    fix = f"lower it to {fits} or less" if fits else "free some memory"
    return UserError("train.batch-size", settings.batch_size, problem, fix)


def check_disk(steps: Sequence[StepEstimate], most: int, cells: Sequence[Cell], free: Free) -> list[UserError]:
    """All steps' disk, `most` at any time: what is beyond it together, where each step alone would fit."""
    if most <= free.disk:
        return []
    alone = max(steps, key=lambda step: step.disk_peak)
    if alone.disk_peak <= free.disk:
        problem = f"together take {units.size(most)} of disk, {units.size(free.disk)} are free"
        fix = "lower collect.tokens or train.features, vary fewer settings, or choose another disk with --out"
        return [UserError("study", f"{len(steps)} steps", problem, fix)]
    settings = _settings_of(alone, cells)
    if settings is None:  # a collection, of which `check_collect` has told
        return []

    def fits(n: int) -> bool:
        design = replace(settings.design, n_features=n)
        shape = sizes.shape_of(design, alone.parts["widths"])
        return sizes.peak_disk(replace(settings, design=design), shape) <= free.disk

    n = sizes.largest(lambda n: n <= settings.design.sparsity.k or fits(n), settings.design.n_features)
    problem, fix = _lacks("disk", alone.disk_peak, free.disk), f"lower it to {n} or less, or choose another disk"
    return [UserError("train.features", settings.design.n_features, problem, fix)]


def _settings_of(step: StepEstimate, cells: Sequence[Cell]) -> TrainSettings | None:
    return next((c.train for c in cells if c.train is not None and f"train {c.name}".rstrip() == step.name), None)


def distinct(problems: Sequence[UserError]) -> list[UserError]:
    """Each message once: cells that differ in a seed have the same trouble."""
    return list({str(problem): problem for problem in problems}.values())


def _lacks(what: str, needed: int, free: int) -> str:
    return f"needs {units.size(needed)} of {what}, {units.size(free)} are free"
