"""One pass over a large dictionary: what each of its features would change in a smaller one's error.

1. Planted rows, and dictionaries of random unit rows over them, brought to an L0 each by one threshold: what is active
   does not matter to the cost, how much does.
2. suture's pass (`stitching.latents.read`, encoding both dictionaries included) and its labels (`latents`, a bootstrap
   over all documents): seconds, processor seconds, the process's memory.
3. Of some features the change is checked against decoding with the feature added, float64, on some of the rows.

    python benchmarks/stitch.py [--features 16384] [--small 4096] [--rows 200000] [--width 256] [--k 32] [--threads 2]
        [--write]
"""

import argparse
import os
import resource
import time
from tempfile import TemporaryDirectory

import torch
from results import circumstances, table, write_section

from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.refit import to_l0
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.stitching.insert import changes
from suture.stitching.latents import latents, read

CHECKED_FEATURES, CHECKED_ROWS, THRESHOLD_ROWS = 20, 2_000, 2_000


def dictionary(store: Store, n_features: int, k: int, seed: int) -> Dictionary:
    """1."""
    made = Dictionary(store.spaces, Design(kind="sae", n_features=n_features, sparsity=Sparsity(kind="batchtopk", k=k)))
    draw = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n_features, made.width, generator=draw), dim=1)
    made.W_enc.data.copy_(rows)
    made.W_dec.data.copy_(rows)
    return to_l0(made, store, torch.arange(THRESHOLD_ROWS), float(k)).requires_grad_(requires_grad=False)


def largest_error(small: Dictionary, large: Dictionary, store: Store) -> float:
    """3, as a part of the largest change."""
    rows = torch.arange(CHECKED_ROWS)
    found = torch.from_numpy(changes(read(small, large, store, rows)))
    x = store.read_space(rows, 0) * store.spaces[0].scale
    left = x.double() - small.encode(x).dense().double() @ small.W_dec.double() - small.b_dec.double()
    codes = large.encode(x).dense().double()
    asked = torch.nonzero(codes.sum(0))[:CHECKED_FEATURES, 0].tolist()
    before = left.square().sum()
    exact = [(left - torch.outer(codes[:, i], large.W_dec[i].double())).square().sum() - before for i in asked]
    return float((torch.stack(exact) - found[asked]).abs().max() / found[asked].abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--small", type=int, default=4_096)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    planted = PlantedSettings(widths=(options.width,), n_concepts=4 * options.width, exclusive=0.0, mean_active=12.0)
    with TemporaryDirectory() as folder:
        store = planted_store(f"{folder}/store", planted, options.rows)
        small, large = (
            dictionary(store, n, options.k, seed) for seed, n in enumerate((options.small, options.features))
        )
        started, processor = time.perf_counter(), time.process_time()
        reading = read(small, large, store, torch.arange(options.rows))
        passed = time.perf_counter() - started, time.process_time() - processor
        latents(reading)
        whole = time.perf_counter() - started, time.process_time() - processor
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        error = largest_error(small, large, store)
    l0 = reading.large.nnz / options.rows
    rows = [
        ["the pass, both dictionaries encoded", f"{passed[0]:.1f}", f"{passed[1]:.1f}"],
        ["with labels, 400 draws of documents", f"{whole[0]:.1f}", f"{whole[1]:.1f}"],
    ]
    size = f"{options.features:,} features against {options.small:,}, {options.rows:,} rows of width {options.width}"
    text = "\n\n".join(
        [
            "## Stitching",
            circumstances(("torch", "scipy")),
            f"{size}, L0 {l0:.1f}, {options.threads} threads: **{whole[0]:.0f} s** ({whole[1]:.0f} processor seconds; "
            f"load average {os.getloadavg()[1]:.1f}), "
            f"{memory:.2f} GB for the whole process; largest "
            f"error against decoding with the feature {error:.0e} of the largest change.",
            table(["change of the error, every feature", "s", "processor s"], rows),
        ]
    )
    print(text)
    if options.write:
        write_section("stitch", text)


if __name__ == "__main__":
    main()
