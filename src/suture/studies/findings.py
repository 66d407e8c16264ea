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
from suture.dictionary.dictionary import Codes, Dictionary
from suture.dictionary.evaluate import BATCH_ROWS
from suture.features.clusters import two_clusters
from suture.features.describe import whole_documents
from suture.features.nonzeros import Nonzeros, union
from suture.features.table import FeatureTable
from suture.pipeline import artifact
from suture.studies.measures import Findings
from suture.studies.separate import Matched, match


def described_rows(store: Store, *, heldout: float, seed: int, at_most: int) -> Int[Tensor, "row"]:
    """Held-out rows, whole documents, the same as a feature table describes."""
    return whole_documents(store.documents, split_rows(store, heldout=heldout, seed=seed)[1], at_most)


def of_dictionary(folder: Path, table: FeatureTable, store: Store, rows: Int[Tensor, "row"]) -> Findings:
    """Of one dictionary over all models."""
    dictionary = Dictionary.load(folder)
    evaluation = artifact.read_json(folder / "evaluation.json")
    n_models, joint = dictionary.n_spaces, dictionary.design.joint
    if joint:
        active = _nonzeros(dictionary, store, rows, None)
        strength = torch.ones(dictionary.n_features, n_models)
    else:
        own = [_nonzeros(dictionary, store, rows, m) for m in range(n_models)]
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
    codes = [_nonzeros(sae, store.select((m,)), rows, None) for m, sae in enumerate(saes)]
    matched = match(codes, store.documents[rows])
    directions, counts, energy = [], [], torch.zeros(len(matched.members), dtype=torch.float64)
    for m, (sae, own) in enumerate(zip(saes, codes, strict=True)):
        row = sae.decoder(0) * _root_mean_square(own)[:, None]
        directions.append(_of_members(row, matched, m))
        counts.append(_of_members(own.counts, matched, m))
        energy += _of_members(own.sums(2) * sae.decoder(0).double().square().sum(1), matched, m)
    evaluations = [artifact.read_json(folder / "evaluation.json") for folder in folders]
    solo_counts, shares = torch.stack(counts, dim=1), _norm_shares(directions)
    clusters = two_clusters(solo_counts, energy, torch.cat(directions, dim=1), matched.labels)
    return Findings(
        labels=matched.labels,
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


def _nonzeros(dictionary: Dictionary, store: Store, rows: Tensor, space: int | None) -> Nonzeros:
    """The codes of rows: from all models together, or from one alone."""
    parts: list[tuple[Tensor, Codes]] = []
    first = 0
    for _, batch in sequential(store, rows, batch_size=BATCH_ROWS):
        x = batch.activations
        parts.append(
            (torch.tensor(first), dictionary.encode(x) if space is None else dictionary.encode_alone(x, space))
        )
        first += len(x)
    return Nonzeros.from_pairs(
        torch.cat([start + codes.row.long() for start, codes in parts]),
        torch.cat([codes.feature for _, codes in parts]),
        torch.cat([codes.value for _, codes in parts]),
        n_rows=len(rows),
        n_features=dictionary.n_features,
    )


def _root_mean_square(codes: Nonzeros) -> Float[Tensor, "feature"]:
    return (codes.sums(2) / codes.n_rows).sqrt().float()


def _of_members(values: Tensor, matched: Matched, model: int) -> Tensor:
    """A model's numbers or rows at the joined features; zero where the model has no part."""
    index = matched.members[:, model]
    kept = (index >= 0).view(-1, *[1] * (values.dim() - 1))
    return values[index.clamp_min(0)] * kept


def _joined(codes: Sequence[Nonzeros], matched: Matched) -> Nonzeros:
    """Codes of the joined features, active where any member is."""
    n = len(matched.members)
    parts = []
    for m, own in enumerate(codes):
        name = torch.full((own.n_features,), -1)
        has = matched.members[:, m] >= 0
        name[matched.members[has, m]] = has.nonzero()[:, 0]
        parts.append(Nonzeros.from_pairs(own.position, name[own.feature], own.value, n_rows=own.n_rows, n_features=n))
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
