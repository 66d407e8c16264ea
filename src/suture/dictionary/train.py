"""Train a dictionary on a store: the loop around the step, its schedules, its validation and its records on disk.

1. Split the store's rows by document; take mean and variance; start or resume the weights.
2. For every batch: learning rate and k by their schedules, models masked by model dropout, one step.
3. Now and then: a line of metrics with validation on held-out rows; now and then: a checkpoint.
4. At the end: thresholds, the full evaluation on held-out rows, the artifact.

Batches, masks and schedules are pure functions of (settings, step), so a resumed run takes the steps that an unbroken
one would have taken. Measuring never changes training.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from suture import artifact
from suture.activations.batches import Batch, batches, split_rows
from suture.activations.store import Store
from suture.activations.view import View
from suture.dictionary.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from suture.dictionary.design import Design
from suture.dictionary.dictionary import STEP, Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.kernels import Precision, resolve_precision
from suture.dictionary.objective import Objective
from suture.dictionary.start import data_statistics, new_dictionary
from suture.dictionary.step import StepResult, TrainingState
from suture.dictionary.tracking import Tracker, TrackerKind
from suture.errors import NumericalError, UserError

EVALUATION_ROWS = 50_000
"""Held-out rows of the final evaluation, at most."""
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a dictionary is trained."""

    design: Design = field(default_factory=Design)
    view: View = field(default_factory=View)
    """Which of the store's spaces; all of them by default."""
    objective: Objective = field(default_factory=Objective)
    n_rows: int = 2_000_000
    """Rows to train on in all; a store with fewer is gone over again in a new order."""
    batch_size: int = 4096
    learning_rate: float | None = None
    """Adam's at its highest; when not given, 5e-4 · sqrt(16384 / features), the scaling of 2406.04093."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = 0.3
    """Share of the steps, the last, over which it falls to 0."""
    k_start: float = 1.0
    """Training begins with `k_start` times k active features ..."""
    k_anneal: float = 0.2
    """... and comes down to k over this share of the steps."""
    model_dropout: float = 0.0
    """Chance that a row's model is masked for the encoder (never all of them); all are still reconstructed."""
    heldout: float = 0.1
    """Share of the documents kept out of training."""
    validate_every: int = 100
    """Steps between lines of metrics."""
    validation_rows: int = 4096
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    seed: int = 0
    precision: Precision = "auto"
    """Of the one dense product; the chosen features and their values are those of float32 either way."""
    device: str = "cpu"
    track: tuple[TrackerKind, ...] = ()
    """Also send metrics to `tensorboard` or `wandb`."""

    def __post_init__(self) -> None:
        for name in ("n_rows", "batch_size", "validate_every", "validation_rows", "checkpoint_every"):
            if getattr(self, name) < 1:
                option = "rows" if name == "n_rows" else name.replace("_", "-")
                raise UserError(option, getattr(self, name), "is less than 1", "give a positive number")
        for name in ("warmup", "decay", "k_anneal", "model_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    name.replace("_", "-"), getattr(self, name), "is not a share", "give a number from 0 to 1"
                )
        if self.warmup + self.decay > 1:
            raise UserError("decay", self.decay, f"with warmup {self.warmup} exceeds all steps", "lower one of them")
        if not 0 <= self.seed < 2**63:
            raise UserError("seed", self.seed, "is not a seed", "give a number from 0 to 2^63 - 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(
                "learning-rate", self.learning_rate, "is not positive and finite", "leave it out for the default"
            )
        if not 1 <= self.k_start < math.inf:
            raise UserError(
                "k-start", self.k_start, "is below 1 or no number", "k is annealed downwards: give 1 or more"
            )
        if self.model_dropout and self.design.kind != "crosscoder":
            raise UserError(
                "model-dropout",
                self.model_dropout,
                f"means nothing for the design {self.design.kind}",
                "use it with --design crosscoder",
            )

    @property
    def n_steps(self) -> int:
        return max(1, self.n_rows // self.batch_size)

    @property
    def top_learning_rate(self) -> float:
        return self.learning_rate or 5e-4 * math.sqrt(16384 / self.design.n_features)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        rising = (step + 1) / max(1.0, self.warmup * self.n_steps)
        falling = (self.n_steps - step) / max(1.0, self.decay * self.n_steps)
        return self.top_learning_rate * min(1.0, rising, falling)

    def k_at(self, step: int) -> float:
        """k, annealed downwards in the beginning."""
        left = max(0.0, 1.0 - step / max(1.0, self.k_anneal * self.n_steps))
        k = self.design.sparsity.k * (1.0 + (self.k_start - 1.0) * left)
        return min(k, float(self.design.n_features))


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


def train(
    out: str | Path,
    store: Store,
    settings: TrainSettings,
    *,
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Dictionary:
    """Train a dictionary on a store's spaces and write it to `out`, with its metrics and evaluation.

    With `resume` an interrupted run goes on from its newest checkpoint.

    Raises:
        UserError: settings that do not fit the store or the unfinished run.
        NumericalError: the loss is not finite; the last checkpoint, if there is one, is kept.
    """
    store = settings.view.of(store)
    training_rows, heldout_rows = split_rows(store, heldout=settings.heldout, seed=settings.seed)  # 1
    settings.design.check_spaces(store.spaces)
    _check_batch(settings, store, training_rows)
    precision = resolve_precision(settings.precision, torch.device(settings.device))
    recorded = asdict(settings) | {"precision": precision, "store": str(store.path), "n_spaces": len(store.spaces)}
    with artifact.create(
        out,
        step=STEP,
        settings=recorded,
        seed=settings.seed,
        parents=(store.path,),
        resume=resume,
        resumable=True,
        overwrite=overwrite,
        command=command,
    ) as draft:
        saved = _resume_point(draft.folder, recorded, resume=resume)
        statistics = data_statistics(store, training_rows, seed=settings.seed)
        dictionary = new_dictionary(store, settings.design, statistics, seed=settings.seed).to(settings.device)
        dictionary.precision = precision
        state = TrainingState(
            dictionary, settings.objective, statistics.variance, learning_rate=settings.top_learning_rate
        )
        first = 0
        if saved is not None:
            first, tensors = saved
            state.load_tensors(tensors)
        validation = _every_other(heldout_rows, settings.validation_rows)
        with (
            _removed_where_nothing_was_reached(draft.folder),
            Tracker(draft.folder, first_step=first, kinds=settings.track, settings=recorded) as tracker,
        ):
            _run(state, store, training_rows, validation, settings, draft.folder, first, tracker, on_progress)  # 2, 3
        state.finish_thresholds()  # 4
        _write_result(dictionary, store, heldout_rows, training_rows, draft.folder)
        remove_checkpoints(draft.folder)
        (draft.folder / SETTINGS).unlink()
    return Dictionary.load(out, device=settings.device)


@contextmanager
def _removed_where_nothing_was_reached(folder: Path) -> Iterator[None]:
    """A user's mistake leaves no unfinished folder, unless it holds a checkpoint."""
    try:
        yield
    except UserError:
        if load_checkpoint(folder) is None:
            shutil.rmtree(folder)
        raise


def _run(
    state: TrainingState,
    store: Store,
    training_rows: Tensor,
    validation: Tensor,
    settings: TrainSettings,
    folder: Path,
    first: int,
    tracker: Tracker,
    on_progress: OnProgress | None,
) -> None:
    steps = batches(
        store, training_rows, batch_size=settings.batch_size, seed=settings.seed, start=first,
        pooled=not settings.design.joint, n_steps=settings.n_steps - first,
    )  # fmt: skip
    since, since_step = time.monotonic(), first
    with closing(_closable(steps)) as stream:
        step = first
        try:
            for step, batch in enumerate(stream, start=first):
                result = state.step(
                    _to(batch, settings.device),
                    k=settings.k_at(step),
                    learning_rate=settings.learning_rate_at(step),
                    available=available_models(settings, len(store.spaces), batch.activations.shape[0], step),
                )
                done = step + 1
                if done % settings.validate_every == 0 or done == settings.n_steps:
                    rate = (done - since_step) * settings.batch_size / max(time.monotonic() - since, 1e-9)
                    progress = _measure(state, result, store, validation, settings, done, rate)
                    tracker.log(progress)
                    if on_progress is not None:
                        on_progress(progress)
                    since, since_step = time.monotonic(), done
                if done % settings.checkpoint_every == 0 and done < settings.n_steps:
                    save_checkpoint(folder, done, state.tensors())
        except KeyboardInterrupt:
            if step > first:
                _checkpoint_after_interrupt(state, folder)
            raise


def _checkpoint_after_interrupt(state: TrainingState, folder: Path) -> None:
    """Keep what was reached, unless the interrupt fell between the updates of one step."""
    counts = {int(s["step"]) for s in state.optimizer.state.values()}
    if len(counts) == 1:
        save_checkpoint(folder, counts.pop(), state.tensors())


def available_models(
    settings: TrainSettings, n_spaces: int, n_rows: int, step: int
) -> Bool[Tensor, "row space"] | None:
    """Which models each row's code may come from; None where all may. A pure function of (seed, step)."""
    universal = settings.design.kind == "universal"
    if not universal and settings.model_dropout == 0:
        return None
    # large odd constants keep (seed, step) pairs of different runs apart
    generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) * 2_654_435_761 % 2**63)
    chosen = torch.randint(n_spaces, (n_rows,), generator=generator)
    only = torch.nn.functional.one_hot(chosen, n_spaces).bool()
    if universal:
        return only.to(settings.device)
    kept = torch.rand(n_rows, n_spaces, generator=generator) >= settings.model_dropout
    return torch.where(kept.any(1, keepdim=True), kept, only).to(settings.device)


