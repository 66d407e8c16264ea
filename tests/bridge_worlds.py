"""Pairs of spaces whose relation is known, as stores: planted concepts, and rows made by a function."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from suture.activations.shards import Rows, ShardWriter, write_index
from suture.activations.space import Space
from suture.activations.store import STAGE, Alignment, Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.pipeline import artifact
from suture.planted.generator import PlantedModels
from suture.planted.settings import PlantedSettings

N = 30
ROTATION = PlantedSettings(
    widths=(40, 40), n_concepts=N, exclusive=0.0, mean_active=2.5, noise=(0.0,), rows_per_document=20, seed=3
)
WIDER = replace(ROTATION, widths=(40, 56), embedding="rotation", seed=4)
AFFINE = replace(ROTATION, embedding="affine", noise=(0.02,), seed=5)
SOME_ALONE = replace(ROTATION, exclusive=0.2, noise=(0.05,), seed=6)


def store_of(path: Path, activations: Sequence[Tensor], rows_per_document: int = 20) -> Store:
    """Rows of any activations, in documents of equal length."""
    n = len(activations[0])
    spaces = [Space(model=f"made-{chr(65 + m)}", hookpoint="rows", width=x.shape[1]) for m, x in enumerate(activations)]
    row = torch.arange(n)
    documents = (row // rows_per_document).to(torch.int32)
    rows = Rows(
        activations=list(activations),
        documents=documents,
        ends=(row % rows_per_document + 1).to(torch.int32),
        token_ids=torch.zeros(n, len(spaces), dtype=torch.int32),
        texts={int(d): "x" * rows_per_document for d in documents.unique()},
    )
    with artifact.create(path, stage=STAGE, settings={"made": n}) as draft:
        writer = ShardWriter(draft.folder, spaces=spaces, dtype="float32", shard_rows=65536)
        writer.append(rows, state={})
        writer.finish({})
        write_index(writer, [Alignment(n_tokens=n, n_kept=n, n_special=0)] * len(spaces))
    return Store.open(path)


def mapped_rows(path: Path, function: Callable[[Tensor], Tensor], *, n: int = 6000, width: int = 12) -> Store:
    """Gaussian rows, and what a function makes of them."""
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    return store_of(path, [x, function(x)])


def concepts(
    path: Path,
    store: Store,
    planted: PlantedModels,
    space: int,
    chosen: Sequence[int],
    *,
    kind: str = "batchtopk",
    seed: int = 0,
) -> Path:
    """A dictionary of a space whose features are planted concepts, each read by its own dual direction."""
    (own,) = [replace(store.spaces[space], mean=None)]
    sparsity = Sparsity(kind=kind, k=3)  # pyright: ignore[reportArgumentType]
    dictionary = Dictionary([own], Design(kind="sae", n_features=len(chosen), sparsity=sparsity))
    rows = planted.directions(space)
    there = rows.norm(dim=1) > 0
    dual = torch.zeros_like(rows)
    dual[there] = torch.linalg.pinv(rows[there] * own.scale).T
    mean = store.spaces[space].known_mean * own.scale
    of = torch.as_tensor(chosen)
    dictionary.W_enc.data.copy_(dual[of])
    dictionary.W_dec.data.copy_(rows[of] * own.scale)
    dictionary.b_enc.data.copy_(dual[of] @ mean)
    dictionary.center.copy_(mean)
    threshold = 0.5
    if kind in ("relu+l1", "gated"):
        dictionary.b_enc.data -= threshold
    else:
        dictionary.threshold.fill_(threshold)
    if kind == "gated":
        dictionary.own_weights["magnitude_bias"].data.copy_(dictionary.b_enc.data + threshold)
    with artifact.create(
        path, stage="dictionary", settings={"heldout": 0.3, "seed": seed}, parents=(store.path,)
    ) as draft:
        dictionary.write(draft.folder)
    return path
