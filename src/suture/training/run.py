"""One dictionary in training: its folder, its state, its schedules, its records on disk.

1. Open the folder; take mean and variance; start the weights, or read the newest whole checkpoint.
2. `take` a batch: learning rate and k by their schedules, models masked by model dropout, one step.
3. Now and then: a line of metrics with validation on held-out rows; now and then: a checkpoint.
4. `finish`: thresholds, the full evaluation on held-out rows, the artifact.

Masks and schedules are pure functions of (settings, step), so a resumed run takes the steps that an unbroken one would
have taken. Measuring never changes training.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from suture import seeds
from suture.activations.batches import Batch
from suture.dictionary.clipping import Clipping
from suture.dictionary.dictionary import EVALUATION, STAGE, Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.imputation import Imputation
from suture.dictionary.kernels.select import resolve_precision
from suture.errors import DiskSpaceError, NumericalError, UserError
from suture.parallel import ALONE, Grid, local_device
from suture.pipeline import artifact
from suture.pipeline.settings import declared
from suture.training.checkpoint import (
    FOLDER,
    KEPT,
    Checkpoint,
    load_checkpoint,
    room_for,
    save_checkpoint,
)
from suture.training.feed import POSITIONS, Feed
from suture.training.settings import TrainSettings
from suture.training.start import Start, begin_with, data_statistics, new_dictionary
from suture.training.step import StepResult, TrainingState
from suture.training.tracking import METRICS, Tracker

EVALUATION_ROWS = 50_000
"""Held-out rows of the final evaluation, at most."""
NAMES = {setting.path: name for name, setting in declared(TrainSettings).items()}
"""What settings are called on the command line, by their place."""
FINITE_EVERY = 20
"""Steps between two looks at whether the loss is still a number, where each look makes a GPU wait."""


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """A line of metrics."""

    step: int
    n_steps: int
    rows: int
    loss: float
    terms: dict[str, float]
    fvu: list[float]
    """Per model, on held-out rows."""
    training_fvu: list[float]
    """Per model, on the batch."""
    l0: float
    dead: float
    """Share of features silent for long."""
    learning_rate: float
    k: float
    rows_per_second: float


OnProgress = Callable[[TrainProgress], None]


class Run:
    """A dictionary being trained, from its first batch or its newest checkpoint to the finished folder."""

    def __init__(
        self,
        out: Path,
        settings: TrainSettings,
        feed: Feed,
        *,
        made_from: dict[str, Any],
        parents: tuple[Path, ...] = (),
        start: Start | None = None,
        grid: Grid = ALONE,
        resume: bool = False,
        overwrite: bool = False,
        command: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Open the folder and make everything ready.

        Args:
            out: the dictionary's folder.
            settings: how it is trained.
            feed: its rows.
            made_from: what the rows are, for the records.
            parents: artifacts that the rows, and the weights it starts with, come from.
            start: weights to start with in place of random ones.
            grid: this process's place.
            resume: go on with an unfinished run of the same settings.
            overwrite: replace a finished dictionary.
            command: the shell command, for the manifest.
            on_progress: told about every line of metrics.

        Raises:
            UserError: settings that do not fit the rows or the unfinished run.
        """
        self.out = out
        self.settings = settings
        self.feed = feed
        self.grid = grid
        self.on_progress = on_progress
        self.device: str = local_device(settings.device)
        check_fit(settings, feed, grid)
        before = artifact.begun_settings(out) if resume and grid.world.leads else {}
        recorded = recorded_settings(settings, made_from, before=grid.world.agree(before))
        self._open = ExitStack()
        with ExitStack() as opening:  # closed again where anything here fails
            draft = opening.enter_context(
                artifact.create(
                    out, stage=STAGE, settings=recorded, seed=settings.seed, parents=parents, resume=resume,
                    resumable=True, overwrite=overwrite, command=command, leads=grid.world.leads, names=NAMES,
                )
            )  # fmt: skip
            self.folder: Path = draft.folder
            draft.scratch += [FOLDER, POSITIONS]
            opening.enter_context(_removed_where_nothing_was_reached(self.folder, grid))
            if grid.world.leads:
                _drop_half_a_result(self.folder)
            grid.world.wait()
            saved = load_checkpoint(self.folder, grid=grid)
            rows = feed.split[0]
            statistics = data_statistics(feed.reference, rows, seed=settings.seed)
            dictionary = new_dictionary(
                feed.reference, settings.design, statistics, seed=settings.seed, lock=settings.lock, grid=grid
            )
            if start is not None and saved is None:
                begin_with(dictionary, start.make(feed.reference, rows))
            dictionary.precision = recorded["precision"]
            self.dictionary: Dictionary = dictionary.to(self.device)
            self.state: TrainingState = TrainingState(
                dictionary, settings.objective, statistics.variance, lock=settings.lock
            )
            if saved is not None:
                self.state.load_tensors(saved.per_feature, saved.common)
            self.done: int = 0 if saved is None else saved.step
            self._saved = self.done
            if grid.world.leads:
                self._check_room()
            self._follow(self.done)
            self.tracker: Tracker = opening.enter_context(
                Tracker(
                    self.folder, first_step=self.done, kinds=settings.track, settings=recorded, leads=grid.world.leads
                )
            )
            self._open = opening.pop_all()
        self.validation: Int[Tensor, "row"] = every_other(feed.split[1], settings.validation_rows)
        self._since, self._since_step = time.monotonic(), self.done
        self._bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._between_steps, self._finished = True, False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        """Close the folder: finished if `finish` was called, otherwise as far as the last checkpoint."""
        return self._open.__exit__(*exception)

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.done >= self.settings.n_steps

    def take(self, batch: Batch) -> None:
        """One step on the next batch, and what is due after it.

        Raises:
            NumericalError: the loss is not finite; the last checkpoint, if there is one, is kept.
            DiskSpaceError: there is no room for a checkpoint.
        """
        settings, step = self.settings, self.done
        self._follow(step)
        masks = available_models(settings, self.dictionary.n_spaces, step)
        with _uninterrupted():  # a step ends with its line of metrics
            self._between_steps = False
            result = self.state.step(
                batch,
                k=settings.k_at(step),
                learning_rate=settings.learning_rate_at(step),
                available=None if masks is None else masks[self.grid.data.share(settings.batch_size)].to(self.device),
                locked=settings.is_locked_at(step),
            )
            self.done = step + 1
            self._between_steps = True
            measure_now = self.done % settings.validate_every == 0 or self.is_done
            save_now = self.done % settings.checkpoint_every == 0 and not self.is_done
            look = measure_now or save_now or self.device == "cpu" or self.done % FINITE_EVERY == 0
            self._watch(result, step, look=look)
            progress = self._measure(result) if measure_now else None
        if progress is not None and self.on_progress is not None and self.grid.world.leads:
            self.on_progress(progress)
        if save_now:
            self.save()

    def _follow(self, step: int) -> None:
        """Let the dictionary be what it is at this step of its training."""
        design = self.dictionary.design
        if step >= self.settings.finishing_step and design.sparsity != design.sparsity.finished:
            self.dictionary.design = replace(design, sparsity=design.sparsity.finished)

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            NumericalError: it would hold a number that is not finite.
            DiskSpaceError: there is no room for it.
        """
        state = self.state
        checkpoint = Checkpoint(step=self.done, per_feature=state.per_feature(), common=state.common())
        self._check_finite([*checkpoint.per_feature.values(), *checkpoint.common.values()])
        save_checkpoint(self.folder, checkpoint, n_features=self.dictionary.n_features, grid=self.grid)
        self._saved = self.done

    def keep(self) -> None:
        """Save what was reached, if it is whole: after Ctrl-C, or when something went wrong here or in another run.

        Several ranks are interrupted at different moments and cannot write one together: their last one stands.
        """
        reached = self._between_steps and self.done > self._saved and self.folder.exists()
        if reached and not self._finished and self.grid.world.size == 1:
            with suppress(NumericalError, DiskSpaceError):  # what went wrong first is what the user is told
                self.save()

    def finish(self) -> None:
        """The final evaluation, the weights; then the folder has its own name.

        Raises:
            NumericalError: the weights are not finite.
            DiskSpaceError: there is no room for them; checkpoints are kept.
        """
        self._check_finite(self.dictionary.state_dict().values())
        self.state.finish_thresholds()  # 4
        training, heldout = self.feed.split
        self.dictionary.clipping = Clipping.of(self.feed.reference)
        if self.settings.design.kind == "crosscoder":
            self.dictionary.imputation = Imputation.of_rows(self.feed.reference, training, self.device)
        # where nothing was held out, the evaluation says that it is of training rows
        rows = every_other(heldout if len(heldout) else training, EVALUATION_ROWS)
        evaluation = evaluate(self.dictionary, self.feed.reference, rows).to_json() | {"heldout": len(heldout) > 0}
        whole = self.dictionary.whole()
        with room_for("the result", self.folder):
            if self.grid.world.leads:
                artifact.write_json(self.folder / EVALUATION, evaluation)
                whole.write(self.folder)
            self._open.close()
        self._finished = True
        self.grid.world.wait()

    def _check_room(self) -> None:
        """Notice a full disk before the work: room for the result, the checkpoints kept, and one being written."""
        dictionary = sum(t.nbytes for t in self.dictionary.state_dict().values()) * self.grid.features.size
        state = [*self.state.per_feature().values(), *self.state.common().values()]
        checkpoint = sum(t.nbytes for t in state) * self.grid.features.size
        n_checkpoints = min(1 + KEPT, (self.settings.n_steps - 1) // self.settings.checkpoint_every)
        needed = dictionary + n_checkpoints * checkpoint - artifact.bytes_in(self.folder)
        artifact.check_room(self.out, needed, "train fewer features")

    def _watch(self, result: StepResult, step: int, *, look: bool) -> None:
        """Remember the first step whose loss was no number, and stop once it is noticed: before anything is saved."""
        broken = ~torch.isfinite(result.loss) & (self._bad < 0)
        self._bad = torch.where(broken, step + 1, self._bad)
        if look:
            self._check_loss()

    def _check_loss(self) -> None:
        if int(self._bad) >= 0:
            raise self._diverged(f"made the loss NaN or infinite at step {int(self._bad)} of {self.out}")

    def _check_finite(self, tensors: Iterable[Tensor]) -> None:
        """Stop before these are written if some are not finite: a gradient may overflow where the loss did not."""
        self._check_loss()
        broken = torch.tensor(not all(bool(t.isfinite().all()) for t in tensors))
        if bool(self.grid.world.any(broken)):
            raise self._diverged(f"made weights or their moments NaN or infinite by step {self.done} of {self.out}")

    def _diverged(self, problem: str) -> NumericalError:
        fix = "lower it and start again; the last checkpoint is from before"
        return NumericalError("learning-rate", self.settings.top_learning_rate, problem, fix)

    def _measure(self, result: StepResult) -> TrainProgress:
        settings, state = self.settings, self.state
        rate = (self.done - self._since_step) * settings.batch_size / max(time.monotonic() - self._since, 1e-9)
        state.finish_thresholds()
        n_dead = float(self.grid.features.add_up(state.dead.double().sum()))
        fvu = (
            evaluate(state.dictionary, self.feed.reference, self.validation, alone=False).fvu
            if len(self.validation)
            else []
        )
        progress = TrainProgress(
            step=self.done,
            n_steps=settings.n_steps,
            rows=self.done * settings.batch_size,
            loss=float(result.loss),
            terms={name: float(value) for name, value in result.terms.items()},
            fvu=fvu,
            training_fvu=(result.error / result.n_rows.clamp_min(1) / state.variance).tolist(),
            l0=float(result.l0),
            dead=n_dead / self.dictionary.n_features,
            learning_rate=settings.learning_rate_at(self.done - 1),
            k=settings.k_at(self.done - 1),
            rows_per_second=rate,
        )
        with room_for("a line of metrics", self.folder):
            self.tracker.log(progress)
        self._since, self._since_step = time.monotonic(), self.done
        return progress


def recorded_settings(
    settings: TrainSettings, made_from: dict[str, Any], *, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a dictionary's manifest holds of how it was made; a resumed run must have the same.

    What `auto` once measured and recorded `before` stays: a busy machine may measure otherwise the second time.
    """
    known = before is not None and settings.precision == "auto" and before.get("precision")
    precision = known or resolve_precision(settings.precision, torch.device(local_device(settings.device)))
    return asdict(settings) | {"precision": precision} | made_from