def _measure(
    state: TrainingState,
    result: StepResult,
    store: Store,
    validation: Tensor,
    settings: TrainSettings,
    done: int,
    rows_per_second: float,
) -> TrainProgress:
    terms = {name: float(value) for name, value in result.terms.items()}
    loss = sum(terms.values())
    if not math.isfinite(loss):
        problem = f"made the loss {loss} at step {done}"
        raise NumericalError("learning-rate", settings.top_learning_rate, problem, "lower it and start again")
    state.finish_thresholds()
    return TrainProgress(
        step=done,
        n_steps=settings.n_steps,
        rows=done * settings.batch_size,
        loss=loss,
        terms=terms,
        fvu=evaluate(state.dictionary, store, validation).fvu if len(validation) else [],
        training_fvu=(result.error / result.n_rows.clamp_min(1) / state.variance).tolist(),
        l0=float(result.l0),
        dead=float(state.dead.double().mean()),
        learning_rate=settings.learning_rate_at(done - 1),
        k=settings.k_at(done - 1),
        rows_per_second=rows_per_second,
    )


def _write_result(dictionary: Dictionary, store: Store, heldout: Tensor, training: Tensor, folder: Path) -> None:
    """Weights and evaluation; where nothing was held out, the evaluation says that it is of training rows."""
    rows = _every_other(heldout if len(heldout) else training, EVALUATION_ROWS)
    found = evaluate(dictionary, store, rows).to_json() | {"heldout": len(heldout) > 0}
    artifact.write_json(folder / "evaluation.json", found)
    dictionary.write(folder)


