"""The stage `steer`: features of a dictionary are steered in its models, and each feature's effect is one artifact.

1. Scales (99.9 % activations) come from the feature table.
2. Neutral texts and prompts are given, or cut from documents: whole ones are neutral text, others' openings prompts.
3. Each effect is saved to its own folder as soon as it is known (`steered`); a stopped run goes on after those.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from suture.activations.batches import split_rows
from suture.activations.store import Store
from suture.bridges.bridge import Bridge
from suture.dictionary.dictionary import STAGE as DICTIONARY
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.rows import order_seed
from suture.errors import ArtifactError, UserError
from suture.features.table import FeatureTable, need_table_of
from suture.interventions.edits import refuse_null
from suture.interventions.settings import SteerSettings
from suture.interventions.steer.effect import STAGE as EFFECT
from suture.interventions.steer.effect import Effect, recorded
from suture.interventions.steer.effects import checksum, partners_of, steered
from suture.interventions.steer.progress import OnProgress
from suture.lm.load import LanguageModel
from suture.lm.models import as_models
from suture.pipeline import artifact


def steer(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    table: FeatureTable | str | Path,
    chosen: Sequence[int],
    *,
    lms: Sequence[LanguageModel | str | None],
    prompts: Sequence[str],
    neutral: Sequence[str],
    settings: SteerSettings | None = None,
    bridge: Bridge | str | Path | None = None,
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> list[Effect]:
    """Steer each chosen feature in every model along its own direction, and save `out/feature-I` for each.

    Each effect is saved as soon as it is known. With `resume`, those that are there from the same inputs, settings and
    texts are kept.

    Raises:
        UserError: an unknown, dead or repeated feature, models that are not the dictionary's, too few prompts.
        ArtifactError: an input cannot be read, or an output is taken.
    """
    settings = settings or SteerSettings()
    out_of = {feature: Path(out) / f"feature-{feature}" for feature in chosen}
    if len(out_of) < len(chosen):
        raise UserError("feature", list(chosen), "names one twice", "give each feature once")
    dictionary_path, features_path = Dictionary.folder_of(dictionary), artifact.folder_of(table, setting="table")
    dictionary, table = Dictionary.load(dictionary_path), FeatureTable.load(features_path)
    need_table_of(dictionary_path, features_path, table, dictionary)
    refuse_null(dictionary, dictionary_path)
    scales = table.columns["q999"].float()
    parents = [dictionary_path, features_path]
    if bridge is not None:
        parents.append(artifact.folder_of(bridge, setting="bridge"))
        bridge = Bridge.load(parents[-1])

    partners, texts = partners_of(chosen, scales, settings), checksum(prompts, neutral)
    models = [space.label for space, lm in zip(dictionary.spaces, lms, strict=False) if lm is not None]

    def is_made(feature: int) -> bool:
        scale = float(scales[feature]) if 0 <= feature < len(scales) else 0.0
        wanted = recorded(feature, scale, settings, texts, partners[feature], models)
        return resume and artifact.is_made(out_of[feature], stage=EFFECT, settings=wanted, parents=parents)

    finished = [feature for feature in chosen if is_made(feature)]
    for feature, folder in out_of.items():  # found out now, not after minutes of steering
        if folder.exists() and not overwrite and feature not in finished:
            problem = "is of other settings, inputs or texts" if resume else "is there already"
            raise ArtifactError("out", folder, problem, "name another folder, or pass --overwrite")
    found = {feature: Effect.load(out_of[feature]) for feature in finished}
    if len(finished) == len(chosen):
        return [found[feature] for feature in chosen]
    for effect in steered(
        dictionary,
        as_models(lms),
        chosen,
        scales=scales,
        neutral=neutral,
        prompts=prompts,
        settings=settings,
        bridge=bridge,
        finished=finished,
        on_progress=on_progress,
    ):
        folder = out_of[effect.feature]
        effect.save(folder, parents=tuple(parents), overwrite=overwrite, command=command)
        found[effect.feature] = replace(effect, path=folder)
    return [found[feature] for feature in chosen]


def heldout_documents(dictionary: Dictionary | str | Path) -> Iterator[str]:
    """The documents of the dictionary's own store that its training never saw.

    Raises:
        UserError: the store is not there any more, or is another one.
    """
    made = artifact.open_artifact(Dictionary.folder_of(dictionary), stage=DICTIONARY, setting="dictionary")
    training = made.settings
    if "store" not in training or "heldout" not in training:
        problem = "the dictionary was not trained here, so that none of its documents are known"
        raise UserError("corpus", "none", problem, "name neutral text with --corpus")
    if not artifact.is_made_from(made, training["store"]):
        problem = f"the dictionary's own store is not at {training['store']} any more"
        raise UserError("corpus", "none", problem, "name neutral text with --corpus")
    store = Store.open(training["store"])
    _, heldout = split_rows(store, heldout=training["heldout"], seed=order_seed(training))
    for document in store.documents[heldout].unique().tolist():
        yield store.text(document)


def texts_of(
    documents: Iterable[str], *, n_neutral: int, n_prompts: int, prompt_words: int = 8
) -> tuple[list[str], list[str]]:
    """(neutral texts, prompts): whole documents, and the first words of others, so that none serves as both.

    Raises:
        UserError: too few documents.
    """
    taken = list(islice(documents, n_neutral + n_prompts))
    n_neutral = min(n_neutral, max(1, len(taken) // 2)) if n_prompts else n_neutral
    neutral, prompts = taken[:n_neutral], list(_openings(taken[n_neutral:], prompt_words))
    if not neutral or (n_prompts and len(prompts) < 2):
        raise UserError("corpus", f"{len(taken)} documents", "are too few to steer on", "name more text with --corpus")
    return neutral, prompts


def _openings(documents: Sequence[str], n_words: int) -> Iterator[str]:
    for text in documents:
        words = text.split()
        if len(words) > n_words:
            yield " ".join(words[:n_words])