def is_finished(out: Path, settings: TrainSettings, feed: Feed, start: Start | None = None) -> bool:
    """Whether `out` is the finished dictionary of these settings, rows and weights to start with."""
    wanted = asdict(settings) | made_from(feed, start)
    return artifact.is_made(out, stage=STAGE, settings=wanted, parents=parents_of(feed, start))


def made_from(feed: Feed, start: Start | None) -> dict[str, Any]:
    """What the rows and the weights at the start are, for the records."""
    return feed.made_from | ({} if start is None else start.recorded)


def parents_of(feed: Feed, start: Start | None) -> tuple[Path, ...]:
    """The artifacts behind both."""
    return feed.parents + (() if start is None else start.parents)


def available_models(settings: TrainSettings, n_spaces: int, step: int) -> Bool[Tensor, "row space"] | None:
    """Which models each row's code may come from; None where all may. A pure function of (settings, step)."""
    universal = settings.design.kind == "universal"
    if not universal and settings.model_dropout == 0:
        return None
    generator = seeds.generator("model masks", settings.seed, step)
    chosen = torch.randint(n_spaces, (settings.batch_size,), generator=generator)
    only = torch.nn.functional.one_hot(chosen, n_spaces).bool()
    if universal:
        return only
    kept = torch.rand(settings.batch_size, n_spaces, generator=generator) >= settings.model_dropout
    return torch.where(kept.any(1, keepdim=True), kept, only)


