"""The stages as jobs: collect a store, train a dictionary, describe its features."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from suture.activations.collect import collect_with
from suture.activations.settings import CollectSettings
from suture.activations.store import STAGE as STORE
from suture.activations.store import Store
from suture.dictionary.dictionary import STAGE as DICTIONARY
from suture.features.describe import features
from suture.features.settings import FeatureSettings
from suture.features.table import STAGE as FEATURES
from suture.lm.load import fingerprint_of
from suture.pipeline.job import Context, Job
from suture.training.run import TrainProgress
from suture.training.settings import TrainSettings
from suture.training.train import train


def collect_job(name: str, out: Path, settings: CollectSettings) -> Job:
    """Collect a store."""
    return Job(name=name, stage=STORE, work=_collect, out=out, settings=settings, recorded=_recorded(settings))


def train_job(name: str, out: Path, store: Path | Job, settings: TrainSettings) -> Job:
    """Train a dictionary."""
    return Job(name=name, stage=DICTIONARY, work=_train, out=out, inputs={"store": store}, settings=settings)


def features_job(name: str, out: Path, dictionary: Path | Job, store: Path | Job, settings: FeatureSettings) -> Job:
    """Describe a dictionary's features, without the tokens that they promote: no language model is loaded."""
    inputs = {"dictionary": dictionary, "store": store}
    return Job(name=name, stage=FEATURES, work=_features, out=out, inputs=inputs, settings=settings)


def _collect(job: Job, context: Context) -> None:
    collect_with(
        job.out,
        job.settings,
        resume=context.resume,
        overwrite=context.overwrite,
        on_progress=lambda p: context.tell("collecting rows", p.n_rows, p.n_rows_wanted, ""),
        command=context.command,
    )


def _train(job: Job, context: Context) -> None:
    def show(p: TrainProgress) -> None:
        fvu = " ".join(f"{v:.3f}" for v in p.fvu or p.training_fvu)
        context.tell(job.name, p.step, p.n_steps, f"FVU {fvu}  L0 {p.l0:.1f}")

    train(
        job.out,
        Store.open(job.input("store")),
        job.settings,
        on_progress=show,
        resume=context.resume,
        overwrite=context.overwrite,
        command=context.command,
    )


def _features(job: Job, context: Context) -> None:
    features(
        job.out,
        job.input("dictionary"),
        Store.open(job.input("store")),
        job.settings,
        on_progress=lambda what, done, total: context.tell(f"{job.name}: {what}", done, total, ""),
        overwrite=context.overwrite,
        command=context.command,
    )


def _recorded(settings: CollectSettings) -> Mapping[str, Any]:
    """What a store's manifest will hold, so far as it is known before the models are loaded."""
    models, spaces = settings.models, []
    for model, at, revision in zip(models.model, models.hookpoints, models.revisions, strict=True):
        space: dict[str, Any] = {"model": model, "hookpoint": at, "revision": revision}
        if (known := _fingerprint(model)) is not None:
            space["fingerprint"] = known
        spaces.append(space)
    return {
        "spaces": spaces,
        "corpus": settings.text.corpus,
        "n_rows_wanted": settings.tokens,
        "block": settings.block,
        "dtype": settings.dtype,
        "shard_rows": settings.shard_rows,
    }


@cache
def _fingerprint(model: str) -> str | None:
    return fingerprint_of(model)
