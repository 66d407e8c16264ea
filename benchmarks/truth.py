"""Does the pipeline tell the truth? Planted models, the real trainer, the real labels, scores against what was planted.

1. Per condition and seed: plant two models (64 dimensions each, 200 concepts, a tenth of them exclusive to each model),
   write a store, train a crosscoder and a pooled dictionary, label their features. The conditions are the three
   embedding modes and `hard`: rotation with a hierarchy, correlated firing, misaligned rows and three times the noise.
2. Score the crosscoder: recovery, matching, confusion of labels, exclusivity; and the pooled dictionary, whose
   features have one direction, against each model's directions.
3. The same for model A against a rotated copy of itself: there every feature labelled exclusive is false.
4. Means over seeds with 95 % intervals (Student's t).

    python benchmarks/truth.py [--seeds 3] [--workers 2] [--only rotation] [--write]
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from results import machine, write_section
from scipy.stats import t as student

from suture.activations.store import Store
from suture.dictionary.design import Design, DesignKind
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.settings import TrainSettings
from suture.dictionary.sparsity import Sparsity
from suture.dictionary.train import train
from suture.features.step import FeatureSettings, features
from suture.features.table import FeatureTable
from suture.planted.generator import PlantedModels
from suture.planted.scores import FOUND_LABELS, TRUE_LABELS, cosines, score_dictionary
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store

CONDITIONS = {
    "rotation": PlantedSettings(embedding="rotation"),
    "affine": PlantedSettings(embedding="affine"),
    "independent": PlantedSettings(embedding="independent"),
    "hard": PlantedSettings(child_share=0.2, correlation=0.3, misaligned=0.1, noise=(0.3,)),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a run."""

    n_stored: int = 60_000
    """Rows in each store."""
    n_rows: int = 600_000
    """Rows trained on (the store is gone over several times)."""
    n_features: int = 512
    k: int = 8
    batch_size: int = 1024
    learning_rate: float | None = 5e-3
    """Twice the trainer's default for this size: so short a training is not yet converged otherwise."""


def trained(store: Store, folder: Path, kind: DesignKind, plan: Plan, seed: int) -> tuple[Dictionary, FeatureTable]:
    """A dictionary of this design and its feature table."""
    design = Design(kind=kind, n_features=plan.n_features, sparsity=Sparsity(kind="topk", k=plan.k))
    settings = TrainSettings(
        design=design,
        n_rows=plan.n_rows,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        validate_every=10**9,
        seed=seed,
    )
    dictionary = train(folder / kind, store, settings)
    return dictionary, features(folder / f"features-{kind}", folder / kind, store, FeatureSettings())


def crosscoder_numbers(models: PlantedModels, dictionary: Dictionary, table: FeatureTable) -> dict[str, Any]:
    """2: the joint dictionary's scores."""
    live = torch.tensor([label != "dead" for label in table.labels])
    scores = score_dictionary(
        [models.directions(m) for m in range(2)],
        [dictionary.decoder(m) for m in range(2)],
        [space.scale for space in dictionary.spaces],
        live,
        table.labels,
        models.labels(),
    )
    return asdict(scores) | {"fvu": sum(table.summary["fvu"]) / 2, "live": int(live.sum())}


def pooled_numbers(models: PlantedModels, dictionary: Dictionary, table: FeatureTable) -> dict[str, Any]:
    """2: each model's directions against the one decoder, and whether features are labelled as what they can be.

    A pooled feature has one direction. Here no concept has the same direction in both models, so every direction that
    was found belongs to one model, and that model's letter is its only true label.
    """
    live = torch.tensor([label != "dead" for label in table.labels])
    found, labels = [], []
    for m in range(2):
        cosine = cosines(models.directions(m), dictionary.decoder(m)) * live
        value, feature = cosine.max(dim=1)
        found.append((value >= 0.9)[models.presence[:, m]])
        labels += [(table.labels[i], "AB"[m]) for i in feature[value >= 0.9].tolist()]
    return {
        "recovery_90": float(torch.cat(found).double().mean()),
        "labelled_own": sum(found == own for found, own in labels) / max(len(labels), 1),
        "labelled_shared": sum(found == "shared" for found, _ in labels) / max(len(labels), 1),
        "fvu": sum(table.summary["fvu"]) / 2,
        "live": int(live.sum()),
    }


def one_run(job: tuple[str, int], plan: Plan) -> dict[str, Any]:
    """1-3 for one condition and seed."""
    condition, seed = job
    torch.set_num_threads(1)
    settings = replace(CONDITIONS[condition], seed=seed)
    models = PlantedModels(settings)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = planted_store(folder / "store", settings, plan.n_stored)
        crosscoder = crosscoder_numbers(models, *trained(store, folder, "crosscoder", plan, seed))
        pooled = pooled_numbers(models, *trained(store, folder, "pooled", plan, seed))
        null_folder = folder / "null"
        null_store = planted_store(null_folder / "store", settings.as_null("rotated"), plan.n_stored)
        _, null_table = trained(null_store, null_folder, "crosscoder", plan, seed)
    return {
        "condition": condition,
        "seed": seed,
        "crosscoder": crosscoder,
        "pooled": pooled,
        "null": {"false": null_table.summary["false_positive_rate"], "counts": null_table.counts},
        "seconds": time.monotonic() - started,
    }


