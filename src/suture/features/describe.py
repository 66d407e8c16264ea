"""The stage `features`: a dictionary and a store become a feature table, labels and all, as one artifact.

1. Find the dictionary's spaces in the store, and the documents to judge it by: of the whole store, each half of them by
   what the other half fitted, or only those that training left out.
2. One pass over them (`stats`).
3. Labels (`classify`), two-clusters numbers, examples with text, what a feature's page draws (`details`), promoted
   tokens where the models are at hand.
4. Where one space is a copy of another, this is a null: its share of exclusive labels is the false-positive rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from suture.activations.batches import split_rows
from suture.activations.settings import View
from suture.activations.space import are_null
from suture.activations.store import Store, as_store
from suture.activations.view import seen
from suture.dictionary.dictionary import EVALUATION, Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.rows import matching_view, order_seed, whole_documents
from suture.errors import UserError
from suture.features.classify import Labels, classify
from suture.features.clusters import two_clusters
from suture.features.columns import Evidence, measured
from suture.features.details import details
from suture.features.examples import Elsewhere, examples, passages, search_store
from suture.features.promoted import Side, opened_first, promoted
from suture.features.settings import FeatureSettings
from suture.features.stats import FeatureStats, describe
from suture.features.table import STAGE, FeatureTable, LeftOut
from suture.lm.load import LanguageModel
from suture.lm.models import as_models
from suture.parallel import ALONE, Ranks
from suture.pipeline import artifact

OnProgress = Callable[[str, int, int], None]
"""Gets (phase, rows done, rows in all)."""
N_TEXTS = 32
"""Documents at whose positions promoted tokens are found."""


def features(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    store: Store | str | Path,
    settings: FeatureSettings | None = None,
    *,
    lms: Sequence[LanguageModel | str] | None = None,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
    command: str | None = None,
    ranks: Ranks = ALONE.world,
) -> FeatureTable:
    """Describe and label a dictionary's features on a store's rows, and write the table to `out`.

    `lms`, loaded or by name, in the order of the dictionary's spaces, adds the tokens that each direction promotes.
    Several `ranks` share the rows, all with the same folder; the leader alone needs `lms`.

    Raises:
        UserError: the store has not the dictionary's spaces, or no held-out rows.
        ArtifactError: the dictionary cannot be read, or `out` is taken.
    """
    settings, store = settings or FeatureSettings(), as_store(store)
    dictionary_path = Dictionary.folder_of(dictionary)
    dictionary = Dictionary.load(dictionary_path, precision="auto")
    made = artifact.open_artifact(dictionary_path)
    training = made.settings
    view = matching_view(dictionary, seen(store, View.from_json(training.get("view"))))  # 1
    rows, discovery = chosen_rows(view, training, settings.n_rows, crossed=settings.crossed)
    null = are_null(view.spaces)
    recorded: dict[str, Any] = asdict(settings) | {"store": str(store.path), "view": view.view, "null": null}
    with artifact.create(
        out,
        stage=STAGE,
        settings=recorded,
        seed=settings.labels.seed,
        parents=(dictionary_path, store.path),
        overwrite=overwrite,
        command=command,
        leads=ranks.leads,
    ) as draft:
        stats = describe(
            dictionary,
            view,
            rows,
            discovery_rows=discovery,
            settings=settings.stats,
            on_progress=on_progress,
            ranks=ranks,
        )  # 2
        elsewhere = search_store(dictionary, view, settings.choice, stats, on_progress, ranks)
        if ranks.leads:
            labels = classify(stats, settings.labels)  # 3
            shown = _shown(stats, labels, elsewhere, view, dictionary, settings)
            table = replace(
                shown,
                logits=_promoted(dictionary, as_models(lms), view, stats, labels, settings) if lms is not None else [],
                summary=_evaluation(dictionary_path, made, dictionary, view, settings.n_rows)
                | _summary(dictionary, stats, labels, discovery=discovery, null=null)
                | {"examples": asdict(_left_out(stats, settings, elsewhere))},
            )
            table.write(draft.folder)
    ranks.wait()
    return FeatureTable.load(out)


def _shown(
    stats: FeatureStats,
    labels: Labels,
    elsewhere: Elsewhere | None,
    view: Store,
    dictionary: Dictionary,
    settings: FeatureSettings,
) -> FeatureTable:
    """The table without what needs the models."""
    specs, columns = measured(Evidence(stats=stats, labels=labels, dictionary=dictionary))
    shown = examples(
        stats, view, settings.context, choice=settings.choice, elsewhere=elsewhere, seed=settings.labels.seed
    )
    return FeatureTable(
        models=stats.models,
        labels=labels.label,
        reasons=labels.reason,
        columns=columns,
        specs=specs,
        examples=shown,
        passages=passages(shown, view, settings.context),
        details=details(dictionary, stats),
        logits=[],
        summary={},
    )


def chosen_rows(
    store: Store, training: Mapping[str, Any], n_rows: int, *, crossed: bool
) -> tuple[Int[Tensor, "judged"], Int[Tensor, "discovery"] | None]:
    """The rows to judge a dictionary by, at most `n_rows`, whole documents; and those that fit what judges them.

    `crossed`: of the whole store, the halves fitting for each other (None). Otherwise held-out rows and about as many
    training rows, split as in training.

    Raises:
        UserError: training kept nothing back.
    """
    if crossed:
        return whole_documents(store.documents, torch.arange(len(store)), n_rows), None
    heldout_share = float(training.get("heldout", 0.1))
    if heldout_share == 0:
        raise UserError("heldout", 0, "leaves no rows to describe features on", "train with a heldout share above 0")
    train, heldout = split_rows(store, heldout=heldout_share, seed=order_seed(training))
    kept = whole_documents(store.documents, heldout, n_rows)
    return kept, whole_documents(store.documents, train, max(len(kept), 1))


def _left_out(stats: FeatureStats, settings: FeatureSettings, elsewhere: Elsewhere | None) -> LeftOut:
    """What the strongest examples leave out, in numbers."""
    stronger = elsewhere.besides(stats)[0].unique() if elsewhere is not None else []
    return LeftOut(
        n_per_document=settings.stats.n_per_document,
        n_rows_described=stats.n_rows,
        n_rows_searched=elsewhere.n_rows if elsewhere is not None else 0,
        n_features_stronger_elsewhere=len(stronger),
    )


def _promoted(
    dictionary: Dictionary,
    lms: Sequence[LanguageModel],
    store: Store,
    stats: FeatureStats,
    labels: Labels,
    settings: FeatureSettings,
) -> list[list[Side]]:
    """The tokens that features promote, at positions of documents described."""
    documents = store.documents[stats.rows].unique()[:N_TEXTS].tolist()
    return promoted(
        dictionary,
        lms,
        [store.text(document) for document in documents],
        scales=stats.firing.quantiles[:, -1],
        first=opened_first(labels.label, stats.energy, settings.n_run),
        n_top=settings.n_promoted,
    )


def _evaluation(
    path: Path, made: artifact.Manifest, dictionary: Dictionary, store: Store, n_rows: int
) -> dict[str, Any]:
    """What training measured on this very store, or a fresh evaluation on another."""
    file = path / EVALUATION
    if file.exists() and artifact.is_made_from(made, store.path):
        return dict(artifact.read_json(file))
    training = made.settings
    share = float(training.get("heldout", 0.1))
    rows = split_rows(store, heldout=share, seed=order_seed(training))[1] if share else torch.arange(len(store))
    return evaluate(dictionary, store, whole_documents(store.documents, rows, n_rows)).to_json()


def _summary(
    dictionary: Dictionary, stats: FeatureStats, labels: Labels, *, discovery: Tensor | None, null: bool
) -> dict[str, Any]:
    clusters = two_clusters(stats.solo_counts, stats.energy, dictionary.W_dec.detach(), labels.label)
    summary: dict[str, Any] = {
        "design": dictionary.design.kind,
        "models": list(stats.models),
        "n_features": stats.n_features,
        "counts": labels.counts,
        "evidence": stats.shares.kind,
        "two_clusters": asdict(clusters),
        "n_rows": stats.n_rows,
        "n_documents": stats.n_documents,
        "n_groups": stats.shares.weight.shape[0],
        "crossed": discovery is None,
        "n_discovery_rows": stats.n_rows if discovery is None else len(discovery),
        "null": null,
    }
    if null:  # 4
        summary["false_positive_rate"] = labels.exclusive_rate
    return summary
