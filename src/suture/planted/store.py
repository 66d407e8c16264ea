"""Planted activations as a store on disk, so that every later step can be run on rows whose truth is known.

1. Rows are made a piece of whole documents at a time and appended: never all of them in memory.
2. A row's token is the concept that fires most strongly there (" c017", " c---" where none fires), so that a report's
   examples show the truth; every token has the same length, which gives the offsets.
"""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from suture.activations.shards import Rows, ShardWriter, write_index
from suture.activations.space import Copy, Space
from suture.activations.store import STAGE, Alignment, Precision, Store
from suture.errors import UserError
from suture.pipeline import artifact
from suture.planted.generator import BLOCK, PlantedModels, PlantedRows
from suture.planted.settings import PlantedSettings

HOOKPOINT = "planted"


def planted_store(
    path: str | Path,
    settings: PlantedSettings,
    n_rows: int,
    *,
    start: int = 0,
    dtype: Precision = "float32",
    shard_rows: int = 65536,
    overwrite: bool = False,
) -> Store:
    """Write rows start, .., start + n_rows - 1 of the planted models as a store; row r of it is row start + r.

    Raises:
        UserError: no rows asked for.
        ArtifactError: `path` is taken and `overwrite` is off.
    """
    if n_rows < 1:
        raise UserError("n_rows", n_rows, "is not a number of rows", "ask for at least 1")
    models = PlantedModels(settings)
    made = {"planted": asdict(settings), "start": start, "n_rows": n_rows, "dtype": dtype}
    per_document = settings.rows_per_document
    piece = per_document * max(8 * BLOCK // per_document, 1)
    with artifact.create(path, stage=STAGE, settings=made, seed=settings.seed, overwrite=overwrite) as draft:
        writer = ShardWriter(draft.folder, spaces=planted_spaces(settings), dtype=dtype, shard_rows=shard_rows)
        for first in range(0, n_rows, piece):  # 1
            planted = models.rows(start + first, start + min(first + piece, n_rows))
            writer.append(_as_rows(planted, settings, first), state={})
        writer.finish({})
        write_index(writer, [Alignment(n_tokens=n_rows, n_kept=n_rows, n_special=0)] * settings.n_models)
    return Store.open(path)


def planted_spaces(settings: PlantedSettings) -> list[Space]:
    """The planted models as spaces: planted-A, planted-B, ...; in a null mode, A and copies of it."""
    spaces = [
        Space(
            model=f"planted-{chr(65 + m)}",
            hookpoint=HOOKPOINT,
            width=width,
            fingerprint=f"planted seed {settings.seed} model {m}",
        )
        for m, width in enumerate(settings.widths)
    ]
    if settings.null == "none":
        return spaces
    rotated = settings.null == "rotated"
    copy = Copy(original=spaces[0].label, rotated=rotated, seed=settings.seed if rotated else None)
    return [spaces[0]] + [replace(spaces[0], copy_of=copy) for _ in spaces[1:]]


def strongest_concepts(planted: PlantedRows) -> Int[Tensor, "row"]:
    """The concept that fires most strongly in each row; n_concepts where none does."""
    value, concept = planted.codes.dense().max(dim=1)
    return torch.where(value > 0, concept, planted.codes.n_features)


def _as_rows(planted: PlantedRows, settings: PlantedSettings, first: int) -> Rows:
    """2: the pseudo-documents of a piece that begins at row `first` of the store, at a document's first row."""
    concepts = strongest_concepts(planted)
    digits = len(str(settings.n_concepts - 1))
    names = [f" c{i:0{digits}d}" for i in range(settings.n_concepts)] + [" c" + "-" * digits]
    row = torch.arange(first, first + len(concepts))
    per_document = settings.rows_per_document
    texts = {
        (first + begin) // per_document: "".join(names[i] for i in concepts[begin : begin + per_document].tolist())
        for begin in range(0, len(concepts), per_document)
    }
    return Rows(
        activations=planted.activations,
        documents=(row // per_document).to(torch.int32),
        ends=((row % per_document + 1) * len(names[0])).to(torch.int32),
        token_ids=concepts[:, None].repeat(1, settings.n_models).to(torch.int32),
        texts=texts,
    )
