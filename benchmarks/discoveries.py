"""Are a matching's statistics right on real rows? False pairs made by shifting, intervals against other documents.

1. Two dictionaries' codes on documents that neither was trained on, in a pairing and a scoring half, as `suture match`
   reads them.
2. A share of B's features is shifted: their codes are moved on by half of the rows, so that they belong to other text
   and no partner of theirs is true. A feature of A whose partner was shifted gets, on the pairing half, the best of the
   shifted ones: the strongest false partner there is; the others keep theirs. Of what Benjamini-Hochberg discovers at
   5 % on the scoring half, the part with shifted partners is false.
3. Correlations of the unshifted pairs on either half of the scoring documents: their difference in units of the
   jackknife's standard errors has a standard deviation of 1 if these are right.

    python benchmarks/discoveries.py --store STORE --dictionary A --dictionary B [--title WORDS] [--draws 5]
        [--rows 40000] [--write]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from results import circumstances, table, write_section
from scipy.sparse import csr_matrix

from suture.activations.store import Store
from suture.matching.correlate import top_correlations
from suture.matching.evidence import Evidence, Grouping, evidence
from suture.matching.read import Side, split
from suture.uncertainty import deal_groups, discoveries

SHARES = (0.5, 0.9)
Q = 0.05
LEAST_ROWS = 20
"""On which a feature fires in either half, for the jackknife to say something."""


def shifted(codes: csr_matrix, which: ndarray) -> csr_matrix:
    """2."""
    n = codes.shape[0]  # pyright: ignore[reportOptionalSubscript]
    moved = codes[(np.arange(n) + n // 2) % n]
    keep, move = (csr_matrix((np.ones(len(i)), (i, i)), shape=(len(which),) * 2) for i in (*_parts(which),))
    return csr_matrix(codes @ keep + moved @ move)


def _parts(which: ndarray) -> tuple[ndarray, ndarray]:
    return np.flatnonzero(~which), np.flatnonzero(which)


def partners(a: csr_matrix, b: csr_matrix) -> tuple[ndarray, ndarray]:
    """Every feature of A that has any, and the feature of B that correlates with it most."""
    found = top_correlations(a, b, threads=torch.get_num_threads())
    order = np.lexsort((-found.r, found.a))
    first = np.unique(found.a[order], return_index=True)[1]
    return found.a[order][first], found.b[order][first]


def fires(codes: csr_matrix) -> ndarray:
    """On how many rows each feature does."""
    return np.bincount(codes.indices[codes.data > 0], minlength=codes.shape[1])  # pyright: ignore[reportOptionalSubscript]


def false_part(halves: tuple[csr_matrix, csr_matrix, csr_matrix, csr_matrix], grouping: Grouping, share: float,
               draw: np.random.Generator) -> tuple[int, int]:  # fmt: skip
    """2: (discoveries, false ones)."""
    a, b, a_scored, b_scored = halves
    which = draw.random(b.shape[1]) < share  # pyright: ignore[reportOptionalSubscript]
    i, j = partners(a, b)
    lost = which[j]
    false_i, false_j = partners(a[:, i[lost]], shifted(b, which)[:, np.flatnonzero(which)])
    i, j = np.concatenate([i[~lost], i[lost][false_i]]), np.concatenate([j[~lost], np.flatnonzero(which)[false_j]])
    judged = evidence(a_scored, shifted(b_scored, which), i, j, grouping)
    tested = torch.from_numpy((fires(a_scored)[i] >= LEAST_ROWS) & (fires(b_scored)[j] >= LEAST_ROWS))
    found = discoveries(torch.from_numpy(judged.p), tested, Q).numpy()
    return int(found.sum()), int(which[j[found]].sum())


def spread_between_halves(a: csr_matrix, b: csr_matrix, pairs: tuple[ndarray, ndarray], documents: ndarray,
                          tokens: ndarray) -> tuple[float, int]:  # fmt: skip
    """3: the standard deviation of z, and of how many pairs."""
    half = deal_groups(torch.from_numpy(documents), 2).numpy()
    found: list[Evidence] = []
    for side in (0, 1):
        own = np.flatnonzero(half == side)
        found.append(evidence(a[own], b[own], *pairs, Grouping.of(documents[own], tokens[own])))
    often = [
        np.minimum(fires(a[half == side])[pairs[0]], fires(b[half == side])[pairs[1]]) >= LEAST_ROWS for side in (0, 1)
    ]
    usable = often[0] & often[1] & (found[0].r_error > 0) & (found[1].r_error > 0)
    one, two = ((np.arctanh(np.clip(f.r, -0.999, 0.999)), f.r_error) for f in found)
    z = (one[0] - two[0]) / np.hypot(one[1], two[1])
    return float(z[usable].std()), int(usable.sum())


def main() -> None:
    """Both measures for two dictionaries of one store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--dictionary", type=Path, action="append", required=True, help="A, then B")
    parser.add_argument("--title", default="", help="what the pair is called in the table")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    store = Store.open(options.store)
    sides = [Side.open(folder, store) for folder in options.dictionary]
    halves = split(store, sides, options.rows)
    pairing, scoring = halves.parts
    codes = [side.codes(halves.rows) for side in sides]
    documents = store.documents[halves.rows].long().numpy()[scoring]
    tokens = np.concatenate([side.tokens(halves.rows).numpy() for side in sides], axis=1)[scoring]
    grouping = Grouping.of(documents, tokens)
    parts = (codes[0][pairing], codes[1][pairing], codes[0][scoring], codes[1][scoring])
    lines = []
    for share in SHARES:
        counts = [false_part(parts, grouping, share, np.random.default_rng(draw)) for draw in range(options.draws)]
        parted = [wrong / max(n, 1) for n, wrong in counts]
        what = f"{share:.0%} of B's features shifted: false of what is discovered at {Q:.0%}"
        of_how_many = (
            f"largest of {options.draws} draws {max(parted):.3f}; {np.mean([n for n, _ in counts]):,.0f} found"
        )
        lines.append([what, f"{np.mean(parted):.3f} ({of_how_many})"])
    z, n_pairs = spread_between_halves(parts[2], parts[3], partners(parts[0], parts[1]), documents, tokens)
    lines.append(["half against half of the scoring documents: sd of z", f"{z:.2f} ({n_pairs:,} pairs)"])
    size = f"{options.title or ' and '.join(map(str, options.dictionary))}: {len(halves.rows):,} rows"
    text = "\n\n".join(
        ["## Discoveries", circumstances(("torch", "scipy")), f"{size}.", table(["measured", ""], lines)]
    )
    print(text)
    if options.write:
        write_section("discoveries", text)


if __name__ == "__main__":
    main()
