"""Probes: seconds of the real work on this machine, from which the rest is reckoned.

1. A process that only imports what a step imports tells the memory of the libraries, and how long a step takes to start
   and to end.
2. The models are loaded; a few windows of the corpus are collected, again with more rows until it takes long enough to
   be told from noise. The time between windows is the rate; what comes after the last one is the cost of finishing.
3. Training steps of the real shape are taken on the probe's rows (over and over, where they are few), first as they
   are and, where features may die before the end, with a tenth of them called dead; between two rounds of steps
   held-out rows are evaluated and a checkpoint is written.
4. Times are medians, with the spread of what was measured beside them.

Everything is written below one temporary folder, which the caller removes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import torch

from suture.activations.batches import Batch, batches
from suture.activations.collect import CollectProgress, collect
from suture.activations.settings import CollectSettings
from suture.activations.store import Store
from suture.activations.view import seen
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.kernels.select import resolve_precision
from suture.estimate.machine import held_bytes, peak_bytes, reset_peak
from suture.estimate.sizes import DEAD_SHARE
from suture.lm.corpus import FOLDER_SUFFIXES, RECORD_SUFFIXES, Corpus
from suture.lm.load import LanguageModel
from suture.lm.models import load_models
from suture.training.checkpoint import Checkpoint, save_checkpoint
from suture.training.run import available_models
from suture.training.settings import TrainSettings
from suture.training.start import STATISTICS_ROWS, data_statistics, new_dictionary
from suture.training.step import TrainingState

FIRST_ROWS = 512
"""Rows of the first, shortest collection."""
WARM_STEPS = 2
LEAST_STEPS = 3
EVALUATIONS = 3
CHECKPOINT_BYTES = 64 * 10**6
"""A checkpoint is written of so many bytes at most: its rate is what is wanted."""
NOISE = 0.3
"""The least that any time is uncertain by, either way: a machine's own speed, from one minute to another."""
WORKING_BYTES = 100 * 2**20
"""What a process holds once it works: heaps of its threads, compiled kernels (80 to 130 MB measured)."""

CHILD = """
import sys, time
started = time.perf_counter()
from suture.estimate.machine import peak_bytes
import suture.cli.app, suture.training.train, torch
torch.ones(8, device=sys.argv[1]).sum()
seconds, train = time.perf_counter() - started, peak_bytes()
import suture.activations.collect, suture.lm.corpus, suture.lm.load, json
print(json.dumps([seconds, train, time.perf_counter() - started, peak_bytes()]))
"""


@dataclass(frozen=True)
class Span:
    """A time in seconds and how far it may be off."""

    low: float
    middle: float
    high: float

    @staticmethod
    def of(times: Sequence[float]) -> Span:
        """The median and the spread of what was measured, never narrower than the noise."""
        middle = median(times)
        tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else [middle] * 9
        return Span(min(tenths[0], (1 - NOISE) * middle), middle, max(tenths[-1], (1 + NOISE) * middle))

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def __mul__(self, times: float) -> Span:
        return Span(self.low * times, self.middle * times, self.high * times)


ZERO = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """What a step's process takes before it begins to work."""

    train_seconds: float
    train_memory: int
    collect_seconds: float
    collect_memory: int


@dataclass(frozen=True, kw_only=True)
class LoadedModels:
    """The models of a collection, and what loading them took."""

    lms: tuple[LanguageModel, ...]
    """One per space."""
    seconds: float
    memory: int


@dataclass(frozen=True, kw_only=True)
class CollectProbe:
    """A short collection."""

    store: Store
    loading: float
    """Seconds to load the models."""
    row: Span
    """Seconds for a row."""
    finishing: float
    """Seconds for a row at the end: sums, checksums."""
    memory: int
    """At the most, without the libraries."""
    text_bytes: float
    """Of the corpus for a row."""
    text_least: int
    """Bytes of text written whatever the number of rows: the documents begun."""
    corpus_rows: int | None
    """Rows that the corpus can give, at most; None where that is not known at low cost."""
    whole_corpus: bool
    """Whether the probe reached the end of the corpus, so that `corpus_rows` is exact."""

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(space.width for space in self.store.spaces)


@dataclass(frozen=True, kw_only=True)
class TrainProbe:
    """A few steps of a training."""

    starting: float
    """Seconds for statistics and first weights."""
    step: Span
    """Seconds for a step while nothing is dead."""
    step_with_dead: Span
    """Seconds for a step with AuxK at work."""
    evaluated_row: Span
    """Seconds to evaluate a row."""
    written_byte: Span
    """Seconds to write and checksum a byte."""
    memory: int
    """Host memory at the most, without the libraries."""
    dictionary: Path
    """What those steps trained, with thresholds: what comes after training can be tried on it."""
    device_memory: int | None
    """Of a CUDA device; None elsewhere."""


