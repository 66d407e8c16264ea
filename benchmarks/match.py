"""Every feature of one dictionary against every feature of another: the non-zeros against dense blocks, in one run.

1. Codes as large dictionaries have them: 100,000 rows of 32 active features out of 32,768, firing rates by Zipf's law.
2. suture's correlations: seconds, processor seconds, and how far the process's memory grew.
3. Dense blocks: the product of 1,024 x 1,024 features over all rows, float32, timed; times the number of such blocks.
   (All of them would take an hour.)
4. What is kept of some features is checked against numpy in float64.

    python benchmarks/match.py [--features 32768] [--rows 100000] [--k 32] [--threads 2] [--write]
"""

import argparse
import resource
import time

import numpy as np
import torch
from results import circumstances, table, write_section
from scipy.sparse import csr_matrix

from suture.matching.correlate import Candidates, top_correlations

BLOCK = 1024
CHECKED = 200


def codes(n_rows: int, n_features: int, k: int, seed: int) -> csr_matrix:
    """1. Draws of a feature that a row has already fall together, so that a row has k at most."""
    r = np.random.default_rng(seed)
    rate = 1 / np.arange(1, n_features + 1) ** 0.8
    feature = r.permutation(n_features)[r.choice(n_features, size=(n_rows, k), p=rate / rate.sum())]
    row = np.repeat(np.arange(n_rows), k)
    values = r.lognormal(size=n_rows * k)
    return csr_matrix((values, (row, feature.ravel())), shape=(n_rows, n_features))


def dense_seconds(a: csr_matrix, b: csr_matrix, threads: int) -> float:
    """3."""
    torch.set_num_threads(threads)
    left, right = (torch.from_numpy(x[:, :BLOCK].toarray().astype(np.float32)) for x in (a, b))
    started = time.perf_counter()
    _ = left.T @ right
    blocks = (a.shape[1] / BLOCK) * (b.shape[1] / BLOCK)  # pyright: ignore[reportOptionalSubscript]
    return (time.perf_counter() - started) * blocks


def largest_error(a: csr_matrix, b: csr_matrix, found: Candidates) -> float:
    """4."""
    place = np.random.default_rng(0).choice(len(found), CHECKED)
    x, y = a[:, found.a[place]].toarray(), b[:, found.b[place]].toarray()
    exact = [np.corrcoef(x[:, p], y[:, p])[0, 1] for p in range(CHECKED)]
    return float(np.abs(np.array(exact) - found.r[place]).max())


def gigabytes() -> float:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=32_768)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    a, b = (codes(options.rows, options.features, options.k, seed) for seed in (1, 2))
    started, processor = time.perf_counter(), time.process_time()
    found = top_correlations(a, b, threads=options.threads)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    memory = gigabytes()
    error = largest_error(a, b, found)
    dense = dense_seconds(a, b, options.threads)
    rows = [
        ["from the non-zeros, float64", f"{seconds:.1f}", f"{processor:.1f}", f"{memory:.2f}", f"{error:.0e}"],
        ["dense blocks, float32 (extrapolated)", f"{dense:,.0f}", "-", "-", "-"],
    ]
    size = f"{options.features:,} x {options.features:,} features, {options.rows:,} rows, k = {options.k}"
    text = "\n\n".join(
        [
            "## Matching",
            circumstances(("torch", "scipy")),
            f"{size}, {options.threads} threads: **{dense / seconds:,.0f} times** the speed of dense blocks.",
            table(["correlations of all pairs", "s", "processor s", "GB, whole process", "largest error"], rows),
        ]
    )
    print(text)
    if options.write:
        write_section("match", text)


if __name__ == "__main__":
    main()