def interval(values: Sequence[float]) -> str:
    """Mean and half the width of its 95 % interval, as text."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    if len(known) == 1:
        return f"{mean:.3f}"
    deviation = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5
    half = float(student.ppf(0.975, len(known) - 1)) * deviation / len(known) ** 0.5
    return f"{mean:.3f} ± {half:.3f}"


def tables(runs: list[dict[str, Any]]) -> str:
    """4: the runs as Markdown."""
    names = [name for name in CONDITIONS if any(run["condition"] == name for run in runs)]
    columns = {name: [run for run in runs if run["condition"] == name] for name in names}
    rows = [
        ("crosscoder: recovered at cosine 0.8", "crosscoder", "recovery_80"),
        ("crosscoder: recovered at cosine 0.9", "crosscoder", "recovery_90"),
        ("crosscoder: exclusive concepts recovered at 0.9", "crosscoder", "recovery_90_exclusive"),
        ("crosscoder: MMCS", "crosscoder", "mmcs"),
        ("crosscoder: MCC (Hungarian)", "crosscoder", "mcc"),
        ("crosscoder: macro-F1 of A / B / shared", "crosscoder", "macro_f1"),
        ("crosscoder: AUROC of exclusivity", "crosscoder", "auroc"),
        ("crosscoder: FVU", "crosscoder", "fvu"),
        ("crosscoder on the rotated null: labelled exclusive", "null", "false"),
        ("pooled: (concept, model) directions recovered at 0.9", "pooled", "recovery_90"),
        ("pooled: of those, labelled as their model's own", "pooled", "labelled_own"),
        ("pooled: of those, labelled shared (wrongly)", "pooled", "labelled_shared"),
        ("pooled: FVU", "pooled", "fvu"),
    ]
    lines = [f"| mean ± 95 % over seeds | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for title, part, key in rows:
        lines.append(f"| {title} | {' | '.join(interval([r[part][key] for r in columns[n]]) for n in names)} |")
    lines += ["", "Concepts by true label (rows) and found label (columns), summed over seeds:", ""]
    lines += [f"| condition | planted | {' | '.join(FOUND_LABELS)} |", "|---" * (len(FOUND_LABELS) + 2) + "|"]
    for name in names:
        total = sum(torch.tensor(r["crosscoder"]["confusion"]) for r in columns[name])
        assert isinstance(total, torch.Tensor)
        lines += [
            f"| {name} | {label} | {' | '.join(str(v) for v in row)} |"
            for label, row in zip(TRUE_LABELS, total.tolist(), strict=True)
        ]
    return "\n".join(lines)


def section(runs: list[dict[str, Any]], plan: Plan, seconds: float) -> str:
    """The results with what they were measured on."""
    seeds = len({run["seed"] for run in runs})
    return "\n".join(
        [
            "## Planted truth",
            "",
            f"`python benchmarks/truth.py`, {datetime.now(UTC):%Y-%m-%d}, {machine()}; {seeds} seeds, {seconds:.0f} s.",
            "Two models of width 64, 200 concepts, 10 % exclusive to each; "
            f"F = {plan.n_features}, TopK k = {plan.k}, {plan.n_rows:,} rows in batches of {plan.batch_size}, "
            f"learning rate {plan.learning_rate or 'as the trainer chooses'}.",
            "",
            tables(runs),
        ]
    )


def main() -> None:
    """Run the jobs on some processes and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=CONDITIONS, help="one condition")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, help="also write every run's numbers there")
    for name, default in asdict(Plan()).items():
        kind = float if name == "learning_rate" else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    given = parser.parse_args()
    plan = Plan(**{name: getattr(given, name) for name in asdict(Plan())})
    jobs = [(name, seed) for seed in range(given.seeds) for name in CONDITIONS if given.only in (None, name)]
    started, runs = time.monotonic(), []
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for run in pool.map(partial(one_run, plan=plan), jobs):
            runs.append(run)
            found, false = run["crosscoder"], run["null"]["false"]
            print(
                f"{run['condition']} seed {run['seed']}: {run['seconds']:.0f} s, recovered {found['recovery_90']:.3f}, "
                f"macro-F1 {found['macro_f1']:.3f}, false on the null {false:.3f}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(runs, indent=1))
    text = section(runs, plan, time.monotonic() - started)
    print(text)
    if given.write:
        write_section("truth", text)


if __name__ == "__main__":
    main()
