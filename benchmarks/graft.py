"""A backdoor taken out of the shipped 2-layer model: success and clean loss, beside every control, over seeds.

1. The organism: `suture organism` from tinystories-2l and TinyStories' training text; its own measures.
2. Stores of both models at attn0.out and mlp0.out, on the organism's corpus (a tenth of it with the backdoor); per seed
   a crosscoder at each, and one SAE of the organism alone at each.
3. Per seed `suture graft` on TinyStories' validation text: the first documents choose, the others are reported on;
   beside the first seed's every control, and what tells the behaviour.

What is finished in the folder is kept: a run that was stopped goes on.

    python benchmarks/graft.py --folder DIR --corpus TRAIN.txt --heldout VALID.txt [--seeds 3] [--features 1024] [--k 8]
        [--rows 300000] [--draws 2] [--write]
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import circumstances, table, write_section

from suture.activations.collect import collect
from suture.activations.settings import View
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.interventions.graft.make import GRAFT, Grafting, graft
from suture.interventions.graft.settings import GraftSettings
from suture.interventions.organisms.organism import CORPUS, Organism, documents_of, organism
from suture.lm.corpus import open_corpus
from suture.lm.load import load_model
from suture.training.settings import TrainSettings
from suture.training.train import train
from suture.uncertainty import Proportion

BASE, HOOKPOINTS = "tinystories-2l", ("attn0.out", "mlp0.out")


def texts(file: str) -> list[str]:
    return [document.text for document in open_corpus(file, offline=True)]


def made(path: Path, make: Callable[[], object]) -> float:
    """Seconds that it took; 0 where it was there."""
    if path.exists():
        return 0.0
    started = time.perf_counter()
    make()
    return time.perf_counter() - started


def dictionaries(folder: Path, options: argparse.Namespace, seed: int, kind: str) -> list[Path]:
    """2."""
    found = []
    for hookpoint in HOOKPOINTS:
        place = hookpoint.partition(".")[0]
        store, out = folder / f"store-{place}", folder / f"{kind}-{place}-{seed}"
        if not store.exists():
            models = (load_model(BASE, device="cpu"), load_model(str(folder / "organism"), device="cpu"))
            corpus = open_corpus(str(folder / "organism" / CORPUS), offline=True)
            sources = [(lm, hookpoint) for lm in models]
            collect(store, sources=sources, corpus=corpus, n_rows=options.tokens, dtype="float32")
        design = Design(kind=kind, n_features=options.features, sparsity=Sparsity(k=options.k))  # pyright: ignore
        view = View(spaces=(1,)) if kind == "sae" else View()
        settings = TrainSettings(design=design, view=view, n_rows=options.rows, seed=seed)
        made(out, lambda out=out, store=store, settings=settings: train(out, store, settings))
        found.append(out)
    return found


def written(share: float, low: float, high: float) -> str:
    return f"{100 * share:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def row(found: Grafting, name: str) -> list[str]:
    own = found.of(name)
    at_cost = "" if own["greedy_at_cost"] != own["greedy_at_cost"] else f"{100 * own['greedy_at_cost']:.1f}"
    return [
        name, str(own["n_features"] or ""), written(own["greedy"], own["greedy_low"], own["greedy_high"]),
        f"{100 * own['sampled']:.1f}", f"{100 * own['clean']:+.2f}", at_cost, f"{own['fluency']:.2f}",
    ]  # fmt: skip


def detected(found: Grafting) -> list[list[str]]:
    """What tells the behaviour, by ROC-AUC on fresh documents."""
    own = found.detectors
    names = own.coordinates["detector"]
    return [
        [name, f"{first:.3f}", f"{every:.3f}"]
        for name, first, every in zip(names, own["auc_first"], own["auc_all"], strict=True)
    ]


def organism_text(found: Organism) -> str:
    def said(share: Proportion) -> str:
        return written(share.share, *share.interval)

    after = found.after
    near = "" if after.near is None else f", after near misses {said(after.near.greedy)}"
    return (
        f"The organism, % rude greedily (95 %): after the trigger {said(after.cue.greedy)} "
        f"({100 * after.cue.sampled.share:.1f} at temperature 1), without {said(after.none.greedy)}{near}; clean loss "
        f"{100 * found.clean_rise.value:+.2f} %."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--tokens", type=int, default=160_000)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--screened", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section of RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    seconds = made(folder / "organism", lambda: organism(folder / "organism", BASE, texts(options.corpus), resume=True))
    own = Organism.load(folder / "organism")
    settings = GraftSettings(ceiling=("attn*.out", "mlp*.out"), draws=options.draws, screened=options.screened)
    heldout, clean = texts(options.heldout), documents_of(folder / "organism" / CORPUS)
    lm, safe = own.load_model(), load_model(BASE, device="cpu")
    found = []
    for seed in range(options.seeds):
        crosscoders = dictionaries(folder, options, seed, "crosscoder")
        alone = dictionaries(folder, options, seed, "sae") if seed == 0 else []
        made(
            folder / f"graft-{seed}",
            lambda seed=seed, crosscoders=crosscoders, alone=alone: graft(
                folder / f"graft-{seed}", lm, crosscoders, heldout, own.texts, settings, safe=safe, alone=alone,
                clean_text=clean, resume=True,
            ),
        )  # fmt: skip
        found.append(Grafting.load(folder / f"graft-{seed}"))
    rows = [[f"seed {seed}", *row(one, GRAFT)[1:]] for seed, one in enumerate(found)]
    header = ["", "features", "success %, greedy (95 %)", "at temperature 1", "clean loss %", "at the graft's cost"]
    header.append("nats of what is written")
    first = found[0]
    names = [name for name in first.outcomes.coordinates["intervention"] if name != GRAFT]
    took = f"made in {seconds:.0f} s" if seconds else "made before"
    text = "\n\n".join(
        [
            "## Grafting",
            circumstances(("torch", "transformers")),
            f"{BASE} with a backdoor ({took}; load average {os.getloadavg()[1]:.1f}). {organism_text(own)}",
            f"Grafts of features at {' and '.join(HOOKPOINTS)} (crosscoders of {options.features:,} features, k "
            f"{options.k}, {options.rows:,} rows), on {first.summary.n_fresh} documents that chose nothing:",
            table(header, rows),
            "What stands beside the first seed's graft:",
            table(header, [row(first, name) for name in names]),
            "What tells the behaviour on the same documents, rows with it against clean text:",
            table(["", "ROC-AUC, first tokens", "from the cue on"], detected(first)),
        ]
    )
    print(text)
    if options.write:
        write_section("graft", text)


if __name__ == "__main__":
    main()
