"""What crosses a bridge: maps, dictionaries carried over them, and joint dictionaries begun with two single ones.

1. Grounds: planted models; stores of language models that are given (`suture collect`), the two spaces of each.
2. On each: a dictionary of either space, the maps between the two, each dictionary carried into the other space.
3. A crosscoder from scratch, and one begun with the two single ones, each at several numbers of rows: how many rows
   scratch needs for what the other has. Recall of planted concepts that one model alone has stands beside.
4. The same of a dictionary of one space, from scratch and begun with the one that was carried into it.
5. All that were trained are compared at one L0: their thresholds get a common offset, nothing else is fitted.
6. With language models, their losses with mapped rows in place of their activations, on the documents kept back.
7. A ground's numbers are kept in --keep as soon as they are known, and not measured again.

    python benchmarks/bridges.py [--store NAME=STORE ..] [--features 1024] [--k 32] [--rows 150000] [--write]
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from results import circumstances, table, write_section

from suture.activations.settings import View
from suture.activations.store import Store
from suture.bridges.bridge import Bridge, MappedLoss, bridge
from suture.bridges.crossing import Carried, carry
from suture.bridges.ground import heldout_texts
from suture.bridges.settings import KINDS, BridgeSettings, Kind
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.dictionary.evaluate import Evaluation
from suture.dictionary.refit import refit
from suture.dictionary.refit_settings import RefitSettings
from suture.errors import ArtifactError
from suture.interventions.bridged import bridged_losses
from suture.interventions.settings import SpliceSettings
from suture.planted.generator import PlantedModels
from suture.planted.scores import best, cosines, joint_directions
from suture.planted.settings import PlantedSettings
from suture.planted.store import planted_store
from suture.stitching.joint import GENTLE, joint_start
from suture.training.result import TrainResult
from suture.training.settings import TrainSettings
from suture.training.start import FINE, Start, at_part, start_from
from suture.training.train import train

PLANTED = PlantedSettings(widths=(64, 48), exclusive=0.1)
PLANTED_ROWS = 40_000
SCRATCH, BEGUN, GENTLY = "scratch", "two single ones", "two single ones, gently"
"""Begun: k from four times its value. Gently, as the command does it: k at once, at a third of the rate."""
CARRIED = (
    ("a carried one, gently", FINE),
    ("a carried one, a third of the rate", GENTLE),
    ("a carried one, the whole rate", 1.0),
)
"""Each with its part of the usual rate; gently, as the command does it. k at once."""
FOUND_AT = 0.8
"""Cosine with a concept's joint direction above which it is found."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How dictionaries of a ground are trained."""

    n_features: int
    k: int
    single_rows: int
    scratch: tuple[int, ...]
    started: tuple[int, ...]

    def settings(self, kind: str, n_rows: int, view: View, k_start: float) -> TrainSettings:
        """One training."""
        design = Design(kind=kind, n_features=self.n_features, sparsity=Sparsity(k=self.k))  # pyright: ignore[reportArgumentType]
        return TrainSettings(design=design, n_rows=n_rows, view=view, k_start=k_start)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A dictionary that was trained: a crosscoder, or one of a single space."""

    begun: str
    n_rows: int
    fvu: tuple[float, ...]
    l0: float
    exclusive: float | None
    """Planted: share of the concepts that one model alone has that it found."""

    @property
    def mean_fvu(self) -> float:
        return sum(self.fvu) / len(self.fvu)


def single(folder: Path, store: Store, space: int, recipe: Recipe, k_start: float) -> Path:
    """A dictionary of one space, trained once."""
    out = folder / f"sae{space}"
    if not (out / "manifest.json").exists():
        train(out, store, recipe.settings("sae", recipe.single_rows, View(spaces=(space,)), k_start), resume=True)
    return out


def at_l0(path: Path, store: Store, l0: float) -> Evaluation:
    """5."""
    out = path.with_name(f"{path.name}-at-l0")
    if not (out / "manifest.json").exists():
        refit(out, path, store, RefitSettings(l0=l0, fit=()))
    found = TrainResult.load(out).evaluation
    assert found is not None
    return found


def crosscoder(
    folder: Path,
    store: Store,
    recipe: Recipe,
    n_rows: int,
    k_start: float,
    start: Start | None,
    *,
    gently: bool = False,
    planted: bool,
) -> Trained:
    """3."""
    name = SCRATCH if start is None else GENTLY if gently else BEGUN
    out = folder / f"joint-{name.split()[0 if start is None else -1]}-{n_rows}"
    settings = recipe.settings("crosscoder", n_rows, View(), k_start)
    if gently:
        settings = at_part(settings, GENTLE)
    train(out, store, settings, start=start, resume=True)
    found = at_l0(out, store, recipe.k)
    exclusive = exclusive_recall(out, store) if planted else None
    print(f"  {name} {n_rows:,}: {found.fvu} L0 {found.l0:.1f} exclusive {exclusive}", flush=True)
    return Trained(begun=name, n_rows=n_rows, fvu=tuple(found.fvu), l0=found.l0, exclusive=exclusive)


def alone(folder: Path, store: Store, recipe: Recipe, space: int, carried: Path, k_start: float) -> list[Trained]:
    """4, of one space."""
    begin, view, design = start_from(carried), View(spaces=(space,)), Dictionary.load(carried).design
    plain = [(SCRATCH, n, k_start, None, 1.0) for n in recipe.scratch]
    begun = [(name, n, 1.0, begin, part) for name, part in CARRIED for n in recipe.started]
    runs = []
    for name, n_rows, k, start, part in [*plain, *begun]:
        settings = at_part(recipe.settings("sae", n_rows, view, k), part)
        if start is not None:
            settings = replace(settings, design=replace(design, sparsity=settings.design.sparsity))
        out = folder / f"alone{space}-{round(100 * part)}-{n_rows}-{'scratch' if start is None else 'carried'}"
        train(out, store, settings, start=start, resume=True)
        found = at_l0(out, store, recipe.k)
        print(f"  space {space}, {name} {n_rows:,}: {found.fvu} L0 {found.l0:.1f}", flush=True)
        runs.append(Trained(begun=name, n_rows=n_rows, fvu=tuple(found.fvu), l0=found.l0, exclusive=None))
    if recipe.single_rows not in recipe.scratch:
        found = at_l0(folder / f"sae{space}", store, recipe.k)
        native = Trained(begun=SCRATCH, n_rows=recipe.single_rows, fvu=tuple(found.fvu), l0=found.l0, exclusive=None)
        runs.append(native)
    return sorted(runs, key=lambda run: (run.begun != SCRATCH, run.n_rows if run.begun == SCRATCH else 0))


def losses(
    store: Store, found: Bridge, settings: BridgeSettings, n_documents: int
) -> Mapping[str, Sequence[MappedLoss]]:
    """6."""
    models, how = [space.model for space in found.spaces], SpliceSettings(n_documents=n_documents)
    return bridged_losses(found, models, heldout_texts(store, settings), how).of_kinds


def exclusive_recall(path: Path, store: Store) -> float:
    """Share of the planted concepts that one model alone has that some decoder row points at."""
    dictionary, planted = Dictionary.load(path), PlantedModels(PLANTED)
    alone = torch.tensor([label != "shared" for label in planted.labels()])
    concepts = joint_directions([planted.directions(m) for m in range(2)], [s.scale for s in store.spaces])[alone]
    live = torch.ones(dictionary.n_features, dtype=torch.bool)
    return float((best(cosines(concepts, dictionary.W_dec.detach()), live) >= FOUND_AT).double().mean())


def measured(folder: Path, store: Store, recipe: Recipe, *, k_start: float, relu_rows: int, n_documents: int) -> dict:
    """2 to 6 of one ground, as plain values; planted models read no documents."""
    planted = n_documents == 0
    started = time.perf_counter()
    saes = [single(folder, store, m, recipe, k_start) for m in range(2)]
    print(f"  singles {time.perf_counter() - started:.0f} s", flush=True)
    try:
        found = Bridge.load(folder / "bridge")
    except ArtifactError:
        kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if relu_rows or kind != "relu")
        settings = BridgeSettings(relu_rows=relu_rows or 1, kinds=kinds)
        spliced = None if planted else lambda made: losses(store, made, settings, n_documents)
        found = bridge(folder / "bridge", store, settings, spliced=spliced, on_progress=lambda s: print(s, flush=True))
    print(f"  {found}", flush=True)
    carried = [carry(folder / f"carried{m}", found, saes[m], native=saes[1 - m], overwrite=True) for m in range(2)]
    print(*carried, sep="\n", flush=True)
    there = [alone(folder, store, recipe, 1 - m, folder / f"carried{m}", k_start) for m in range(2)]
    begin = joint_start(saes, recipe.n_features)
    runs = [crosscoder(folder, store, recipe, n, k_start, None, planted=planted) for n in recipe.scratch]
    runs += [crosscoder(folder, store, recipe, n, 4.0, begin, planted=planted) for n in recipe.started]
    runs += [crosscoder(folder, store, recipe, n, 1.0, begin, gently=True, planted=planted) for n in recipe.started]
    return {
        "recipe": asdict(recipe),
        "spaces": [f"{space.label.rsplit('/', 1)[-1]} ({space.width})" for space in store.spaces],
        "n_rows": len(store),
        "kinds": list(found.maps),
        "bridge": {
            name: found.scores[name].tolist()
            for name in ("r2", "r2_low", "r2_high", "control", "r2_texts", "loss", "loss_clean", "recovered")
        },
        "penalty": found.scores["penalty"].tolist(),
        "n_documents": n_documents,
        "seconds": found.scores["seconds"][:, 0].tolist(),
        "carried": [told(one) for one in carried],
        "runs": [asdict(run) | {"mean_fvu": run.mean_fvu} for run in runs],
        "alone": [[asdict(run) | {"mean_fvu": run.mean_fvu} for run in own] for own in there],
    }


def told(carried: Carried) -> dict:
    """A carried dictionary's numbers."""
    return asdict(carried.summary)


