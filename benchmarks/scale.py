"""What does a training step of suture cost as things grow: features, rows, k, models, ranks?

1. One thing is doubled at a time, the others stay as they are in the middle.
2. Each point is a worker of its own (benchmarks/peers.py): the median step and the peak of memory beyond imports, data
   and weights.
3. A straight line through log(ms) against log(size) gives the slope: 1 is proportional, 0 is free. Each point lies off
   the line by some factor; more than BEND is a bend, and a bend is a defect to explain.
4. `--ranks`: the same step by several processes of torchrun, rows split among them.

    python benchmarks/scale.py [--curves features k] [--threads 1] [--ranks 1 2] [--quick] [--write]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy
from peers import ROOT, Job, Unavailable, start, suture
from results import circumstances, table, write_section
from train import CLOCKS, Shape, times, write_rows

BEND = 1.25
"""A point this far off the line is named."""
MIDDLE = Shape(widths=(256, 256), n_features=4096, k=32, batch_size=1024)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement."""

    size: float
    ms: float
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """ms = constant · size^slope."""

    slope: float
    log_constant: float

    def at(self, size: float) -> float:
        """What the line says there."""
        return math.exp(self.log_constant + self.slope * math.log(size))


def fit(points: Sequence[Point]) -> Line:
    """3: least squares in logarithms.

    >>> line = fit([Point(size=s, ms=3 * s, peak_mb=0) for s in (1.0, 2.0, 4.0)])
    >>> round(line.slope, 6), round(line.at(8.0), 6)
    (1.0, 24.0)
    """
    assert len({p.size for p in points}) > 1, "a line needs two sizes"
    slope, constant = numpy.polyfit([math.log(p.size) for p in points], [math.log(p.ms) for p in points], 1)
    return Line(slope=float(slope), log_constant=float(constant))


def bends(points: Sequence[Point], line: Line) -> list[Point]:
    """The points that lie off the line by more than BEND, above or below."""
    return [p for p in points if max(p.ms / line.at(p.size), line.at(p.size) / p.ms) > BEND]


def grown(curve: str, factor: float, middle: Shape = MIDDLE) -> Shape:
    """1: the middle with one thing grown."""
    if curve == "models":
        n_models = max(1, round(len(middle.widths) * factor))
        return replace(middle, widths=(middle.widths[0],) * n_models)
    field = {"features": "n_features", "rows": "batch_size", "k": "k"}[curve]
    return replace(middle, **{field: round(getattr(middle, field) * factor)})


def size(curve: str, shape: Shape) -> int:
    """The number that a curve is drawn against."""
    return {"features": shape.n_features, "rows": shape.batch_size, "k": shape.k, "models": len(shape.widths)}[curve]


CURVES = ("features", "rows", "k", "models")


def job_of(shape: Shape, folder: Path, threads: int) -> Job:
    """A job on rows of its own."""
    file = folder / f"rows-{sum(shape.widths)}-{shape.n_features}-{shape.k}-{shape.batch_size}.npy"
    if not file.exists():
        write_rows(file, shape, 4 * shape.batch_size)
    return Job(
        data=str(file),
        widths=shape.widths,
        n_features=shape.n_features,
        k=shape.k,
        batch_size=shape.batch_size,
        threads=threads,
    )


def measure(curve: str, shape: Shape, folder: Path, given: argparse.Namespace) -> Point:
    """2."""
    with start("suture", job_of(shape, folder, given.threads)) as worker:
        measured = worker.steps(given.steps)
    return Point(size=size(curve, shape), ms=times(measured, given.clock), peak_mb=measured.peak_mb)


# --- several ranks --------------------------------------------------------------------------------------------------


