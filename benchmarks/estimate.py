"""Estimate against truth: what `suture estimate` says of a study, and what its stages then take.

1. A study file is written and estimated by the command line, in a process of its own.
2. Its steps are run by the command line; each process tells its own peak of memory at its end, the clock is this
   script's, and the folder's size is looked at twenty times a second.
3. Ratios of what happened to what was said are printed and written to RESULTS.md.

The corpus is a text file, by default the TinyStories of $SUTURE_SHARED/data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import circumstances, table, write_section

TINY = {"model": ["tinystories-1l", "tinystories-2l"], "at": ["mlp0.out", "mlp0.out"]}
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "collect": {**TINY, "tokens": 150_000},
        "train": {"features": 2048, "k": 16, "rows": 400_000, "batch_size": 2048, "model_dropout": 0.2},
    },
    "wide": {
        "collect": {**TINY, "tokens": 100_000, "dtype": "float32"},
        "train": {
            "features": 16_384, "k": 32, "rows": 60_000, "batch_size": 1024, "checkpoint_every": 15,
            "validate_every": 25,
        },
    },
    "sae": {
        "collect": {"model": ["tinystories-2l"], "at": ["resid1.post"], "tokens": 200_000},
        "train": {"design": "sae", "features": 4096, "k": 24, "rows": 300_000, "sparsity": "batchtopk"},
    },
}  # fmt: skip
"""Two models and few features; many features with checkpoints; one model and BatchTopK."""
AFTER = ("features", "splice", "causal", "steer", "report")
"""Stages after training that are estimated and run."""

TELLING = """
import atexit, sys
place = sys.argv.pop()
from suture.estimate.machine import peak_bytes
atexit.register(lambda: open(place, "w").write(str(peak_bytes())))
from suture.__main__ import main
sys.exit(main())
"""


@dataclass
class Taken:
    """What a step took."""

    seconds: float
    memory: int
    disk: int
    disk_peak: int


def run(arguments: list[str], folder: Path) -> Taken:
    """Run a command that makes `folder`, and measure it."""
    note = folder.with_name(folder.name + ".peak")
    done, most = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], size_of(folder.with_name(folder.name + ".partial")), size_of(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        subprocess.run([sys.executable, "-c", TELLING, *arguments, str(note)], check=True, capture_output=True)
    finally:
        done.set()
        watcher.join()
    seconds = time.perf_counter() - started
    kept = size_of(folder) + size_of(folder.with_name(f"{folder.stem}-pieces"))
    return Taken(seconds, int(note.read_text()), kept, max(most[0], kept))


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder, which may be changing."""
    total = folder.stat().st_size if folder.is_file() else 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def options(values: dict[str, Any]) -> list[str]:
    """A table as the command line takes it."""
    out: list[str] = []
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            out += [f"--{name.replace('_', '-')}", str(each)]
    return out


def toml(study: dict[str, dict[str, Any]]) -> str:
    """The study as a file; JSON's strings, numbers and lists are TOML's too."""
    lines = [
        line
        for name, values in study.items()
        for line in (f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    ]
    return "\n".join(lines) + "\n"


def compare(name: str, corpus: Path, folder: Path, seconds: float) -> list[list[str]]:
    """A table row per step: what happened, and its ratio to what was said."""
    folder = folder / name  # a report is one on its own study
    folder.mkdir()
    study = {table: dict(values) for table, values in STUDIES[name].items()}
    study["collect"]["corpus"] = str(corpus)
    file = folder / f"{name}.toml"
    file.write_text(toml(study), encoding="utf-8")
    suture = [sys.executable, "-m", "suture"]
    command = [*suture, "estimate", str(file), "--json", "--out", str(folder), "--offline", "--seconds", str(seconds)]
    command += options({"after": list(AFTER)})
    started = time.perf_counter()
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    cost = time.perf_counter() - started
    store, out = folder / f"{name}-store", folder / f"{name}-dictionary"
    taken = [
        run(["collect", str(store), *options(study["collect"]), "--offline"], store),
        run(["train", str(out), "--store", str(store), *options(study["train"])], out),
    ]
    taken += [run(words, made) for words, made in after(name, folder, store, out)]
    rows = []
    for step, truth in zip(said["steps"], taken, strict=True):
        span = step["seconds"]
        inside = "yes" if span["low"] <= truth.seconds <= span["high"] else "no"
        rows.append(
            [
                f"{name}: {step['name']}",
                f"{truth.seconds:.1f} s",
                f"{truth.seconds / span['middle']:.2f} ({inside})",
                f"{truth.memory / 1e6:,.0f} MB",
                f"{truth.memory / (step['memory'] + step['mapped']):.2f}",
                f"{truth.disk / 1e6:,.1f} MB",
                f"{truth.disk / step['disk']:.3f}",
                f"{truth.disk_peak / step['disk_peak']:.3f}",
                f"{cost:.0f} s" if step is said["steps"][0] else "",
            ]
        )
        sys.stderr.write("  ".join(rows[-1]) + "\n")
    return rows


def after(name: str, folder: Path, store: Path, dictionary: Path) -> Iterator[tuple[list[str], Path]]:
    """The command of each of `AFTER`, and what it makes; the feature that is steered fires most."""
    made = {stage: folder / f"{name}-{stage}" for stage in AFTER}
    table_of = ["--table", str(made["features"])]
    words: dict[str, Callable[[], list[str]]] = {
        "features": lambda: ["--store", str(store)],
        "splice": list,
        "causal": lambda: table_of,
        "steer": lambda: [*table_of, "--feature", busiest(made["features"])],
    }
    for stage in AFTER:
        if stage == "report":
            page = folder / f"{name}.html"
            yield ["report", str(folder), "--out", str(page)], page  # its pieces lie beside it
        else:
            yield [stage, str(dictionary), *words[stage](), "--out", str(made[stage])], made[stage]


def busiest(features: Path) -> str:
    """The number of the feature that fires on most rows."""
    active = json.loads((features / "columns.json").read_text())["columns"]["n_active"]
    return str(max(range(len(active)), key=lambda i: active[i] or 0))


def main() -> None:
    """Compare every study, or those named."""
    shared = Path(os.environ.get("SUTURE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help="of " + ", ".join(STUDIES))
    parser.add_argument("--corpus", type=Path, default=shared / "data" / "tinystories" / "train.txt")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, per store and shape")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    given = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.studies:
            rows += compare(name, given.corpus, Path(folder), given.seconds)
    header = [
        "step",
        "took",
        "took / said",
        "memory",
        "took / said",
        "disk",
        "took / said",
        "peak / said",
        "estimating",
    ]
    text = (
        "## What a study takes, said before\n\n"
        "Every stage in a process of its own, after the estimate's. In brackets: whether the time lies "
        "in the range said. Memory includes the store's mapped files.\n\n"
        f"{table(header, rows)}\n\n{circumstances()}"
    )
    sys.stdout.write(text + "\n")
    if given.write:
        write_section("estimate", text)


if __name__ == "__main__":
    main()
