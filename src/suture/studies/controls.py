"""What stands beside a matching or compared layers, made when asked for: second seeds, a model of random weights.

1. A second seed: the same training on the same rows, from other weights.
2. Random weights: the entries of every weight matrix of the second model dealt out anew within it, so that sizes and
   scales stay and what was learned is gone. The documents of the store go through it, a dictionary is trained on what
   comes out as the second dictionary was, and the first is matched with that. What such a model shares is the token.

They are jobs, lie beside the result in NAME-controls, and are made once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from suture import seeds
from suture.activations.collect import collect
from suture.activations.store import STAGE as STORE
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Dictionary
from suture.errors import UserError
from suture.lm.corpus import Corpus
from suture.lm.load import LanguageModel
from suture.matching.layers import Layers, layers
from suture.matching.match import Matching, match
from suture.matching.settings import FamilySettings, LayerSettings, MatchSettings
from suture.matching.universality import Universality, universality
from suture.parallel import ALONE, Ranks
from suture.pipeline import artifact
from suture.pipeline.job import Context, Job, Tell, silent
from suture.pipeline.settings import from_mapping
from suture.sweep.run import make
from suture.sweep.stages import train_job
from suture.training.settings import TrainSettings


def match_with_controls(
    out: str | Path,
    dictionary_a: Dictionary | str | Path,
    dictionary_b: Dictionary | str | Path,
    store: Store | str | Path,
    settings: MatchSettings | None = None,
    *,
    twins: tuple[Dictionary | str | Path | None, Dictionary | str | Path | None] = (None, None),
    second_seeds: bool = False,
    random_weights: Sequence[LanguageModel] | None = None,
    tell: Tell = silent,
    overwrite: bool = False,
    command: str | None = None,
    ranks: Ranks = ALONE.world,
) -> Matching:
    """`match`, with the controls asked for made first.

    Args:
        out: the folder to be made.
        dictionary_a: as in `match`.
        dictionary_b: as in `match`.
        store: as in `match`.
        settings: as in `match`.
        twins: second seeds that are there already.
        second_seeds: train those that are not.
        random_weights: the models of the store's spaces, in order, if a model with random weights is wanted.
        tell: told (what, done, total, note).
        overwrite: replace `out`.
        command: the shell command to be recorded.
        ranks: the processes that share the matching; controls are made by one.

    Raises:
        UserError: as `match`; a dictionary that was not trained on this store, and so cannot be trained again on it;
            a control that is there and is another dictionary's; controls to be made by several processes.
    """
    if ranks.size > 1 and (second_seeds or random_weights is not None):
        setting, fix = ("second-seeds", "make them first, with one process, and match again with several")
        raise UserError(setting if second_seeds else "random-weights", ranks.size, "processes cannot make it", fix)
    store = as_store(store)
    beside = Path(out).with_name(f"{Path(out).name}-controls")
    given = [Dictionary.folder_of(dictionary) for dictionary in (dictionary_a, dictionary_b)]
    jobs: list[Job] = []
    if second_seeds:
        named = zip(("seed-a", "seed-b"), given, twins, strict=True)
        seconds = [second_seed_job(beside / name, path, store) for name, path, twin in named if twin is None]
        jobs += seconds
        made = iter(seconds)
        twins = (twins[0] or next(made).out, twins[1] or next(made).out)
    random = None
    if random_weights is not None:
        collected, trained = random_jobs(beside, given[1], store, random_weights)
        jobs += [collected, trained]
        random = trained.out, collected.out
    make(jobs, Context(tell=tell, command=command))
    tell("matching", 0, 1, "")
    return match(
        out,
        given[0],
        given[1],
        store,
        settings,
        twins=twins,
        random=random,
        overwrite=overwrite,
        command=command,
        ranks=ranks,
    )


def universality_with_controls(
    out: str | Path,
    dictionaries: Sequence[Dictionary | str | Path],
    store: Store | str | Path,
    settings: FamilySettings | None = None,
    *,
    second_seeds: bool = False,
    random_weights: Sequence[LanguageModel] | None = None,
    tell: Tell = silent,
    overwrite: bool = False,
    command: str | None = None,
) -> Universality:
    """`universality`, with the controls asked for made first: a second seed of each dictionary, and the last one's
    model with random weights.

    Args:
        out: the folder to be made.
        dictionaries: as in `universality`.
        store: as in `universality`.
        settings: as in `universality`.
        second_seeds: train one of each.
        random_weights: the models of the store's spaces, in order, if a model with random weights is wanted.
        tell: told (what, done, total, note).
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: as `universality`; a dictionary that was not trained on this store.
    """
    store = as_store(store)
    beside = Path(out).with_name(f"{Path(out).name}-controls")
    given = [Dictionary.folder_of(dictionary) for dictionary in dictionaries]
    seconds = [second_seed_job(beside / f"seed-{i}", path, store) for i, path in enumerate(given) if second_seeds]
    jobs, random = list(seconds), None
    if random_weights is not None and given:
        collected, trained = random_jobs(beside, given[-1], store, random_weights)
        jobs += [collected, trained]
        random = trained.out, collected.out
    make(jobs, Context(tell=tell, command=command))
    tell("finding families", 0, 1, "")
    return universality(
        out,
        given,
        store,
        settings,
        twins=[job.out for job in seconds],
        random=random,
        overwrite=overwrite,
        command=command,
    )


def second_seed_job(out: Path, dictionary: Path, store: Store) -> Job:
    """1."""
    settings = _settings_of(dictionary, store)
    again = replace(settings, seed=settings.seed + 1, data_seed=settings.order_seed)
    return train_job(f"second seed of {dictionary}", out, store.path, again)


def random_jobs(beside: Path, dictionary: Path, store: Store, lms: Sequence[LanguageModel]) -> tuple[Job, Job]:
    """2: what collects the store of random weights, and what trains on it.

    Raises:
        UserError: not one model for each space of the store.
    """
    settings = _settings_of(dictionary, store)
    own = {(s.model, s.hookpoint) for s in Dictionary.load(dictionary).spaces}
    is_random = [(space.model, space.hookpoint) in own for space in store.spaces]
    collected = random_store_job(
        beside / "random-store", store, lms, is_random, seed=settings.seed, name=f"random weights for {dictionary}"
    )
    return collected, train_job(f"random weights for {dictionary}: training", beside / "random", collected, settings)


def random_store_job(
    out: Path, store: Store, lms: Sequence[LanguageModel], is_random: Sequence[bool], *, seed: int, name: str
) -> Job:
    """The store again, of the same documents, with random weights behind some of its spaces. The job holds the models,
    so that it runs in this process.

    Raises:
        UserError: not one model for each space of the store.
    """
    if len(lms) != len(store.spaces):
        raise UserError("model", len(lms), f"the store has {len(store.spaces)} spaces", "give the model of each")
    fingerprints = [
        _random_fingerprint(lm, seed) if random else lm.fingerprint for lm, random in zip(lms, is_random, strict=True)
    ]
    text = {name: store.manifest.settings[name] for name in ("block", "dtype") if name in store.manifest.settings}
    corpus = _documents(store)
    made_with = {
        "spaces": [
            {"hookpoint": space.hookpoint, "fingerprint": fingerprint}
            for space, fingerprint in zip(store.spaces, fingerprints, strict=True)
        ],
        "corpus_description": corpus.description,
        "n_rows_wanted": len(store),
        **text,
    }

    def work(job: Job, context: Context) -> None:
        known: dict[str, LanguageModel] = {}
        sources = []
        for lm, space, random in zip(lms, store.spaces, is_random, strict=True):
            if random and lm.name not in known:
                known[lm.name] = with_random_weights(lm, seed=seed)
            sources.append((known[lm.name] if random else lm, space.hookpoint))
        collect(
            job.out,
            sources=sources,
            corpus=corpus,
            n_rows=len(store),
            resume=context.resume,
            on_progress=lambda p: context.tell(job.name, p.n_rows, p.n_rows_wanted, ""),
            command=context.command,
            **text,
        )

    return Job(name=name, stage=STORE, work=work, out=out, settings=None, results={out: made_with})


def layers_with_controls(
    out: str | Path,
    store: Store | str | Path,
    settings: LayerSettings | None = None,
    *,
    random_weights: Sequence[LanguageModel] | None = None,
    tell: Tell = silent,
    overwrite: bool = False,
    command: str | None = None,
) -> Layers:
    """`layers`, with a store of random weights in the second model made first where its models are given.

    Args:
        out: the folder to be made.
        store: as in `layers`.
        settings: as in `layers`.
        random_weights: the models of the store's spaces, in order.
        tell: told (what, done, total, note).
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: as `layers`.
    """
    store = as_store(store)
    random = None
    if random_weights is not None:
        beside = Path(out).with_name(f"{Path(out).name}-controls") / "random-store"
        first = store.spaces[(settings or LayerSettings()).space[0] if settings and settings.space else 0].model
        is_random = [space.model != first for space in store.spaces]
        job = random_store_job(beside, store, random_weights, is_random, seed=0, name="random weights")
        make([job], Context(tell=tell, command=command))
        random = beside
    return layers(out, store, settings, random=random, tell=tell, overwrite=overwrite, command=command)


def with_random_weights(lm: LanguageModel, *, seed: int) -> LanguageModel:
    """The model with the entries of every matrix dealt out anew; vectors (biases, norms) stay."""
    model = copy.deepcopy(lm.model)
    generator = seeds.generator("random weights", seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return replace(lm, model=model, name=f"{lm.name} (random weights)", fingerprint=_random_fingerprint(lm, seed))


def _random_fingerprint(lm: LanguageModel, seed: int) -> str:
    return f"{lm.fingerprint}-random-{seed}"


def _settings_of(dictionary: Path, store: Store) -> TrainSettings:
    """How a dictionary was trained."""
    manifest = artifact.open_artifact(dictionary)
    if not artifact.is_made_from(manifest, store.path):
        problem = f"was not trained on {store.path}, and cannot be trained again on it"
        raise UserError("dictionary", dictionary, problem, "leave the controls out, or give its own store")
    return from_mapping(TrainSettings, _known(manifest.settings))


def _known(recorded: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(TrainSettings)}
    return {name: value for name, value in recorded.items() if name in names}


def _documents(store: Store) -> Corpus:
    """The text that the store's rows come from."""
    numbers = store.documents.unique().tolist()

    def texts() -> Iterator[str]:
        return (store.text(number) for number in numbers)

    checksum = artifact.sha256_of(store.path / artifact.MANIFEST)  # however its path is written, it is this store
    return Corpus(source="the documents of a store", description=f"store {checksum}", texts=texts)
