"""A matching of any size with every kind of pair, rows with texts that try to break a page, and maps of clusters."""

from pathlib import Path

import numpy as np

from report.made_artifacts import WRITABLE
from suture.matching.columns import COLUMNS
from suture.matching.examples import Examples
from suture.matching.kinds import KINDS
from suture.matching.match import STAGE, Matching, MatchSummary
from suture.matching.shares import shares_of
from suture.pipeline import artifact
from suture.pipeline.table import Table

WORDS = ("dog", "cat", "ball", "tree", "moon", "cake", "<b>bold</b>")
SUBJECTS = ("", "", "nature", "food")


def make_matching(path: Path, *, n: int = 200, seed: int = 0) -> Matching:
    """Features of A have partners dealt out one to one; the first of A has none."""
    r = np.random.default_rng(seed)
    partner = r.permutation(n)
    back = np.argsort(partner)
    tables = [_side(n, partner, np.random.default_rng(seed + 1)), _side(n, back, np.random.default_rng(seed + 2))]
    tables[0]["partner"][0] = -1
    passages = [
        (f"Once number {i} ", f" {WORDS[i % len(WORDS)]}", f" and {WRITABLE[i % len(WRITABLE)]}") for i in range(60)
    ]

    def rows(m: int) -> list[list[tuple[int, float, float]]]:
        return [[((i + k) % 60, float(4 - k), float(k if m == 0 else 0)) for k in range(4)] for i in range(n)]

    shares = [shares_of(table, name, "the other") for table, name in zip(tables, ("A", "B"), strict=True)]
    summary = MatchSummary(
        spaces=("tinystories-1l @ mlp0.out", "tinystories-2l @ mlp0.out"), n_rows=8_000, n_documents=90, a=shares[0],
        b=shares[1], ceilings=(shares[1],), random=shares[0],
    )  # fmt: skip
    found = Matching(
        features_a=tables[0],
        features_b=tables[1],
        summary=summary,
        examples=Examples(passages=passages, a=rows(0), b=rows(1)),
    )
    with artifact.create(path, stage=STAGE, settings={}) as draft:
        found.write(draft.folder)
    return found


def _side(n: int, partner: np.ndarray, r: np.random.Generator) -> Table:
    cluster, middles = r.integers(0, 12, n), r.normal(size=(12, 2)) * 1.5
    place = middles[cluster] + r.normal(size=(n, 2)) * 0.25
    strength = r.beta(1.3, 2.0, n)
    values = {c.name: np.full(n, np.nan) for c in COLUMNS}
    values |= {
        "kind": np.array([KINDS[i % len(KINDS)] for i in range(n)], dtype=object),
        "partner": partner.astype(float),
        "token_only": (np.arange(n) % 3 == 0).astype(float),
        "r": strength,
        "r_low": strength * 0.9,
        "r_ctx": strength * 0.6,
        "jaccard": r.random(n),
        "rows": r.integers(10, 4_000, n).astype(float),
        "one_to_one": partner.astype(float),
        "mutual": np.full(n, -1.0),
        "map_x": place[:, 0],
        "map_y": place[:, 1],
        "words": np.array([WORDS[i % len(WORDS)] for i in range(n)], dtype=object),
        "subject": np.array([SUBJECTS[i % len(SUBJECTS)] for i in range(n)], dtype=object),
    }
    return Table(axes=("feature",), columns=COLUMNS, values={c.name: values[c.name] for c in COLUMNS})
