"""Train dictionaries: the loop that hands each batch to every dictionary that learns from it.

1. Dictionaries that see the same batches (same view, batch size, order) share one pass over the rows.
2. The pass begins at the batch that the least advanced of them needs; each takes the batches it has not seen.
3. A dictionary that has taken all its steps is evaluated and written; the others go on.

What a dictionary becomes does not depend on which others are trained beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from suture.activations.batches import Batch
from suture.activations.store import Store, as_store
from suture.activations.stream import Stream
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.parallel import ALONE, Grid, local_device
from suture.training.feed import Feed, feed_key, feed_of
from suture.training.run import OnProgress, Run, TrainProgress, check_fit, is_finished, made_from, parents_of
from suture.training.settings import TrainSettings
from suture.training.start import Start


def train(
    out: str | Path,
    store: Store | Stream | str | Path,
    settings: TrainSettings | None = None,
    *,
    start: Start | None = None,
    grid: Grid = ALONE,
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> Dictionary:
    """Train a dictionary on the spaces of a store or a stream and write it to `out`, with its metrics and evaluation.

    With `start` it begins with the weights of other dictionaries (`training.start`, `stitching.joint`). With `resume`
    an interrupted run goes on from its newest checkpoint. Inside `suture.parallel.grid` all processes call this alike,
    and each passes its place.

    Raises:
        UserError: settings that do not fit the store or the unfinished run.
        NumericalError: the loss is not finite; the last checkpoint, if there is one, is kept.
        DiskSpaceError: no room for a checkpoint or the result; older checkpoints are kept.
        ArtifactError: the store vanished.
    """
    report = None if on_progress is None else lambda _, progress: on_progress(progress)
    trained = train_many(
        {out: settings or TrainSettings()},
        store,
        start=start,
        grid=grid,
        on_progress=report,
        resume=resume,
        overwrite=overwrite,
        command=command,
    )
    return trained[Path(out)]


def train_many(
    wanted: Mapping[str | Path, TrainSettings] | Mapping[Path, TrainSettings],
    store: Store | Stream | str | Path,
    *,
    start: Start | None = None,
    grid: Grid = ALONE,
    on_progress: Callable[[Path, TrainProgress], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> dict[Path, Dictionary]:
    """Train several dictionaries, those that see the same batches together; each is what it would be alone.

    Args:
        wanted: each dictionary's folder and settings. With one `data_seed` their own seeds may differ.
        store: the rows, on disk or computed while they are trained on.
        start: weights that each of them begins with in place of random ones.
        grid: this process's place among several.
        on_progress: told (folder, line of metrics).
        resume: unfinished ones go on from their newest checkpoints; finished ones of the same settings stay.
        overwrite: replace finished ones.
        command: the shell command, for the manifests.

    Raises:
        UserError: as `train`; where some settings do not fit, nothing is trained or written.
    """
    settings = {Path(out): s for out, s in wanted.items()}
    store = store if isinstance(store, Stream) else as_store(store)
    groups: dict[object, list[Path]] = {}
    for out, own in settings.items():
        groups.setdefault(feed_key(own), []).append(out)
    feeds = {key: feed_of(store, settings[outs[0]], grid) for key, outs in groups.items()}
    if isinstance(store, Stream) and len(feeds) > 1:
        fix = "give them the same data-seed, batch-size, heldout, space and null; train pooled ones by themselves"
        raise UserError("each", len(feeds), "kinds of batches cannot share a stream", fix)
    for key, outs in groups.items():
        for out in outs:
            check_fit(settings[out], feeds[key], grid)
            if start is not None and settings[out].lock:
                problem = "holds features that begin in one model alone, and these begin as others ended"
                raise UserError("lock", settings[out].lock, problem, "leave out --lock, or --start")
    with ExitStack() as opened:
        started = []
        for key, outs in groups.items():
            feed = feeds[key]
            runs = [
                opened.enter_context(
                    Run(
                        out,
                        settings[out],
                        feed,
                        made_from=made_from(feed, start),
                        parents=parents_of(feed, start),
                        start=start,
                        grid=grid,
                        resume=resume,
                        overwrite=overwrite,
                        command=command,
                        on_progress=_named(out, on_progress),
                    )
                )
                for out in outs
                if not (resume and is_finished(out, settings[out], feed, start))
            ]
            feed.keep_position_in([run.folder for run in runs])
            started.append((feed, runs))
        for feed, runs in started:
            if runs:
                _train_together(runs, feed)
    return {out: Dictionary.load(out, device=local_device(own.device)) for out, own in settings.items()}


def _named(out: Path, on_progress: Callable[[Path, TrainProgress], None] | None) -> OnProgress | None:
    return None if on_progress is None else lambda progress: on_progress(out, progress)


def _train_together(runs: Sequence[Run], feed: Feed) -> None:
    devices = {run.device for run in runs}
    try:
        for run in runs:
            if run.is_done:  # it was stopped between its last step and its end
                run.finish()
        first = min(run.done for run in runs)  # 2
        last = max(run.settings.n_steps for run in runs)
        with closing(feed.batches(first, last - first)) as stream:
            for number, batch in enumerate(stream, start=first):
                there = {device: _to(batch, device) for device in devices}
                for run in runs:
                    if run.done == number and not run.is_done:
                        run.take(there[run.device])
                        if run.is_done:
                            run.finish()  # 3
    except BaseException:
        for run in runs:
            run.keep()
        raise


def _to(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return batch
    model = None if batch.model is None else batch.model.to(device)
    return Batch(activations=batch.activations.to(device, non_blocking=True), model=model)