def measure_ranks(n: int, folder: Path, given: argparse.Namespace) -> Point:
    """4: the middle's step by n processes; each takes its share of the same rows.

    Raises:
        Unavailable: the processes failed, with their last words.
    """
    job = job_of(given.middle, folder, given.threads)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": str(given.threads)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    rank = [__file__, "--one-rank", json.dumps(vars(job)), "--steps", str(given.steps)]
    done = subprocess.run([*torchrun, *rank], env=environment, capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        raise Unavailable(f"{n} ranks: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
    return Point(**json.loads(answers[-1]))


def one_rank(job: Job, steps: int) -> None:
    """What each process of torchrun runs; the first prints the point."""
    import time

    import torch
    from peers import WARMUP_STEPS, peak_mb, reset_peak

    from suture.parallel import grid

    torch.set_num_threads(job.threads)
    with grid() as ranks:
        own = job.batch_size // ranks.data.size
        rows = torch.from_numpy(numpy.load(job.data))
        parts = [batch[ranks.data.rank * own : (ranks.data.rank + 1) * own] for batch in rows.split(job.batch_size)]
        batches = cycle(parts)
        model = suture(job, batches, grid=ranks)
        baseline, wall = reset_peak(), []
        for _ in range(WARMUP_STEPS + steps):
            batch = next(batches)
            ranks.world.wait()
            started = time.perf_counter()
            model.step(batch)
            ranks.world.wait()
            wall.append(1e3 * (time.perf_counter() - started))
        point = {"size": ranks.world.size, "ms": median(wall[WARMUP_STEPS:]), "peak_mb": peak_mb() - baseline}
        if ranks.world.rank == 0:
            print(json.dumps(point), flush=True)


# --- the table ------------------------------------------------------------------------------------------------------


def curve_rows(curve: str, points: Sequence[Point]) -> list[list[str]]:
    """One line of the table per point, with the slope and the bends on the first."""
    line = fit(points)
    named = ", ".join(f"{p.size:g} ({p.ms / line.at(p.size):.2f} of the line)" for p in bends(points, line))
    rows = [[curve, f"{p.size:g}", f"{p.ms:.1f}", f"{p.peak_mb:.0f}", "", ""] for p in points]
    rows[0][4:] = [f"{line.slope:.2f}", named or "none"]
    return rows


def section(curves: dict[str, list[Point]], reasons: Sequence[str], given: argparse.Namespace) -> str:
    """The curves with what they were measured on."""
    clock = "Wall time" if given.clock == "wall" else "Processor time (other programs ran on the machine)"
    header = ["grown", "size", "ms", "MB", "slope of log ms", f"off the line by more than {BEND - 1:.0%}"]
    return "\n".join(
        [
            "## How a training step grows",
            "",
            circumstances(),
            f"{clock}, median of {given.steps} steps, {given.threads} thread{'s' if given.threads > 1 else ''}; one "
            f"thing grown at a time from {given.middle}. MB: peak memory beyond imports, data and weights. Ranks: wall "
            "time, all on this one machine, the rows of a batch split among them.",
            "",
            table(header, [row for curve, points in curves.items() for row in curve_rows(curve, points)]),
            *(f"\nNot measured: {reason}." for reason in reasons),
        ]
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="*", choices=CURVES, default=list(CURVES))
    parser.add_argument("--ranks", nargs="*", type=int, default=[], help="numbers of processes, two at least")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with one thread")
    parser.add_argument("--quick", action="store_true", help="small, and fewer points: does everything run?")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    parser.add_argument("--one-rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if len(set(given.ranks)) == 1:
        parser.error("--ranks: a curve needs two numbers, such as --ranks 1 2")
    given.middle = replace(MIDDLE, n_features=512, batch_size=256) if given.quick else MIDDLE
    given.factors = (0.5, 1.0, 2.0) if given.quick else FACTORS
    return given


def main() -> None:
    """Measure and print."""
    given = arguments()
    if given.one_rank:
        fields = json.loads(given.one_rank)
        one_rank(Job(**fields | {"widths": tuple(fields["widths"])}), given.steps)
        return
    curves: dict[str, list[Point]] = {}
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for curve in given.curves:
            shapes = dict.fromkeys(grown(curve, factor, given.middle) for factor in given.factors)
            curves[curve] = []
            for shape in shapes:
                point = measure(curve, shape, Path(name), given)
                curves[curve].append(point)
                print(f"{curve} {point.size:g}: {point.ms:.1f} ms, {point.peak_mb:.0f} MB", flush=True)
        try:
            ranks = [measure_ranks(n, Path(name), given) for n in given.ranks]
            curves |= {"ranks": ranks} if ranks else {}
        except Unavailable as error:
            reasons.append(str(error))
    text = section(curves, reasons, given)
    print(text)
    if given.write:
        write_section("scale", text)


if __name__ == "__main__":
    main()