def every_other(rows: Int[Tensor, "row"], at_most: int) -> Int[Tensor, "some"]:
    """Evenly spread rows, `at_most` of them."""
    return rows[:: max(1, -(-len(rows) // at_most))]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect once the block is over, a second one at once: nothing can go on from half a step."""
    # only the main thread handles signals; whoever else has its own handler keeps it
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            signal.default_int_handler(number, frame)
        came = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


@contextmanager
def _removed_where_nothing_was_reached(folder: Path, grid: Grid) -> Iterator[None]:
    """A user's mistake leaves no unfinished folder, unless it holds a checkpoint."""
    try:
        yield
    except UserError:
        if grid.world.size == 1 and load_checkpoint(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def check_fit(settings: TrainSettings, feed: Feed, grid: Grid) -> None:
    """Refuse settings that the rows or the processes cannot have, before anything is written.

    Raises:
        UserError: naming the setting.
    """
    widths = [space.width for space in feed.reference.spaces]
    settings.design.check_widths(widths)
    if settings.objective.cross and len(set(widths)) > 1:
        raise UserError("cross", settings.objective.cross, f"needs equal widths, found {widths}", "use --cross 0")
    n_rows = len(feed.split[0]) * (1 if settings.design.joint else len(feed.reference.spaces))
    if settings.batch_size > n_rows:
        problem = f"exceeds the {n_rows} training rows of {feed.name}"
        raise UserError("batch-size", settings.batch_size, problem, "lower it, or collect more rows")
    if settings.batch_size % grid.data.size:
        problem = f"does not divide into equal parts for {grid.data.size} processes"
        raise UserError("batch-size", settings.batch_size, problem, "choose a multiple, or raise --feature-ranks")
    if settings.n_rows < settings.batch_size:
        problem = f"is less than one batch of {settings.batch_size}"
        raise UserError("rows", settings.n_rows, problem, "raise --rows or lower --batch-size")
    if settings.design.n_features < grid.features.size:
        problem = f"cannot be split over {grid.features.size} processes"
        raise UserError("features", settings.design.n_features, problem, "lower --feature-ranks")
    check_device(settings.device)


def check_device(device: str) -> None:
    """Refuse a device that this machine has not.

    Raises:
        UserError: naming it.
    """
    try:
        torch.empty(0, device=local_device(device))
    except (RuntimeError, AssertionError) as error:
        problem = f"cannot be used ({str(error).splitlines()[0]})"
        raise UserError("device", device, problem, "use cpu") from None


def _drop_half_a_result(folder: Path) -> None:
    """What a run that was killed while it finished left: the manifest lists what is here."""
    for left in folder.iterdir():
        if left.is_file() and left.name not in (METRICS, POSITIONS, *artifact.UNFINISHED):
            left.unlink()
