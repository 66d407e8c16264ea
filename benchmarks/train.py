"""How fast is a training step? suture against other libraries, and against the one product it cannot avoid.

1. Per shape, a file of rows: sparse combinations of random directions plus Gaussian noise. Everyone reads the same.
2. A worker of suture and a worker of one peer at a time live side by side and are asked in alternation for a few steps,
   so that whatever else the machine does falls on both. An SAE library gets all models' rows side by side, as its users
   give them.
3. A round's ratio is peer / suture of its medians; reported are the median over the rounds, the least and the most.
4. The same against the encoder product alone (suture / product), in fp32, and in bf16 where the processor has units
   for it; and against the floor: that product in the quicker precision, and weights, gradients and moments each moved
   once at the rate of a copy, timed together.
5. All of it again with a tenth of the features dead, so that the auxiliary loss is at work in every step.

    python benchmarks/train.py [--shapes W1 W3] [--peers sae-lens] [--batch-sizes 1024 4096] [--rounds 5]
                                [--threads 2] [--quick] [--write]
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy
from peers import ENVIRONMENTS, MISSING, PEERS, Job, Measured, Unavailable, Worker, start
from results import bf16_units, circumstances, table, write_section

CLOCKS = ("wall", "cpu")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is trained on how many rows."""

    widths: tuple[int, ...]
    n_features: int
    k: int
    batch_size: int

    def __str__(self) -> str:
        models = "SAE" if len(self.widths) == 1 else f"crosscoder {len(self.widths)} x"
        return f"{models} {self.widths[0]} -> {self.n_features}, k {self.k}, batch {self.batch_size}"


SHAPES = {
    "W1": Shape(widths=(1024,), n_features=8192, k=32, batch_size=2048),
    "W2": Shape(widths=(1024, 1024), n_features=16384, k=64, batch_size=2048),
    "W3": Shape(widths=(128, 128), n_features=2048, k=16, batch_size=4096),
    "quick": Shape(widths=(32, 32), n_features=256, k=8, batch_size=256),
}
N_BATCHES = 4
DEAD = 0.1


@dataclass(kw_only=True)
class Pair:
    """Alternating runs of suture and another."""

    own: list[Measured] = field(default_factory=list)
    other: list[Measured] = field(default_factory=list)

    def ratios(self, clock: str) -> list[float]:
        """other / suture, round by round."""
        return [times(b, clock) / times(a, clock) for a, b in zip(self.own, self.other, strict=True)]


def times(measured: Measured, clock: str) -> float:
    """The median step of a run in ms."""
    return median(measured.wall_ms if clock == "wall" else measured.cpu_ms)


def typical(runs: Iterable[Measured], clock: str) -> float:
    """The median over runs of their median step, in ms."""
    return median(times(run, clock) for run in runs)


