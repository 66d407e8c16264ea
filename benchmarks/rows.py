"""How time and memory grow with the rows of a store: training a step, describing features, matching.

1. Stores of random rows that have a few directions in common, of growing size; one crosscoder, and a second one beside.
2. Every stage runs in a process of its own: its seconds (processor time, for others use the machine) without imports,
   and the most memory of its own beyond what it had after them; pages of mapped files, which the system takes back
   whenever it needs them, do not count.
3. Between the two largest stores nothing grows any more but what goes with all rows: from that slope the line for more
   rows follows. Features are described on 200,000 rows at most, their strongest searched for among two million;
   dictionaries are matched on 200,000 rows that training kept back, a tenth of two million; steps have the batch's
   size. What follows so is marked as extrapolated.

    python benchmarks/rows.py [--sizes 100000 400000 800000] [--width 64] [--features 1024] [--k 16] [--write]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from results import circumstances, table, write_section

from suture.activations.collect import store_bytes
from suture.activations.shards import write_store
from suture.units import size

STAGES = ("train", "features", "match")
BEYOND = (10**7, 10**8)
BOUND = 2_000_000
"""Rows beyond which neither describing nor matching reads more: so many are searched, and so many hold back 200,000."""
BATCH, STEPS = 1024, 100
CHILD = """
import json, re, sys, threading, time
from dataclasses import replace
from pathlib import Path
import torch
from suture.activations.store import Store
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.features.describe import features
from suture.matching.match import match
from suture.training.settings import TrainSettings
from suture.training.train import train
stage, folder, n_features, k, batch, steps = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
torch.set_num_threads(1)
store = folder / "store"
design = Design(kind="crosscoder", n_features=n_features, sparsity=Sparsity(kind="topk", k=k))
settings = TrainSettings(design=design, n_rows=batch * steps, batch_size=batch, validate_every=10**6)
torch.ones(8).sum()
def own():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
most, ended = [own()], threading.Event()
def watch():
    while not ended.wait(0.02):
        most.append(own())
threading.Thread(target=watch, daemon=True).start()
before, started = own(), time.process_time()
if stage == "train":
    train(folder / "one", store, settings, overwrite=True)
elif stage == "other":
    train(folder / "two", store, replace(settings, seed=1, data_seed=0), overwrite=True)
elif stage == "features":
    features(folder / "table", folder / "one", store, overwrite=True)
else:
    match(folder / "matching", folder / "one", folder / "two", store, overwrite=True)
ended.set()
print(json.dumps([time.process_time() - started, max(most) - before]))
"""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a stage took."""

    seconds: float
    memory: float


def make_store(folder: Path, n_rows: int, width: int) -> None:
    """1."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(32, 2 * width, generator=draw)
    rows = torch.randn(n_rows, 32, generator=draw).relu() @ mixing
    rows += 0.1 * torch.randn(n_rows, 2 * width, generator=draw)
    write_store(folder / "store", list(rows.split(width, 1)), dtype="bfloat16")


def run(stage: str, folder: Path, n_features: int, k: int) -> Taken:
    """2."""
    words = [sys.executable, "-c", CHILD, stage, str(folder), str(n_features), str(k), str(BATCH), str(STEPS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(done.stderr)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return Taken(seconds=seconds, memory=memory)


def beyond(stage: str, known: dict[int, Taken], n_rows: int) -> Taken:
    """3."""
    few, most = sorted(known)[-2:]
    one, other = known[few], known[most]
    seconds, memory = (
        max(b - a, 0.0) / (most - few) for a, b in ((one.seconds, other.seconds), (one.memory, other.memory))
    )
    reach = n_rows if stage == "train" else min(n_rows, BOUND)
    return Taken(
        seconds=other.seconds + seconds * (reach - most),
        memory=other.memory + memory * (n_rows - most),
    )


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 400_000, 800_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    given = parser.parse_args()
    known: dict[str, dict[int, Taken]] = {stage: {} for stage in STAGES}
    for n_rows in given.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make_store(folder, n_rows, given.width)
            for stage in ("train", "other", "features", "match"):
                taken = run(stage, folder, given.features, given.k)
                if stage in known:
                    known[stage][n_rows] = taken
                    print(n_rows, stage, f"{taken.seconds:.1f} s", size(round(taken.memory)), flush=True)
    lines = [line(n, {s: own[n] for s, own in known.items()}, given.width, "measured") for n in given.sizes]
    lines += [line(n, {s: beyond(s, own, n) for s, own in known.items()}, given.width, "extrapolated") for n in BEYOND]
    head = ["rows", "", "store", f"{STEPS} steps", "features", "match"]
    text = "\n\n".join(
        [
            "## Rows of a store",
            circumstances(("torch", "scipy")),
            f"2 x {given.width}, {given.features:,} features, k = {given.k}, batches of {BATCH:,}; one thread. "
            "Processor seconds, and the most memory beyond the libraries', mapped files apart. No promoted tokens.",
            table(head, lines),
        ]
    )
    print(text)
    if given.write:
        write_section("rows", text)


def line(n_rows: int, taken: dict[str, Taken], width: int, how: str) -> list[str]:
    """A line of the table."""
    cells = [f"{own.seconds:,.0f} s, {size(round(own.memory))}" for own in taken.values()]
    return [f"{n_rows:,}", how, size(store_bytes([width, width], n_rows, "bfloat16")), *cells]


if __name__ == "__main__":
    main()
