"""Findings out of what was trained: from a dictionary with its feature table, or from separate dictionaries matched."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase

import torch
from jaxtyping import Float, Int
from torch import Tensor

from suture.activations.batches import sequential, split_rows
from suture.activations.store import Store
from suture.dictionary.codes import Codes, union
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import BATCH_ROWS
from suture.dictionary.rows import whole_documents
from suture.features.clusters import two_clusters
from suture.features.table import FeatureTable
from suture.labels import AMBIGUOUS, DEAD, SHARED
from suture.matching.pairs import MIN_ROWS, Matched, match
from suture.pipeline import artifact
from suture.studies.measures import Findings


def described_rows(store: Store, *, heldout: float, seed: int, at_most: int) -> Int[Tensor, "row"]:
    """Held-out rows, whole documents, the same as a feature table describes."""
    return whole_documents(store.documents, split_rows(store, heldout=heldout, seed=seed)[1], at_most)


def of_dictionary(folder: Path, table: FeatureTable, store: Store, rows: Int[Tensor, "row"]) -> Findings:
    """Of one dictionary over all models."""
    dictionary = Dictionary.load(folder)
    evaluation = artifact.read_json(folder / "evaluation.json")
    n_models, joint = dictionary.n_spaces, dictionary.design.joint
    if joint:
        active = _encoded(dictionary, store, rows, None)
        strength = torch.ones(dictionary.n_features, n_models)
    else:
        own = [_encoded(dictionary, store, rows, m) for m in range(n_models)]
        active = union(own)
        strength = torch.stack([_root_mean_square(codes) for codes in own], dim=1)
    return Findings(
        labels=table.labels,
        directions=tuple(dictionary.decoder(m) * strength[:, m, None] for m in range(n_models)),
        scales=tuple(space.scale for space in dictionary.spaces),
        active=active,
        rows=rows,
        shares=_label_shares(table, n_models),
        fvu=evaluation["fvu"],
        l0=evaluation["l0"] * (1 if joint else n_models),
        dead=evaluation["dead"],
        r2=evaluation["r2"],
        clusters=table.summary["two_clusters"],
    )


def of_separate(folders: Sequence[Path], store: Store, rows: Int[Tensor, "row"]) -> Findings:
    """Of one dictionary per model, in the store's order, with their features matched."""
    saes = [Dictionary.load(folder) for folder in folders]
    codes = [_encoded(sae, store.select((m,)), rows, None) for m, sae in enumerate(saes)]
    matched = match(codes, store.documents[rows])
    directions, counts, energy = [], [], torch.zeros(len(matched.members), dtype=torch.float64)
    for m, (sae, own) in enumerate(zip(saes, codes, strict=True)):
        row = sae.decoder(0) * _root_mean_square(own)[:, None]
        directions.append(_of_members(row, matched, m))
        counts.append(_of_members(own.counts, matched, m))
        energy += _of_members(own.sums(2) * sae.decoder(0).double().square().sum(1), matched, m)
    evaluations = [artifact.read_json(folder / "evaluation.json") for folder in folders]
    solo_counts, shares = torch.stack(counts, dim=1), _norm_shares(directions)
    labels = labels_of(matched)
    clusters = two_clusters(solo_counts, energy, torch.cat(directions, dim=1), labels)
    return Findings(
        labels=labels,
        directions=tuple(directions),
        scales=tuple(space.scale for space in store.spaces),
        active=_joined(codes, matched),
        rows=rows,
        shares=shares,
        fvu=[e["fvu"][0] for e in evaluations],
        l0=sum(e["l0"] for e in evaluations),
        dead=sum(e["dead"] * sae.n_features for e, sae in zip(evaluations, saes, strict=True))
        / sum(sae.n_features for sae in saes),
        r2=None,
        clusters=asdict(clusters),
    )


def _encoded(dictionary: Dictionary, store: Store, rows: Tensor, space: int | None) -> Codes:
    """The codes of rows: from all models together, or from one alone."""
    scales = [own.scale for own in dictionary.spaces]
    parts = [
        dictionary.encode(batch.activations) if space is None else dictionary.encode_alone(batch.activations, space)
        for _, batch in sequential(store, rows, batch_size=BATCH_ROWS, scales=scales)
    ]
    return Codes.concatenate(parts)


def _root_mean_square(codes: Codes) -> Float[Tensor, "feature"]:
    return (codes.sums(2) / codes.n_rows).sqrt().float()


def _of_members(values: Tensor, matched: Matched, model: int) -> Tensor:
    """A model's numbers or rows at the joined features; zero where the model has no part."""
    index = matched.members[:, model]
    kept = (index >= 0).view(-1, *[1] * (values.dim() - 1))
    return values[index.clamp_min(0)] * kept


def labels_of(matched: Matched) -> tuple[str, ...]:
    """A joined feature's models, `shared` if those are all; one that never fired is `dead`.

    One alone that fired on too few rows to be matched is `ambiguous`.
    """
    n_models = matched.members.shape[1]
    labels = []
    for row, fired, scored in zip(
        matched.members.tolist(), matched.fired.tolist(), matched.scored.tolist(), strict=True
    ):
        name = "".join(letter for letter, i in zip(ascii_uppercase, row, strict=False) if i >= 0)
        if fired == 0:
            labels.append(DEAD)
        elif len(name) == n_models:
            labels.append(SHARED)
        else:
            labels.append(AMBIGUOUS if len(name) == 1 and scored < MIN_ROWS else name)
    return tuple(labels)


def _joined(codes: Sequence[Codes], matched: Matched) -> Codes:
    """Codes of the joined features, active where any member is."""
    n = len(matched.members)
    parts = []
    for m, own in enumerate(codes):
        name = torch.full((own.n_features,), -1)
        has = matched.members[:, m] >= 0
        name[matched.members[has, m]] = has.nonzero()[:, 0]
        parts.append(Codes.from_pairs(own.row, name[own.feature.long()], own.value, n_rows=own.n_rows, n_features=n))
    return union(parts)


def _label_shares(table: FeatureTable, n_models: int) -> Float[Tensor, "feature model"]:
    """What a table's labels were made from."""
    kind = str(table.summary["evidence"])
    if n_models == 2:
        share = table.column(f"{kind}_share")
        return torch.stack([1 - share, share], dim=1)
    return torch.stack([table.column(f"{kind}_share_{ascii_uppercase[m]}") for m in range(n_models)], dim=1)


def _norm_shares(directions: Sequence[Tensor]) -> Float[Tensor, "feature model"]:
    norms = torch.stack([d.double().norm(dim=1) for d in directions], dim=1)
    return norms / norms.sum(dim=1, keepdim=True)