def probe_start(device: str) -> StartUp:
    """Import what the steps import, in a process of its own."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, device], capture_output=True, text=True, check=True)
    whole = time.perf_counter() - started
    train_seconds, train_memory, collect_seconds, collect_memory = json.loads(done.stdout)
    outside = whole - collect_seconds  # Python itself, and its end with all libraries loaded
    return StartUp(
        train_seconds=train_seconds + outside,
        train_memory=train_memory + WORKING_BYTES,
        collect_seconds=collect_seconds + outside,
        collect_memory=collect_memory + WORKING_BYTES,
    )


def load_all(settings: CollectSettings) -> LoadedModels:
    """Load every model of a collection, none twice."""
    before, started = held_bytes(), time.perf_counter()
    lms = load_models(settings.models.model, settings.models.load, device=settings.device)
    seconds = time.perf_counter() - started
    return LoadedModels(lms=tuple(lms), seconds=seconds, memory=max(held_bytes() - before, 0))


def probe_collect(
    settings: CollectSettings, models: LoadedModels, corpus: Corpus, folder: Path, *, seconds: float
) -> CollectProbe:
    """Collect a few windows of the corpus below `folder`, for about `seconds`."""
    reset_peak()
    before = held_bytes()
    n_rows, marks, store, ended = min(FIRST_ROWS, settings.tokens), [(0.0, 0)], None, 0.0
    for attempt in range(4):
        marks = []
        store = collect(
            folder / f"store-{attempt}",
            sources=list(zip(models.lms, settings.models.hookpoints, strict=True)),
            corpus=corpus,
            n_rows=n_rows,
            block=settings.block,
            dtype=settings.dtype,
            batch_tokens=settings.batch_tokens,
            on_progress=_marking(marks),
        )
        ended = time.perf_counter()
        taken = ended - marks[0][0]
        wanted = min(settings.tokens, round(len(store) * seconds / taken))
        if taken > seconds / 3 or len(store) < n_rows or wanted <= n_rows:
            break
        n_rows = wanted
    assert store is not None, "at least one collection was made"
    whole = len(store) < n_rows
    text_bytes, text_least = _text_bytes(store)
    return CollectProbe(
        store=store,
        loading=models.seconds,
        row=_row_seconds(marks),
        finishing=(ended - marks[-1][0]) / len(store),
        memory=models.memory + max(peak_bytes() - before, 0),
        text_bytes=text_bytes,
        text_least=text_least,
        corpus_rows=len(store) if whole else _rows_in(corpus, text_bytes),
        whole_corpus=whole,
    )


def _marking(marks: list[tuple[float, int]]) -> Callable[[CollectProgress], None]:
    return lambda state: marks.append((time.perf_counter(), state.n_rows))


def _row_seconds(marks: Sequence[tuple[float, int]]) -> Span:
    """From the times after each window; the first window, where there are more, had nothing to overlap with."""
    kept = marks[1:] if len(marks) > 3 else marks
    each = [(t - t0) / (n - n0) for (t0, n0), (t, n) in pairwise(kept) if n > n0]
    overall = (kept[-1][0] - kept[0][0]) / max(kept[-1][1] - kept[0][1], 1)
    spread = Span.of(each or [overall])
    # windows differ in how many rows they give, so their own median is no rate
    return Span(min(spread.low, overall), overall, max(spread.high, overall))


def _text_bytes(store: Store) -> tuple[float, int]:
    """(bytes of text gone through for a row, bytes of all documents begun)."""
    written = sum(file.stat().st_size for file in store.path.rglob("text.bin"))
    last = store.text(int(store.documents[-1]))
    unread = len(last[int(store.ends[-1]) :].encode())
    return (written - unread) / len(store), written


def _rows_in(corpus: Corpus, text_bytes: float) -> int | None:
    """Rows that a corpus of plain files holds, at most; None for others."""
    path = Path(corpus.source).expanduser()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in FOLDER_SUFFIXES)
    if not files or any(f.suffix.lower() == RECORD_SUFFIXES[-1] for f in files):  # Parquet is compressed
        return None
    return round(sum(f.stat().st_size for f in files) / text_bytes)


def probe_train(settings: TrainSettings, store: Store, folder: Path, *, seconds: float) -> TrainProbe:
    """Take training steps on a store's rows for about `seconds`, and write a checkpoint below `folder`."""
    reset_peak()
    before = held_bytes()
    on_gpu = settings.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(settings.device)
    reference = seen(store, settings.view)
    started = time.perf_counter()
    rows = torch.arange(len(reference))
    statistics = data_statistics(reference, rows, seed=settings.seed)
    with_statistics = time.perf_counter() - started
    dictionary = new_dictionary(reference, settings.design, statistics, seed=settings.seed)
    dictionary.precision = resolve_precision(settings.precision, torch.device(settings.device))
    state = TrainingState(dictionary.to(settings.device), settings.objective, statistics.variance)
    starting = time.perf_counter() - started - with_statistics
    can_die = settings.objective.aux > 0 and settings.n_rows > settings.objective.dead_after
    with closing(_stream(settings, reference)) as stream:
        _steps(state, settings, stream, n=WARM_STEPS)
        if can_die:
            _steps(state, settings, stream, n=WARM_STEPS, dead=True)
        plain, with_dead = _round(state, settings, stream, seconds=seconds / 3, can_die=can_die)
        state.finish_thresholds()
        evaluated = _evaluate(dictionary, reference, settings)
        written = _write(state, settings, folder)
        more = _round(state, settings, stream, seconds=seconds / 3, can_die=can_die)
        plain, with_dead = plain + more[0], with_dead + more[1]
    step = Span.of(plain)
    memory = max(peak_bytes() - before, 0)
    state.finish_thresholds()
    dictionary.save(folder / "dictionary", settings={"view": asdict(settings.view)})
    return TrainProbe(
        starting=starting + with_statistics * min(STATISTICS_ROWS / len(reference), 1e3),
        step=step,
        step_with_dead=Span.of(with_dead) if with_dead else step,
        evaluated_row=evaluated,
        written_byte=written,
        memory=memory,
        dictionary=folder / "dictionary",
        device_memory=torch.cuda.max_memory_allocated(settings.device) if on_gpu else None,
    )


