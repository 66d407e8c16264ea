"""The stages as jobs: collect or plant a store, train dictionaries, describe features, steer them.

A job loads the language models it needs itself; those that later jobs of one process need again may be kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from suture.activations.collect import collect_with, known_beforehand
from suture.activations.settings import CollectSettings
from suture.activations.store import STAGE as STORE
from suture.activations.store import Store
from suture.activations.stream import Stream
from suture.dictionary.dictionary import STAGE as DICTIONARY
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.refit import refit
from suture.dictionary.refit_settings import RefitSettings
from suture.features.describe import features
from suture.features.settings import FeatureSettings
from suture.features.table import STAGE as FEATURES
from suture.formats.importing import import_dictionary
from suture.formats.settings import ImportSettings
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.effect import STAGE as EFFECT
from suture.interventions.steer.steer import heldout_documents, steer, texts_of
from suture.lm.load import LanguageModel
from suture.lm.models import accelerator, check_weights, load_models
from suture.lm.settings import LoadSettings
from suture.matching.match import STAGE as MATCHING
from suture.matching.match import match, recorded
from suture.matching.settings import MatchSettings
from suture.parallel import ALONE, Grid
from suture.pipeline.job import Context, Job
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.stitching.settings import StitchSettings
from suture.stitching.stitch import stitch
from suture.training.run import TrainProgress
from suture.training.settings import TrainSettings
from suture.training.start import Start
from suture.training.train import train_many


def collect_job(name: str, out: Path, settings: CollectSettings, *, keep: bool = False) -> Job:
    """Collect a store; `keep` holds on to the models for later jobs of the process."""
    return Job(
        name=name,
        stage=STORE,
        work=partial(_collect, keep=keep),
        out=out,
        settings=settings,
        results={out: known_beforehand(settings)},
        device=settings.device,
    )


def plant_job(name: str, out: Path, settings: PlantedSettings, n_rows: int) -> Job:
    """Plant a store of models whose concepts are known."""
    results = {out: {"planted": asdict(settings), "n_rows": n_rows}}
    return Job(name=name, stage=STORE, work=_plant, out=out, settings=(settings, n_rows), results=results)


def train_job(name: str, out: Path, store: Path | Job, settings: TrainSettings) -> Job:
    """Train a dictionary."""
    return train_many_job(name, out, {out: settings}, store)


def train_many_job(
    name: str,
    out: Path,
    wanted: Mapping[Path, TrainSettings],
    rows: Path | Job | Stream,
    *,
    start: Start | None = None,
    grid: Grid = ALONE,
) -> Job:
    """Train dictionaries in one pass over rows; with a stream, a start or a grid of processes, only in this process.

    `out` is what tells the job from others: the folder of the dictionaries, or the one dictionary.
    """
    begun_with = {} if start is None else {f"start {i}": path for i, path in enumerate(start.parents)}
    return Job(
        name=name,
        stage=DICTIONARY,
        work=partial(_train, stream=rows if isinstance(rows, Stream) else None, start=start, grid=grid),
        out=out,
        settings=dict(wanted),
        inputs=({} if isinstance(rows, Stream) else {"store": rows}) | begun_with,
        results={
            path: asdict(own)
            | ({"stream": rows.settings} if isinstance(rows, Stream) else {})
            | ({} if start is None else start.recorded)
            for path, own in wanted.items()
        },
        device=next(iter(wanted.values())).device,
    )


def features_job(
    name: str,
    out: Path,
    dictionary: Path | Job,
    store: Path | Job,
    settings: FeatureSettings,
    *,
    load: LoadSettings | None = None,
) -> Job:
    """Describe a dictionary's features; with `load`, how its models are loaded, the tokens that they promote too."""
    work, inputs = partial(_features, load=load), {"dictionary": dictionary, "store": store}
    return Job(name=name, stage=FEATURES, work=work, out=out, inputs=inputs, settings=settings)


def import_job(name: str, out: Path, source: str, settings: ImportSettings) -> Job:
    """Read a dictionary that another library made."""
    results = {out: {"given": asdict(settings)}}
    work = partial(_import, source=source)
    return Job(name=name, stage=DICTIONARY, work=work, out=out, settings=settings, results=results)


def match_job(
    name: str, out: Path, dictionaries: tuple[Path | Job, Path | Job], store: Path | Job, settings: MatchSettings
) -> Job:
    """Pair the features of two dictionaries."""
    one, two = dictionaries
    inputs = {"one": one, "two": two, "store": store}
    results = {out: recorded(settings)}
    return Job(name=name, stage=MATCHING, work=_match, out=out, settings=settings, inputs=inputs, results=results)


def steer_job(
    name: str,
    out: Path,
    dictionary: Path | Job,
    table: Path | Job,
    chosen: Sequence[int],
    settings: SteerSettings,
    *,
    n_neutral: int,
    n_prompts: int,
    load: LoadSettings,
) -> Job:
    """Steer features in their models, on documents that training never saw."""
    return Job(
        name=name,
        stage=EFFECT,
        work=partial(_steer, chosen=tuple(chosen), n_neutral=n_neutral, n_prompts=n_prompts, load=load),
        out=out,
        settings=settings,
        inputs={"dictionary": dictionary, "features": table},
        results={out / f"feature-{i}": {"feature": i, **asdict(settings)} for i in chosen},
    )