def report(name: str, found: Mapping) -> list[str]:
    """A ground's tables."""
    a, b = found["spaces"]
    recipe = found["recipe"]
    size = (
        f"### {name}\n\nA: {a}, B: {b}; {found['n_rows']:,} rows; {recipe['n_features']:,} features, "
        f"k = {recipe['k']}, single dictionaries of {recipe['single_rows']:,} rows."
    )
    scores = found["bridge"]
    rows = [
        [kind, *(cell(scores, i, way) for way in range(2)), *(f"{scores['control'][i][w]:.3f}" for w in range(2)),
         *(f"{scores['r2_texts'][i][w]:.3f}" for w in range(2)), f"{found['seconds'][i]:.0f}"]
        for i, kind in enumerate(found["kinds"])
    ]  # fmt: skip
    head = ["map", "R² A to B (95 %)", "B to A", "control, A to B", "B to A", "texts, A to B", "B to A", "s"]
    parts = [size, table(head, rows)]
    if scores["loss"][0][0] == scores["loss"][0][0]:
        parts.append(f"Nats per token on {found['n_documents']} documents kept back, the other's rows in their place:")
        parts.append(table(LOSSES, loss_rows(found)))
    parts += [table(CARRIED_HEAD, carried_rows(found)), table(RUNS, run_rows(found["runs"])), sentence(found["runs"])]
    for way, runs in zip(WAYS, found["alone"], strict=True):
        parts += [f"In {way[-1]}, one space:", table(RUNS, run_rows(runs)), sentence(runs)]
    return parts