def _stream(settings: TrainSettings, reference: Store) -> Generator[Batch, None, None]:
    """Batches of the real size; a short store's rows are given often enough to fill two."""
    n_items = len(reference) * (1 if settings.design.joint else len(reference.spaces))
    rows = torch.arange(len(reference)).repeat(-(-2 * settings.batch_size // n_items))
    return batches(
        reference, rows, batch_size=settings.batch_size, seed=settings.order_seed, pooled=not settings.design.joint
    )


def _round(
    state: TrainingState, settings: TrainSettings, stream: Iterator[Batch], *, seconds: float, can_die: bool
) -> tuple[list[float], list[float]]:
    """Seconds of steps while all features live, and of others, in turn, while a tenth of them is dead."""
    plain: list[float] = []
    with_dead: list[float] = []
    until = time.perf_counter() + seconds
    while len(plain) < LEAST_STEPS or time.perf_counter() < until:
        plain += _steps(state, settings, stream, n=1)
        if can_die:
            with_dead += _steps(state, settings, stream, n=1, dead=True)
    return plain, with_dead


def _steps(
    state: TrainingState, settings: TrainSettings, stream: Iterator[Batch], *, n: int, dead: bool = False
) -> list[float]:
    """Seconds of each of `n` steps."""
    device, times = settings.device, []
    n_dead = max(1, round(DEAD_SHARE * settings.design.n_features))
    for number in range(n):
        # a feature that fires is alive again; without `dead` none may pass for dead, however long the probe
        state.silent.zero_()
        if dead:
            state.silent[:n_dead] = settings.objective.dead_after
        started = time.perf_counter()
        batch = next(stream)
        if device != "cpu":
            model = None if batch.model is None else batch.model.to(device)
            batch = Batch(activations=batch.activations.to(device), model=model)
        masks = available_models(settings, state.dictionary.n_spaces, number)
        state.step(
            batch,
            k=float(settings.design.sparsity.k),
            learning_rate=settings.top_learning_rate,
            available=None if masks is None else masks.to(device),
        )
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return times


def _evaluate(dictionary: Dictionary, reference: Store, settings: TrainSettings) -> Span:
    """Seconds for a held-out row."""
    rows = torch.arange(min(settings.validation_rows, len(reference)))
    times = []
    for _ in range(EVALUATIONS):
        started = time.perf_counter()
        evaluate(dictionary, reference, rows)
        times.append((time.perf_counter() - started) / len(rows))
    return Span.of(times[1:])


def _write(state: TrainingState, settings: TrainSettings, folder: Path) -> Span:
    """Seconds for a byte of a checkpoint."""
    whole = state.per_feature()
    per_row = sum(t.numel() * t.element_size() for t in whole.values()) / settings.design.n_features
    n = min(settings.design.n_features, max(1, int(CHECKPOINT_BYTES / per_row)))
    times = []
    for step in range(EVALUATIONS):
        part = Checkpoint(step=step, per_feature={name: t[:n] for name, t in whole.items()}, common=state.common())
        started = time.perf_counter()
        save_checkpoint(folder, part, n_features=n)
        times.append((time.perf_counter() - started) / (n * per_row))
    return Span.of(times)
