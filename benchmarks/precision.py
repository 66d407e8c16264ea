"""Does a bf16 encoder product learn what an fp32 one learns? Learning curves on planted models, over seeds.

1. Per seed: plant two models, write a store, train the same crosscoder twice, with the product in bf16 and in fp32. The
   seed decides the truth, the start and the order of the rows, so that the two differ in nothing else.
2. FVU on held-out rows at several steps (mean over models), and the share of planted concepts recovered at the end.
3. At each step: the mean over seeds of the paired difference, beside the standard deviation between seeds of fp32
   alone. A difference within that is less than another seed would have made. It is not a proof that there is none: the
   paired difference has a standard error of its own, which is printed too.

Only the selection sees bf16: the chosen pre-activations are computed again in fp32. Without bf16 units the processor
emulates the product; the numbers are the same, only slower.

    python benchmarks/precision.py [--seeds 5] [--rows 200000] [--write]
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import torch
from results import bf16_units, circumstances, table, write_section

from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.planted.generator import PlantedModels
from suture.planted.scores import cosines, joint_directions, recovery
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.training.run import TrainProgress
from suture.training.settings import TrainSettings
from suture.training.train import train

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
RECOVERED = 0.9
"""A concept is recovered when a feature points at it with this cosine."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one training run was like."""

    fvu: dict[int, float]
    """At some steps."""
    recovered: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A quantity in bf16 against fp32 over seeds, paired."""

    float32: float
    bfloat16: float
    difference: float
    standard_error: float
    between_seeds: float
    """Standard deviation between seeds, of fp32 alone."""

    @property
    def within(self) -> bool:
        """Whether another seed would have made as large a difference."""
        return abs(self.difference) <= self.between_seeds


def paired(float32: Sequence[float], bfloat16: Sequence[float]) -> Difference:
    """3: the same seeds in both."""
    differences = [b - a for a, b in zip(float32, bfloat16, strict=True)]
    return Difference(
        float32=mean(float32),
        bfloat16=mean(bfloat16),
        difference=mean(differences),
        standard_error=stdev(differences) / math.sqrt(len(differences)),
        between_seeds=stdev(float32),
    )


def run(seed: int, precision: Precision, given: argparse.Namespace) -> Curve:
    """1, 2 for one seed and precision."""
    planted = PlantedSettings(seed=seed)
    settings = TrainSettings(
        design=Design(kind="crosscoder", n_features=given.features, sparsity=Sparsity(kind="topk", k=given.k)),
        n_rows=given.rows,
        batch_size=given.batch_size,
        learning_rate=5e-3,  # as benchmarks/truth.py: so short a training is not yet converged with the default
        validate_every=max(1, -(-(given.rows // given.batch_size) // given.points)),
        seed=seed,
        precision=precision,
    )
    fvu: dict[int, float] = {}

    def note(progress: TrainProgress) -> None:
        fvu[progress.step] = mean(progress.fvu)

    with tempfile.TemporaryDirectory() as folder:
        store = planted_store(Path(folder) / "store", planted, given.stored)
        started = time.monotonic()
        dictionary = train(Path(folder) / "dictionary", store, settings, on_progress=note)
        seconds = time.monotonic() - started
    models = PlantedModels(planted)
    concepts = joint_directions([models.directions(m) for m in range(2)], [s.scale for s in dictionary.spaces])
    cosine = cosines(concepts, dictionary.W_dec.detach())
    everyone = torch.ones(dictionary.n_features, dtype=torch.bool)
    return Curve(fvu=fvu, recovered=recovery(cosine, everyone, RECOVERED), seconds=seconds)


def differences(curves: dict[Precision, list[Curve]]) -> dict[str, Difference]:
    """Every quantity that both precisions have."""
    plain, rounded = curves["float32"], curves["bfloat16"]
    found = {
        f"FVU after {step} steps": paired([c.fvu[step] for c in plain], [c.fvu[step] for c in rounded])
        for step in plain[0].fvu
    }
    recovered = paired([c.recovered for c in plain], [c.recovered for c in rounded])
    return found | {f"concepts recovered at cosine {RECOVERED}": recovered}


def section(curves: dict[Precision, list[Curve]], given: argparse.Namespace) -> str:
    """The differences with what they were measured on."""
    header = ["", "fp32", "bf16", "bf16 - fp32, paired (± standard error)", "sd between seeds, fp32", "within it"]
    rows = [
        [
            name,
            f"{d.float32:.4f}",
            f"{d.bfloat16:.4f}",
            f"{d.difference:+.1e} ± {d.standard_error:.0e}",
            f"{d.between_seeds:.1e}",
            "yes" if d.within else "**no**",
        ]
        for name, d in differences(curves).items()
    ]
    seconds = {name: mean(c.seconds for c in of_one) for name, of_one in curves.items()}
    emulated = "" if bf16_units() else ", emulated here: the processor has no bf16 units"
    return "\n".join(
        [
            "## The encoder product in bf16 against fp32",
            "",
            circumstances(),
            f"Planted models (two of width 64, 200 concepts), crosscoder with F = {given.features}, k = {given.k}, "
            f"{given.rows:,} rows in batches of {given.batch_size}, {given.seeds} seeds. A run took "
            f"{seconds['float32']:.1f} s in fp32 and {seconds['bfloat16']:.1f} s in bf16{emulated}.",
            "",
            table(header, rows),
        ]
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="two at least")
    parser.add_argument("--rows", type=int, default=200_000, help="trained on")
    parser.add_argument("--stored", type=int, default=30_000, help="rows of each store")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--points", type=int, default=4, help="steps at which FVU is noted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: a spread needs two at least")
    return given


def main() -> None:
    """Train and print."""
    given = arguments()
    torch.set_num_threads(given.threads)
    curves: dict[Precision, list[Curve]] = {precision: [] for precision in PRECISIONS}
    for seed in range(given.seeds):
        for precision in PRECISIONS:
            curve = run(seed, precision, given)
            curves[precision].append(curve)
            points = ", ".join(f"{step}: {value:.4f}" for step, value in curve.fvu.items())
            print(f"seed {seed}, {precision}: FVU {points}; recovered {curve.recovered:.3f}", flush=True)
    text = section(curves, given)
    print(text)
    if given.write:
        write_section("precision", text)


if __name__ == "__main__":
    main()