def _every_other(rows: Int[Tensor, "row"], at_most: int) -> Int[Tensor, "some"]:
    """Evenly spread rows, `at_most` of them."""
    return rows[:: max(1, -(-len(rows) // at_most))]


def _check_batch(settings: TrainSettings, store: Store, rows: Tensor) -> None:
    n_rows = len(rows) * (1 if settings.design.joint else len(store.spaces))
    if settings.batch_size > n_rows:
        problem = f"exceeds the {n_rows} training rows of {store.path}"
        raise UserError("batch-size", settings.batch_size, problem, "lower it, or collect more rows")
    if settings.n_rows < settings.batch_size:
        raise UserError(
            "rows",
            settings.n_rows,
            f"is less than one batch of {settings.batch_size}",
            "raise --rows or lower --batch-size",
        )
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError("device", settings.device, f"cannot be used ({error})", "use cpu") from None


def _resume_point(folder: Path, recorded: dict[str, Any], *, resume: bool) -> tuple[int, dict[str, Tensor]] | None:
    """Where an unfinished run of the same settings stopped; anything else unfinished here is cleared."""
    file = folder / SETTINGS
    plain = artifact.as_json(recorded)
    if resume and file.exists():
        before = artifact.read_json(file)
        changed = sorted(name for name in plain if before.get(name) != plain[name])
        if changed:
            value = {name: plain[name] for name in changed}
            raise UserError(
                "resume", value, "differs from the unfinished run", "use its settings, or start without --resume"
            )
        return load_checkpoint(folder)
    for old in folder.iterdir():  # an unfinished run that was killed before it wrote its settings
        old.unlink()
    artifact.write_json(file, plain)
    return None


def _to(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return batch
    model = None if batch.model is None else batch.model.to(device)
    return Batch(activations=batch.activations.to(device, non_blocking=True), model=model)


def _closable(stream: Iterator[Batch]) -> Any:
    """The batches are a generator, whose `close` ends the thread that reads ahead."""
    return stream