def cell(scores: Mapping, i: int, way: int) -> str:
    r2, low, high = (scores[name][i][way] for name in ("r2", "r2_low", "r2_high"))
    return f"{r2:.3f} ({low:.3f} to {high:.3f})"


WAYS = ("A to B", "B to A")
LOSSES = ("map", "loss, A to B", "recovered", "loss, B to A", "recovered")
CARRIED_HEAD = (
    "carried", "at home", "the map alone", "zero-shot", "threshold", "refitted", "native, same L0", "gap closed", "L0",
    "survive", "fade", "lost", "dead",
)  # fmt: skip
RUNS = ("begun with", "rows", "FVU", "mean", "L0", "exclusive concepts found")


def loss_rows(found: Mapping) -> list[list[str]]:
    """Nats per token of the model mapped to, and the part of what the mean costs that is recovered."""
    scores = found["bridge"]
    clean = ["its own activations", *(x for w in range(2) for x in (f"{scores['loss_clean'][0][w]:.3f}", "1.00"))]
    rows = [
        [kind, *(x for w in range(2) for x in (f"{scores['loss'][i][w]:.3f}", f"{scores['recovered'][i][w]:.2f}"))]
        for i, kind in enumerate(found["kinds"])
    ]
    return [clean, *rows]


def carried_rows(found: Mapping) -> list[list[str]]:
    rows = []
    for way, one in zip(WAYS, found["carried"], strict=True):
        fvu = [one[fit]["fvu"] for fit in ("zero_shot", "threshold", "refitted", "native_at_l0")]
        numbers = [one["at_home"]["fvu"], one["map_fvu"], *fvu]
        counts = [f"{one['survival'][label]:,}" for label in ("survives", "fades", "lost", "dead")]
        closed = "-" if one["gap_closed"] is None else f"{one['gap_closed']:.2f}"
        rows.append([way, *(f"{v:.3f}" for v in numbers), closed, f"{one['refitted']['l0']:.1f}", *counts])
    return rows


