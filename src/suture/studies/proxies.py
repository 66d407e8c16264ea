"""The study `proxies`: can a cosine stand in for activation correlation? Every stand-in, judged on two dictionaries.

1. Codes of both dictionaries on rows that neither was trained on, in two halves, as in `match`.
2. Second moments of their spaces on as many other rows: the maps, the rotation, the pre-activations.
3. A row per stand-in: how well it finds the partners that correlation finds (`matching.proxies`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from suture.activations.moments import Moments
from suture.activations.store import Store, as_store
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.rows import whole_documents
from suture.errors import UserError
from suture.matching.proxies import Weights, judge, scores
from suture.matching.read import Side, split
from suture.pipeline import artifact
from suture.pipeline.table import Column, Table

STAGE, TABLE = "proxies", "proxies.safetensors"

COLUMNS = (
    Column(
        name="hard_auc", title="hard AUC", format="share", better="high",
        sentence="How often the true partner beats the best-scoring wrong candidates; 0 for a score without knowledge.",
    ),
    Column(
        name="top1", title="top-1", format="percent", better="high",
        sentence="Share of features whose best-scoring candidate is the partner that correlation finds.",
    ),
    Column(
        name="reached", title="r reached", format="percent", better="high",
        sentence="Mean correlation of the best-scoring candidate, of that of the partner.",
    ),
    Column(
        name="n_features", title="features", format="integer",
        sentence="Features whose partner has a held-out correlation of 0.5 or more.",
    ),
)  # fmt: skip


def proxies(
    out: str | Path,
    dictionary_a: Dictionary | str | Path,
    dictionary_b: Dictionary | str | Path,
    store: Store | str | Path,
    *,
    n_rows: int = 100_000,
    overwrite: bool = False,
    command: str | None = None,
) -> Table:
    """Judge every stand-in on two dictionaries of one space each; a table with a row per stand-in, written to `out`.

    Raises:
        UserError: dictionaries of several spaces or other stores, or too few documents.
    """
    store = as_store(store)
    sides = [Side.open(dictionary, store) for dictionary in (dictionary_a, dictionary_b)]
    for side in sides:
        if side.dictionary.n_spaces != 1:
            problem = f"has {side.dictionary.n_spaces} spaces"
            raise UserError("dictionary", side.folder, problem, "give a dictionary of one space")
    halves = split(store, sides, n_rows)
    pairing, scoring = halves.parts
    codes = [side.codes(halves.rows) for side in sides]
    free = torch.ones(len(store), dtype=torch.bool)
    free[halves.rows] = False
    others = torch.nonzero(free)[:, 0] if bool(free.any()) else halves.rows
    rows = whole_documents(store.documents, others, n_rows)
    same = (sides[0].view.spaces[0].model, sides[0].view.spaces[0].hookpoint) == (
        sides[1].view.spaces[0].model,
        sides[1].view.spaces[0].hookpoint,
    )
    read = sides[:1] if same else sides
    moments = Moments([side.dictionary.width for side in read])
    for part in rows.split(4096):
        moments.add(torch.cat([s.view.read_space(part, 0) * s.dictionary.spaces[0].scale for s in read], dim=1))
    weights = [Weights(encoder=s.dictionary.W_enc.detach(), decoder=s.dictionary.W_dec.detach()) for s in sides]
    found = judge(
        scores(weights[0], weights[1], moments, (0, 0 if same else 1)),
        (codes[0][pairing], codes[1][pairing]),
        (codes[0][scoring], codes[1][scoring]),
    )
    records = {name: asdict(one) for name, one in found.items()}
    table = Table(
        axes=("proxy",),
        columns=COLUMNS,
        values={c.name: np.array([float(r[c.name]) for r in records.values()]) for c in COLUMNS},
        coordinates={"proxy": list(records)},
    )
    parents = tuple(dict.fromkeys([*(side.folder for side in sides), store.path]))
    with artifact.create(
        out,
        stage=STAGE,
        settings={"n_rows": n_rows, "spaces": [side.label for side in sides]},
        parents=parents,
        overwrite=overwrite,
        command=command,
    ) as draft:
        table.save(draft.folder / TABLE)
    return table