def refit_job(name: str, out: Path, dictionary: Path | Job, store: Path | Job, settings: RefitSettings) -> Job:
    """Fit a dictionary anew."""
    inputs = {"dictionary": dictionary, "store": store}
    results = {out: {"refit": asdict(settings)}}
    return Job(name=name, stage=DICTIONARY, work=_refit, out=out, settings=settings, inputs=inputs, results=results)


def stitch_job(
    name: str,
    out: Path,
    small: Path,
    large: Path,
    store: Path | Job,
    settings: StitchSettings,
    *,
    more: Sequence[Path] = (),
) -> Job:
    """Put into a small dictionary what larger ones have."""
    parts = {"small": small, "large": large} | {f"more {i}": path for i, path in enumerate(more)}
    results = {out: {"stitch": asdict(settings)}}
    return Job(
        name=name,
        stage=DICTIONARY,
        work=partial(_stitch, more=tuple(more)),
        out=out,
        settings=settings,
        inputs={**parts, "store": store},
        results=results,
    )


def models_behind(
    dictionary: Path, load: LoadSettings, *, device: str = "cpu", keep: bool = False
) -> list[LanguageModel]:
    """The very models that a dictionary was trained on, loaded.

    Raises:
        UserError: one cannot be had, or has other weights now.
    """
    spaces = Dictionary.load(dictionary).spaces
    lms = load_models([space.model for space in spaces], load, device=accelerator(device), keep=keep)
    check_weights(lms, [space.fingerprint for space in spaces])
    return lms


def placed(settings: TrainSettings) -> TrainSettings:
    """The settings with the device that `auto` means here."""
    return settings if settings.device != "auto" else replace(settings, device=accelerator("auto"))


def _collect(job: Job, context: Context, *, keep: bool) -> None:
    given: CollectSettings = job.settings
    device = accelerator(given.device)
    collect_with(
        job.out,
        given,
        lms=load_models(given.models.model, given.models.load, device=device, keep=True) if keep else None,
        resume=context.resume,
        overwrite=context.overwrite,
        on_progress=lambda p: context.tell("collecting rows", p.n_rows, p.n_rows_wanted, ""),
        command=context.command,
    )


def _plant(job: Job, context: Context) -> None:
    settings, n_rows = job.settings
    planted_store(job.out, settings, n_rows, overwrite=context.overwrite)


def _train(job: Job, context: Context, *, stream: Stream | None, start: Start | None, grid: Grid) -> None:
    def show(out: Path, p: TrainProgress) -> None:
        fvu = " ".join(f"{v:.3f}" for v in p.fvu or p.training_fvu)
        note = f"{p.rows_per_second:,.0f} rows/s  FVU {fvu}  L0 {p.l0:.1f}  dead {100 * p.dead:.1f} %"
        context.tell(job.name if out == job.out else f"{out.name} {job.name}", p.step, p.n_steps, note)

    train_many(
        {out: placed(own) for out, own in job.settings.items()},
        stream or Store.open(job.input("store")),
        start=start,
        grid=grid,
        on_progress=show,
        resume=context.resume,
        overwrite=context.overwrite,
        command=context.command,
    )


def _features(job: Job, context: Context, *, load: LoadSettings | None) -> None:
    features(
        job.out,
        job.input("dictionary"),
        Store.open(job.input("store")),
        job.settings,
        lms=None if load is None else models_behind(job.input("dictionary"), load, keep=True),
        on_progress=lambda what, done, total: context.tell(f"{job.name}: {what}", done, total, ""),
        overwrite=context.overwrite,
        command=context.command,
    )


def _import(job: Job, context: Context, *, source: str) -> None:
    import_dictionary(job.out, source, job.settings, overwrite=context.overwrite, command=context.command)


def _match(job: Job, context: Context) -> None:
    context.tell(job.name, 0, 1, "")
    match(
        job.out, job.input("one"), job.input("two"), job.input("store"), job.settings, overwrite=context.overwrite,
        command=context.command,
    )  # fmt: skip


def _refit(job: Job, context: Context) -> None:
    refit(
        job.out, job.input("dictionary"), job.input("store"), job.settings, overwrite=context.overwrite,
        command=context.command,
    )  # fmt: skip


def _stitch(job: Job, context: Context, *, more: Sequence[Path]) -> None:
    stitch(
        job.out,
        job.input("small"),
        job.input("large"),
        job.input("store"),
        job.settings,
        more=more,
        on_progress=lambda what: context.tell(job.name, 0, 1, what),
        overwrite=context.overwrite,
        command=context.command,
    )


def _steer(
    job: Job, context: Context, *, chosen: Sequence[int], n_neutral: int, n_prompts: int, load: LoadSettings
) -> None:
    dictionary = job.input("dictionary")
    neutral, prompts = texts_of(heldout_documents(dictionary), n_neutral=n_neutral, n_prompts=n_prompts)
    steer(
        job.out,
        dictionary,
        job.input("features"),
        chosen,
        lms=models_behind(dictionary, load, keep=True),
        prompts=prompts,
        neutral=neutral,
        settings=job.settings,
        on_progress=lambda p: context.tell(job.name, p.done, p.total, ""),
        resume=True,  # features that are done against the same others, on the same texts, stay
        overwrite=True,
        command=context.command,
    )