def run_rows(runs: Sequence[Mapping]) -> list[list[str]]:
    return [
        [
            run["begun"], f"{run['n_rows']:,}", " ".join(f"{v:.3f}" for v in run["fvu"]), f"{run['mean_fvu']:.3f}",
            f"{run['l0']:.1f}", "-" if run["exclusive"] is None else f"{run['exclusive']:.2f}",
        ]
        for run in runs
    ]  # fmt: skip


def rows_from_scratch(fvu: float, runs: Sequence[Mapping]) -> float:
    """Rows after which a run from scratch has this FVU, between those that were made; infinite beyond the longest.

    Between two runs FVU goes evenly with the logarithm of the rows. Above the shortest one's it is 0: not known.
    """
    scratch = sorted((run["n_rows"], run["mean_fvu"]) for run in runs if run["begun"] == SCRATCH)
    if fvu > scratch[0][1]:
        return 0.0
    for (n, worse), (more, better) in pairwise(scratch):
        if better <= fvu <= worse:
            return n * (more / n) ** ((worse - fvu) / max(worse - better, 1e-12))
    return scratch[0][0] if fvu == scratch[0][1] else math.inf


def sentence(runs: Sequence[Mapping]) -> str:
    """How many rows from scratch every started run is worth."""
    scratch = [run["n_rows"] for run in runs if run["begun"] == SCRATCH]
    said = []
    for run in runs:
        if run["begun"] != SCRATCH:
            n = rows_from_scratch(run["mean_fvu"], runs)
            words = f"as good as {n:,.0f} from scratch ({n / run['n_rows']:.1f} times as many)"
            if n == 0:
                words = f"worse than {min(scratch):,} from scratch"
            elif n == math.inf:
                words = f"better than {max(scratch):,} from scratch"
            said.append(f"{run['n_rows']:,} rows from {run['begun']}: {words}")
    return "Between the runs from scratch, by the logarithm of their rows: " + "; ".join(said) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", default=[], metavar="NAME=STORE")
    parser.add_argument("--planted", action="store_true", help="the planted ground too")
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rows", type=int, default=150_000, help="of the single dictionaries")
    parser.add_argument("--scratch", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--started", type=int, nargs="+", default=[25_000, 50_000])
    parser.add_argument("--relu-rows", type=int, default=200_000, help="0: no map with a hidden layer")
    parser.add_argument("--documents", type=int, default=6, help="of those kept back, for the models' losses")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep results in this folder, and go on with what is there")
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = dict(one.split("=", 1) for one in options.store)
    with tempfile.TemporaryDirectory() as temporary:
        keep: Path = options.keep or Path(temporary)
        keep.mkdir(parents=True, exist_ok=True)
        if options.planted:
            recipe = Recipe(n_features=256, k=5, single_rows=200_000, scratch=(50_000, 100_000, 200_000, 400_000),
                            started=(25_000, 50_000, 100_000))  # fmt: skip
            ground(keep, "planted", None, recipe, k_start=4.0, relu_rows=options.relu_rows, n_documents=0)
        recipe = Recipe(
            n_features=options.features, k=options.k, single_rows=options.rows,
            scratch=tuple(options.scratch), started=tuple(options.started),
        )  # fmt: skip
        for name, store in given.items():
            ground(
                keep, name, Path(store), recipe, k_start=2.0, relu_rows=options.relu_rows, n_documents=options.documents
            )
        text = "\n\n".join(all_of(keep))
    print(text)
    if options.write:
        write_section("bridges", text)


def ground(
    keep: Path, name: str, store: Path | None, recipe: Recipe, *, k_start: float, relu_rows: int, n_documents: int
) -> None:
    """7."""
    record = keep / f"{name}.json"
    if record.exists():
        return
    print(name, flush=True)
    folder = keep / name
    folder.mkdir(exist_ok=True)
    if store is None and not (folder / "store").exists():
        planted_store(folder / "store", PLANTED, PLANTED_ROWS)
    opened = Store.open(store or folder / "store")
    found = measured(folder, opened, recipe, k_start=k_start, relu_rows=relu_rows, n_documents=n_documents)
    record.write_text(json.dumps(found), encoding="utf-8")


def all_of(keep: Path) -> Sequence[str]:
    """The section."""
    load = f"Load average {os.getloadavg()[1]:.1f}; seconds are those of a shared machine."
    parts = ["## Bridges", circumstances(("torch", "scipy")), load]
    for record in sorted(keep.glob("*.json"), key=lambda file: (file.stem != "planted", file.stem)):
        parts += report(record.stem, json.loads(record.read_text(encoding="utf-8")))
    return parts


if __name__ == "__main__":
    main()