def spread(values: Sequence[float]) -> str:
    """The median, and between what the values lie.

    >>> spread([3.0, 1.0, 2.0])
    '2.0 (1.0-3.0)'
    """
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def write_rows(file: Path, shape: Shape, n_rows: int, seed: int = 0) -> None:
    """1: rows in which half of k directions out of n_features / 4 are active, plus noise of a third of their size."""
    random = numpy.random.default_rng(seed)
    width = sum(shape.widths)
    directions = random.standard_normal((max(1, shape.n_features // 4), width), dtype=numpy.float32)
    directions *= width**0.5 / numpy.linalg.norm(directions, axis=1, keepdims=True)
    n_active = max(1, shape.k // 2)
    rows = random.standard_normal((n_rows, width), dtype=numpy.float32) / 3
    for _ in range(n_active):
        size = (1 + numpy.abs(random.standard_normal(n_rows, dtype=numpy.float32))) / n_active**0.5
        rows += size[:, None] * directions[random.integers(len(directions), size=n_rows)]
    partial = file.with_suffix(".partial.npy")
    numpy.save(partial, rows)
    partial.rename(file)


def data_file(name: str) -> Path:
    """The rows of a shape, written once."""
    shape = SHAPES[name]
    file = ENVIRONMENTS / f"rows-{name.replace(' ', '-')}.npy"
    if not file.exists():
        ENVIRONMENTS.mkdir(exist_ok=True)
        write_rows(file, shape, N_BATCHES * shape.batch_size)
    return file


def alternate(own: Worker, other: Worker, *, rounds: int, steps: int) -> Pair:
    """2."""
    pair = Pair()
    for _ in range(rounds):
        pair.own.append(own.steps(steps))
        pair.other.append(other.steps(steps))
    return pair


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything measured at one shape and share of dead features."""

    name: str
    dead: float
    precision: str
    pairs: dict[str, Pair]
    reasons: dict[str, str]
    """Why a peer could not be measured."""
    notes: dict[str, str]

    @property
    def own(self) -> list[Measured]:
        return [run for pair in self.pairs.values() for run in pair.own]


def compare(name: str, dead: float, others: Sequence[str], given: argparse.Namespace) -> Comparison:
    """2-5 for one shape."""
    shape = SHAPES[name]
    job = Job(
        data=str(data_file(name)),
        widths=shape.widths,
        n_features=shape.n_features,
        k=shape.k,
        batch_size=shape.batch_size,
        dead=dead,
        threads=given.threads,
    )
    pairs: dict[str, Pair] = {}
    reasons: dict[str, str] = {}
    notes: dict[str, str] = {}
    with start("suture", job) as own:
        for other in others:
            try:
                with start(other, job) as worker:
                    pairs[other] = alternate(own, worker, rounds=given.rounds, steps=given.steps)
                    notes[other] = worker.about["note"]
            except Unavailable as error:
                reasons[other] = str(error)
                print(f"{name}: no {other}: {error}", flush=True)
                continue
            ms = typical(pairs[other].other, given.clock), typical(pairs[other].own, given.clock)
            ratio = spread(pairs[other].ratios(given.clock))
            print(f"{name}, dead {dead:.0%}: {other} {ms[0]:.0f} ms, suture {ms[1]:.0f} ms, ratio {ratio}", flush=True)
        precision = own.about["note"]
    return Comparison(name=name, dead=dead, precision=precision, pairs=pairs, reasons=reasons, notes=notes)


def tables(found: Sequence[Comparison], products: Sequence[str], peers: Sequence[str], clock: str) -> str:
    """The comparisons as Markdown."""

    def against(comparison: Comparison, other: str) -> str:
        pair = comparison.pairs.get(other)
        if pair is None:
            return "-"
        ms, peak = typical(pair.other, clock), max(run.peak_mb for run in pair.other)
        return f"**{spread(pair.ratios(clock))}**; {ms:.0f} ms, {peak:.0f} MB"

    def over(comparison: Comparison, product: str) -> str:
        pair = comparison.pairs.get(product)
        if pair is None:
            return "-"
        return f"{spread([1 / ratio for ratio in pair.ratios(clock)])}; {typical(pair.other, clock):.0f} ms"

    header = ["", "suture", *(f"suture / {name}" for name in products), *(f"{name} / suture" for name in peers)]
    rows = []
    for c in found:
        ms, peak = typical(c.own, clock), max(run.peak_mb for run in c.own)
        label = c.name if c.dead == 0 else f"{c.name}, {c.dead:.0%} dead"
        rows.append(
            [label, f"{ms:.0f} ms, {peak:.0f} MB", *(over(c, p) for p in products), *(against(c, p) for p in peers)]
        )
    return table(header, rows)


def section(found: Sequence[Comparison], products: Sequence[str], given: argparse.Namespace) -> str:
    """The results with what they were measured on."""
    first = found[0]
    notes = sorted({note for c in found for name, note in c.notes.items() if name in given.peers})
    reasons = MISSING | {name: reason for c in found for name, reason in c.reasons.items()}
    clock = "Wall time" if given.clock == "wall" else "Processor time (other programs ran on the machine)"
    bf16 = (
        ""
        if bf16_units()
        else " The processor has no units for bf16, so ratios to a bf16 product cannot be measured on it."
    )
    return "\n".join(
        [
            "## A training step against other libraries and against its one dense product",
            "",
            circumstances(),
            f"{clock} of one step with {given.threads} thread{'s' if given.threads > 1 else ''}: forward, loss, "
            f"backward, Adam, decoder normalisation. Alternating runs of {given.steps} steps, {given.rounds} rounds: "
            f"median (least-most) of the rounds' ratios. suture: {first.precision}; peers in their default, float32. "
            "MB: peak memory beyond imports, data and weights." + bf16,
            "",
            *(f"- {name}: {SHAPES[name]}" for name in dict.fromkeys(c.name for c in found)),
            f"- measured: {', '.join(notes) or 'no peers'}",
            *(f"- not measured: {name} ({reason})" for name, reason in reasons.items()),
            "",
            tables(found, products, given.peers, given.clock),
        ]
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["W1", "W2", "W3"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--batch-sizes", nargs="*", type=int, default=[], help="instead of the shapes' own")
    parser.add_argument("--dead", nargs="+", type=float, default=[0.0, DEAD], help="shares of dead features")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of one run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with one thread")
    parser.add_argument("--quick", action="store_true", help="a tiny shape and two rounds: does everything run?")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    given = parser.parse_args()
    if given.quick:
        given.shapes, given.rounds = ["quick"], 2
    return given


def at_batch_sizes(shapes: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """The names of the shapes at each batch size, entered among `SHAPES`; the shapes themselves where none is given."""
    for name in shapes:
        SHAPES.update({f"{name} at {size}": replace(SHAPES[name], batch_size=size) for size in sizes})
    return [f"{name} at {size}" for name in shapes for size in sizes] if sizes else list(shapes)


def main() -> None:
    """Compare and print."""
    given = arguments()
    given.shapes = at_batch_sizes(given.shapes, given.batch_sizes)
    quick = "bfloat16" if bf16_units() else "float32"
    products = ["product float32", *(["product bfloat16"] if bf16_units() else []), f"floor {quick}"]
    found = [
        compare(name, dead, [*(products if dead == 0 else products[:1]), *given.peers], given)
        for name in given.shapes
        for dead in given.dead
    ]
    text = section(found, products, given)
    print(text)
    if given.write:
        write_section("train", text)


if __name__ == "__main__":
    main()
